"""Runs: what training logged, one run by itself and several beside each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.errors import InvalidInput
from mlbox.records import Run
from mlbox.web.box import Box
from mlbox.web.pages.view import PAGE_SIZE, Node, View, keyset, next_page, part

COLUMNS = 4
"""Metrics that the list shows: those that most of its runs have."""
MAX_POINTS = 600
"""Points of one line: more than a screen has pixels for adds nothing but weight."""
MAX_COMPARED = 200
MOST_AXES = 12
POINTS_IN_ALL = 7200
"""That the lines of one chart share, so that many runs do not weigh more than a few."""
MAX_DATASETS = 8
"""That are drawn beside each other."""


def common_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics that most of the runs have, by name."""
    counts = Counter(key for run in runs for key in run.metrics)
    return sorted(key for key, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLUMNS])


def _list(view: View, experiment: str | None, after: str | None) -> dict[str, Any]:
    tracker = view.box.tracker
    found = tracker.runs(experiment=experiment or None, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda run: run.id)
    experiments = tracker.experiments()
    return {
        "runs": shown,
        "next": next_page(view, last),
        "columns": common_metrics(shown),
        "experiments": experiments,
        "names": {one.id: one.name for one in experiments},
        "experiment": experiment or "",
    }


@get("/runs", include_in_schema=False, action="run.read")
async def runs(view: View, experiment: str | None = None, after: str | None = None) -> Response[bytes]:
    """All runs, newest first."""
    return await view.page("runs.html", lambda: _list(view, experiment, after))


# -- charts -------------------------------------------------------------------------------------------------------------


def drawn_points(box: Box, run_id: str, key: str, most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """A metric's line: every point, or the extremes of each bucket of steps."""
    return box.tracker.curve(run_id, key, most=most).points


def charts(box: Box, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A chart for each metric that has a history: a line for each run."""
    drawn = []
    most = min(MAX_POINTS, POINTS_IN_ALL // max(1, len(runs)))
    for key in sorted({key for run in runs for key in run.metrics}):
        lines = [(run, drawn_points(box, run.id, key, most)) for run in runs if key in run.metrics]
        names = dict(zip((run.id for run in runs), titles(runs), strict=True))
        series = [{"label": names[run.id], "points": points} for run, points in lines if points]
        if any(len(line["points"]) > 1 for line in series):
            last = lines[-1][0].metrics[key].value if len(lines) == 1 else None
            drawn.append({"key": key, "last": last, "spec": {"x": "step", "series": series}})
    return drawn


def title(run: Run) -> str:
    """What a run is called: its name, or the end of its id."""
    return run.name or run.id[-8:]


def titles(runs: Sequence[Run]) -> list[str]:
    """What several runs are called, with the end of the id where two would be called the same."""
    counts = Counter(title(run) for run in runs)
    return [title(run) if counts[title(run)] == 1 else f"{title(run)} {run.id[-6:]}" for run in runs]


# -- one, and several ---------------------------------------------------------------------------------------------------


def _run(view: View, run_id: str) -> dict[str, Any]:
    box = view.box
    run = box.tracker.run(run_id)
    versions = part(lambda: box.registry.of_run(run_id)).value or []
    return {
        "run": run,
        "title": title(run),
        "experiment": next((e.name for e in box.tracker.experiments() if e.id == run.experiment_id), ""),
        "charts": charts(box, [run]),
        "artifacts": box.tracker.artifacts_of(run_id),
        "nodes": _nodes(run, [version.ref for version in versions]),
    }


def _nodes(run: Run, models: Sequence[str]) -> list[Node]:
    nodes = [
        Node("dataset", ref, f"/datasets/{ref}", beside=place > 0)
        for place, ref in enumerate(run.datasets[:MAX_DATASETS])
    ]
    if run.job_id:
        nodes.append(Node("job", run.job_id[-8:], f"/jobs/{run.job_id}"))
    nodes.append(Node("run", title(run), None, here=True))
    return [*nodes, *(Node("model version", ref, f"/models/{ref}") for ref in models)]


@get("/runs/{run_id:str}", include_in_schema=False, action="run.read")
async def run(view: View, run_id: str) -> Response[bytes]:
    """One run."""
    return await view.page("run.html", lambda: _run(view, run_id))


def _compare(view: View, ids: Sequence[str]) -> dict[str, Any]:
    wanted = list(dict.fromkeys(ids))
    if not 2 <= len(wanted) <= MAX_COMPARED:
        raise InvalidInput(
            f"{len(wanted)} runs were chosen.", hint=f"Choose 2 to {MAX_COMPARED} on the page Runs.", field="run"
        )
    found = [view.box.tracker.run(run_id) for run_id in wanted]
    return {
        "runs": found,
        "titles": titles(found),
        "params": _table(found, "params"),
        "metrics": _table(found, "metrics"),
        "charts": charts(view.box, found),
        "parcoords": parcoords(found),
    }


def parcoords(runs: Sequence[Run]) -> dict[str, Any] | None:
    """What `<mlbox-parcoords>` draws: the parameters that differ, then the metrics; None where there are not two axes."""
    params = [
        (name, [_as_number(value) for value in values]) for name, values, differs in _table(runs, "params") if differs
    ]
    metrics: list[tuple[str, list[float | str | None]]] = [
        (name, [None if metric is None else _finite(metric.value) for metric in values])
        for name, values, _ in _table(runs, "metrics")
    ]
    kept = metrics[: max(MOST_AXES // 2, MOST_AXES - len(params))]
    axes = [*params[: MOST_AXES - len(kept)], *kept]
    axes = [(name, values) for name, values in axes if any(value is not None for value in values)]
    if len(axes) < 2:
        return None
    return {
        "label": "Runs by parameters and metrics",
        "axes": [{"name": name, "values": values} for name, values in axes],
        "runs": [{"name": name, "href": f"/runs/{run.id}"} for name, run in zip(titles(runs), runs, strict=True)],
    }


def _as_number(text: str | None) -> float | str | None:
    try:
        return None if text is None else _finite(float(text))
    except ValueError:
        return text


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(runs: Sequence[Run], field: str) -> list[tuple[str, list[Any], bool]]:
    """A row for each name: its value in each run, and whether they differ."""
    names = sorted({name for run in runs for name in getattr(run, field)})
    rows = [(name, [getattr(run, field).get(name) for run in runs]) for name in names]
    return [(name, values, len({str(value) for value in values}) > 1) for name, values in rows]


@get("/runs/compare", include_in_schema=False, action="run.read")
async def compare(
    view: View, run_ids: Annotated[list[str] | None, QueryParameter(name="run")] = None
) -> Response[bytes]:
    """Several runs beside each other."""
    return await view.page("compare.html", lambda: _compare(view, run_ids or []))


handlers: list[Any] = [runs, run, compare]
