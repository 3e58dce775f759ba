"""Runs: what training logged, one run by itself and several beside each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import QueryParameter
from litestar.response import Redirect

from mlbox.errors import InvalidInput
from mlbox.records import Run
from mlbox.web.box import Box
from mlbox.web.pages import run_table
from mlbox.web.pages.view import Node, View, part

MAX_POINTS = 600
"""Points of one line: more than a screen has pixels for adds nothing but weight."""
MAX_COMPARED = 200
MOST_AXES = 12
POINTS_IN_ALL = 7200
"""That the lines of one chart share, so that many runs do not weigh more than a few."""
MAX_DATASETS = 8
"""That are drawn beside each other."""


Texts = Annotated[list[str] | None, QueryParameter()]


def _state(
    view: View, experiment: Sequence[str] | None, column: Sequence[str] | None, pin: Sequence[str] | None
) -> run_table.State:
    said = view.query
    return run_table.State(
        experiments=tuple(text for text in experiment or () if text),
        filter=said.get("filter", "").strip(),
        order=said.get("order", ""),
        group=said.get("group", ""),
        flat=bool(said.get("flat")),
        column=tuple(text for text in column or () if text),
        pin=tuple(text for text in pin or () if text),
    )


@get("/runs", include_in_schema=False, action="run.read")
async def runs(
    view: View, experiment: Texts = None, column: Texts = None, pin: Texts = None, after: str | None = None
) -> Response[bytes]:
    """All runs, newest first, or as the address says."""
    state = _state(view, experiment, column, pin)
    own = await view.box.call(_own, view, state)
    if own:
        return Redirect(f"/runs?{urlencode([('experiment', one) for one in state.experiments])}&{own}")
    wrong = run_table.wrong(state.filter)
    status = 400 if wrong else 200
    return await view.page("runs.html", lambda: run_table.fetch(view, state, after, wrong), status=status)


def _own(view: View, state: run_table.State) -> str:
    """The view that whoever asks keeps of what they ask for, where they said nothing else."""
    if (
        view.principal is None
        or len(state.experiments) > 1
        or any(text for name, text in view.query.items() if name != "experiment")
    ):
        return ""
    return view.box.run_views.get(view.principal.name, "".join(state.experiments))


@get("/runs/columns", include_in_schema=False, action="run.read")
async def chooser(view: View, experiment: Texts = None, column: Texts = None, pin: Texts = None) -> Response[bytes]:
    """Which columns the table of runs has."""
    state = _state(view, experiment, column, pin)
    return await view.page("run_columns.html", lambda: run_table.choices(view, state))


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


handlers: list[Any] = [runs, chooser, run, compare]
