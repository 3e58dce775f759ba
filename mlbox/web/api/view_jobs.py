"""Views in free Python over HTTP: a run is begun by people, and read for and fed by its own job alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.params import QueryParameter
from litestar.response import Stream

from mlbox.errors import NotAuthorised
from mlbox.records import Computation, FeatureView, Job, Principal, Record
from mlbox.store.features.functions import columns_of
from mlbox.store.sandbox.ingest import MIB
from mlbox.web.box import Box
from mlbox.web.uploads import receive_rows

ARROW_FILE = "application/vnd.apache.arrow.file"


class Task(Record, frozen=True, kw_only=True):
    """What a job is to compute."""

    computation: Computation
    view: FeatureView


@post("/api/v1/features/views/{ref:str}/run", status_code=201, action="view.materialize")
async def run_view(box: Box, ref: str, principal: Principal) -> Job:
    """Have a view in free Python computed by a job, which brings it up to date."""
    view = await box.call(box.features.view, ref)
    box.teams.require(principal, "view.materialize", name=view.name)
    return await box.call(box.view_jobs.run, view.ref, user=principal.name)


@get("/api/v1/features/computation", action="view.compute")
async def get_task(box: Box, principal: Principal) -> Task:
    """What the job that asks is to compute."""
    run = await box.call(_run_of, box, principal)
    return Task(computation=run, view=await box.call(box.features.view, run.view))


@get("/api/v1/features/computation/{source:str}", action="view.compute")
async def get_source(box: Box, source: str, principal: Principal) -> Response[Any]:
    """The rows of one of the view's sources that its function may see, as an Arrow file."""
    run = await box.call(_run_of, box, principal)
    return Stream(await box.call(_known, box, run, source), media_type=ARROW_FILE)


@post("/api/v1/features/computation/rows", request_max_body_size=None, status_code=200, action="view.compute")
async def put_rows(
    box: Box,
    principal: Principal,
    request: Request[Any, Any, Any],
    format_: Annotated[str, QueryParameter(name="format")] = "parquet",
) -> Computation:
    """What the view's function yielded: its rows, once and as a whole."""
    run = await box.call(_run_of, box, principal)
    view = await box.call(box.features.view, run.view)
    keys = tuple(key.name for key in view.join_keys)
    rows = await receive_rows(
        box, request, format_, columns_of(view), required=("event_time", *keys), optional=("arrival_time",)
    )
    return await box.call(box.view_runs.finish, run, rows)


def _run_of(box: Box, principal: Principal) -> Computation:
    if principal.job_id is None:
        raise NotAuthorised(
            "This is for the job that computes a view.", hint="Begin one with `mlbox feature run VIEW`."
        )
    return box.view_runs.of_job(principal.job_id)


def _known(box: Box, run: Computation, source: str) -> Iterator[bytes]:
    """The pieces of the file, which is gone from the disk before the first of them is sent."""
    with tempfile.TemporaryDirectory(dir=box.data_dir.root) as folder:
        path = Path(folder) / "known.arrow"
        box.features.write_known(box.features.view(run.view), source, run.as_of, path)
        file = path.open("rb")

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(MIB):
                yield piece

    return pieces()


handlers: list[Any] = [run_view, get_task, get_source, put_rows]
