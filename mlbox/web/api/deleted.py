"""What was deleted, over HTTP: deleting, taking it back, and removing it for good."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import Parameter

from mlbox.records import Collected, Deleted, Principal, Record
from mlbox.store.retention import GRACE
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class Collection(Record, frozen=True, kw_only=True):
    """What to remove for good."""

    older_than_days: Annotated[float, msgspec.Meta(ge=0, le=36500)] | None = None
    """Of what was deleted, only this; the retention that the server is set to where it is left out."""
    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = GRACE.total_seconds()
    """A file that came into use within this span stays, as its upload may not be named yet."""
    dry_run: bool = False


@delete("/api/v1/runs/{run_id:str}", action="run.delete")
async def delete_run(box: Box, principal: Principal, run_id: str) -> None:
    """Delete a run; it can be taken back for a while."""
    await box.call(box.tracker.delete, run_id, actor=principal.name)


@delete("/api/v1/experiments/{experiment_id:str}", action="experiment.write")
async def delete_experiment(box: Box, principal: Principal, experiment_id: str) -> None:
    """Delete an experiment, by its id, with its runs; it can be taken back for a while."""
    found = await box.call(box.experiments.get, experiment_id)
    box.teams.require(principal, "experiment.write", name=found.name)
    await box.call(box.experiments.delete, experiment_id, actor=principal.name)


@get("/api/v1/deleted", action="deleted.read")
async def list_deleted(box: Box, limit: Limit = 100, after: str | None = None) -> list[Deleted]:
    """What was deleted and can be taken back, the latest first; `after` is the last row's `place`."""
    return await box.call(box.retention.deleted, limit=limit, after=after)


@post("/api/v1/deleted/{item:str}/restore", status_code=200, action="deleted.restore")
async def restore(box: Box, principal: Principal, item: str) -> Deleted:
    """Take back that something was deleted, by its id in the list."""
    found = await box.call(box.retention.find, item)
    box.teams.require(principal, "deleted.restore", name=found.owner)
    return await box.call(box.retention.restore, item, actor=principal.name)


@post("/api/v1/gc", status_code=200, action="box.collect")
async def collect(box: Box, principal: Principal, data: Collection) -> Collected:
    """Remove for good what was deleted long enough ago, and the files that nothing names any more."""
    older_than = None if data.older_than_days is None else timedelta(days=data.older_than_days)
    return await box.call(
        box.retention.collect,
        older_than=older_than,
        grace=timedelta(seconds=data.grace_seconds),
        dry_run=data.dry_run,
        actor=principal.name,
    )


handlers: list[Any] = [
    *(delete_run, delete_experiment, list_deleted, restore, collect),
]
