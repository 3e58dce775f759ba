"""Runs: the table of what training logged, and one run by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import QueryParameter
from litestar.response import Redirect

from mlbox.records import Run
from mlbox.store.tracking.run_filters import PARENT
from mlbox.store.tracking.run_words import quoted_text
from mlbox.web.pages import file_view, run_table
from mlbox.web.pages.jobs import OPEN
from mlbox.web.pages.run_charts import curve_sets, title
from mlbox.web.pages.view import Node, View, part

MAX_DATASETS = 8
"""That are drawn beside each other."""


Texts = Annotated[list[str] | None, QueryParameter()]


def _state(
    view: View,
    experiment: Sequence[str] | None,
    column: Sequence[str] | None,
    pin: Sequence[str] | None,
    shown: Sequence[str] | None = None,
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
        shown=tuple(text for text in shown or () if text),
    )


@get("/runs", include_in_schema=False, action="run.read")
async def runs(
    view: View,
    experiment: Texts = None,
    column: Texts = None,
    pin: Texts = None,
    shown: Texts = None,
    after: str | None = None,
) -> Response[bytes]:
    """All runs, newest first, or as the address says."""
    state = _state(view, experiment, column, pin, shown)
    own = await view.box.call(_own, view, state)
    if own:
        return Redirect(f"/runs?{urlencode([('experiment', one) for one in state.experiments])}&{own}")
    wrong = run_table.wrong(state.filter)
    status = 400 if wrong else 200
    return await view.page("runs.html", lambda: run_table.fetch(view, state, after, wrong), status=status)


def _own(view: View, state: run_table.State) -> str:
    """The view that whoever asks keeps of what they ask for, where they said nothing else."""
    if any(text for name, text in view.query.items() if name != "experiment"):
        return ""
    return run_table.own_query(view, state)


@get("/runs/columns", include_in_schema=False, action="run.read")
async def chooser(view: View, experiment: Texts = None, column: Texts = None, pin: Texts = None) -> Response[bytes]:
    """Which columns the table of runs has."""
    state = _state(view, experiment, column, pin)
    return await view.page("run_columns.html", lambda: run_table.choices(view, state))


# -- one ---------------------------------------------------------------------------------------------------


MOST_FILES = 500
"""That a page lists."""


def _run(view: View, run_id: str) -> dict[str, Any]:
    box = view.box
    run = box.tracker.run(run_id)
    versions = part(lambda: box.registry.of_run(run_id)).value or []
    job_id = run.job_id
    job = part(lambda: box.scheduler.find(job_id)).value if job_id else None
    files = box.tracker.artifacts_of(run_id)
    return {
        "run": run,
        "title": title(run),
        "experiment": next((e.name for e in box.tracker.experiments() if e.id == run.experiment_id), ""),
        "sets": curve_sets(box, [run]),
        "artifacts": files[:MOST_FILES],
        "more_files": max(0, len(files) - MOST_FILES),
        "nodes": _nodes(run, [version.ref for version in versions]),
        "job": job,
        "may_rerun": job is not None and job.state not in OPEN and view.may_somewhere("member"),
        "may_delete": run.deleted_at is None and view.may("member", name=box.tracker.experiment_of(run_id)),
        "diff": file_view.code_diff(box, job),
        "nested": box.run_search.children([run_id]).get(run_id, 0),
        "within": run_table.State(filter=f"tags.{PARENT} = {quoted_text(run_id)}").address(),
        "parent": _parent(view, run),
    }


def _parent(view: View, run: Run) -> Run | None:
    """The run that it is nested in, where that is known."""
    above = run.tags.get(PARENT)
    return next(iter(view.box.tracker.by_ids([above])), None) if above and above != run.id else None


def _file(view: View, run_id: str, path: str) -> dict[str, Any]:
    run = view.box.tracker.run(run_id)
    file = view.box.tracker.artifact(run_id, path)
    return {"run": run, "title": title(run), "file": file, "seen": file_view.see(view.box, run_id, file)}


@get("/runs/{run_id:str}/files/{path:path}", include_in_schema=False, action="run.read")
async def run_file(view: View, run_id: str, path: str) -> Response[bytes]:
    """One file of a run, to look at."""
    return await view.page("run_file.html", lambda: _file(view, run_id, path.removeprefix("/")))


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


handlers: list[Any] = [runs, chooser, run, run_file]
