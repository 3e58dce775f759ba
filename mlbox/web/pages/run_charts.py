"""Charts of runs as their pages carry them: which metrics there are. Their points a chart reads once it is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.clock import to_us
from mlbox.records import Run
from mlbox.store.tracking.runs import ENDED
from mlbox.web.box import Box
from mlbox.web.pages.form import natural

SYSTEM = "system/"


class Curve(NamedTuple):
    """A chart of one metric."""

    key: str
    last: float | None
    """Its last value, where the chart is of one run."""
    label: str


class CurveSet(NamedTuple):
    """Charts that are drawn in the same way."""

    title: str
    system: bool
    runs: list[dict[str, Any]]
    live: bool
    charts: list[Curve]


def curve_sets(box: Box, runs: Sequence[Run]) -> list[CurveSet]:
    """The metrics of some runs and what the machine measured meanwhile, those that are more than a single point."""
    drawn = [
        {"id": run.id, "label": name, "began": to_us(run.started_at) // 1000}
        for run, name in zip(runs, titles(runs), strict=True)
    ]
    live = any(run.status not in ENDED for run in runs)
    keys = sorted(box.tracker.points([run.id for run in runs]), key=natural)
    sets = []
    for name, system in (("Metrics", False), ("System", True)):
        charts = [_curve(runs, key) for key in keys if key.startswith(SYSTEM) == system]
        if charts or (live and not system):
            sets.append(CurveSet(name, system, drawn, live, charts))
    return sets


def _curve(runs: Sequence[Run], key: str) -> Curve:
    if len(runs) > 1:
        return Curve(key, None, f"{key} as it was logged, a line for each run")
    last = runs[0].metrics[key].value if key in runs[0].metrics else None
    return Curve(key, last, f"{key} as it was logged; the last value is {last}")


def title(run: Run) -> str:
    """What a run is called: its name, or the end of its id."""
    return run.name or run.id[-8:]


def titles(runs: Sequence[Run]) -> list[str]:
    """What several runs are called, with the end of the id where two would be called the same."""
    counts = Counter(title(run) for run in runs)
    return [title(run) if counts[title(run)] == 1 else f"{title(run)} {run.id[-6:]}" for run in runs]
