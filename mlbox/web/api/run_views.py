"""Filters of runs as they are typed, and the views of the table of runs that people keep."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, put
from litestar.params import Parameter

from mlbox.records import Principal, Record
from mlbox.store.tracking.run_words import Completion
from mlbox.web.box import Box
from mlbox.web.pages.run_table import kept_query


class RunView(Record, frozen=True, kw_only=True):
    """A view of the table of runs: of an experiment, or of all where that is empty; an empty query is none."""

    experiment: str = ""
    query: str = ""


@get("/api/v1/run-words", action="run.read")
async def complete(
    box: Box,
    text: Annotated[str, Parameter(max_length=20_000)] = "",
    at: Annotated[int | None, Parameter(ge=0, le=20_000)] = None,
    experiment: list[str] | None = None,
) -> Completion:
    """What may be typed at the cursor of a filter of runs, and what is wrong with it."""

    def find() -> Completion:
        named = [one for one in experiment or () if one]
        ids = [one.id for one in box.tracker.experiments() if not named or one.name in named]
        return box.run_words.complete(ids, text, len(text) if at is None else at)

    return await box.call(find)


@get("/api/v1/run-views", action="account.change")
async def get_view(box: Box, principal: Principal, experiment: str = "") -> RunView:
    """One's own view of the runs of an experiment."""
    query = await box.call(box.run_views.get, principal.name, experiment)
    return RunView(experiment=experiment, query=query)


@put("/api/v1/run-views", action="account.change")
async def put_view(box: Box, principal: Principal, data: RunView) -> RunView:
    """Keep a view of the runs of an experiment as one's own."""
    query = kept_query(data.query)
    await box.call(box.run_views.put, principal.name, data.experiment, query)
    return RunView(experiment=data.experiment, query=query)


handlers: list[Any] = [complete, get_view, put_view]
