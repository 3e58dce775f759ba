"""Business metrics over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter

from mlbox.clock import parse_time
from mlbox.records import BusinessNumber, BusinessSeries, PostedNumbers, Principal, Record
from mlbox.web.box import Box


class NewNumbers(Record, frozen=True, kw_only=True):
    """What came of a model's predictions."""

    model: str
    outcomes: list[BusinessNumber]


@post("/api/v1/outcomes", status_code=200, action="outcome.write")
async def post_outcomes(box: Box, principal: Principal, data: NewNumbers) -> PostedNumbers:
    """Keep numbers that came of predictions, by prediction id or by time; sent again they replace the former ones."""
    await box.call(box.registry.model, data.model)
    box.teams.require(principal, "outcome.write", name=data.model)
    return await box.call(box.business.post, data.model, data.outcomes, actor=principal.name)


@get("/api/v1/monitoring/{model:str}/business", action="monitor.read")
async def business(
    box: Box,
    model: str,
    name: str | None = None,
    since: str | None = None,
    until: str | None = None,
    every_seconds: Annotated[int | None, Parameter(ge=1, le=10**9)] = None,
) -> list[BusinessSeries]:
    """A model's business metrics, a series for each name and version."""
    return await box.call(
        box.business.series,
        model,
        name=name,
        since=parse_time(since, field="since") if since else None,
        until=parse_time(until, field="until") if until else None,
        every=None if every_seconds is None else timedelta(seconds=every_seconds),
    )


handlers: list[Any] = [post_outcomes, business]
