"""Runs: the table of what training logged, and one run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import QueryParameter
from litestar.response import Redirect

from mlbox.records import Run
from mlbox.web.pages import run_table
from mlbox.web.pages.run_charts import curve_sets, title
from mlbox.web.pages.view import Node, View, part

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


# -- one ---------------------------------------------------------------------------------------------------


def _run(view: View, run_id: str) -> dict[str, Any]:
    box = view.box
    run = box.tracker.run(run_id)
    versions = part(lambda: box.registry.of_run(run_id)).value or []
    return {
        "run": run,
        "title": title(run),
        "experiment": next((e.name for e in box.tracker.experiments() if e.id == run.experiment_id), ""),
        "sets": curve_sets(box, [run]),
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


handlers: list[Any] = [runs, chooser, run]
