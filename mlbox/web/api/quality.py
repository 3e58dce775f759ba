"""Expectations and the quarantine over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post, put
from litestar.params import Parameter

from mlbox.records import Expectation, Principal, Quality, Quarantined, Record
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class Resubmission(Record, frozen=True, kw_only=True):
    """Rows of the quarantine to send again, all without `ids`, and corrected values by id and column."""

    ids: tuple[int, ...] | None = None
    corrections: dict[int, dict[str, Any]] = {}


class Resubmitted(Record, frozen=True, kw_only=True):
    """How many rows went into the source, and how many are in the quarantine now."""

    rows: int
    quarantined: int


@get("/api/v1/sources/{name:str}/quality", action="source.read")
async def get_quality(box: Box, name: str) -> Quality:
    """What is expected of a source, and how many rows broke which rule."""
    return await box.call(box.features.quality, name)


@put("/api/v1/sources/{name:str}/expectations", action="source.expect")
async def set_expectations(box: Box, principal: Principal, name: str, data: list[Expectation]) -> Quality:
    """Set all expectations of a source, for what is loaded from now on."""
    return await box.call(box.features.expect, name, data, actor=principal.name)


@get("/api/v1/sources/{name:str}/quarantine", action="source.read")
async def list_quarantine(
    box: Box, name: str, limit: Limit = 100, after: Annotated[int, Parameter(ge=0, le=2**62)] = 0
) -> list[Quarantined]:
    """Rows that were held back, with their reasons, from the one after the id `after`."""
    return await box.call(box.features.quarantined, name, limit=limit, after=after)


@post("/api/v1/sources/{name:str}/quarantine/resubmit", status_code=200, action="source.append")
async def resubmit(box: Box, principal: Principal, name: str, data: Resubmission) -> Resubmitted:
    """Send rows of the quarantine again, corrected or not: those that meet what is expected now go into the source."""
    rows = await box.call(box.features.resubmit, name, ids=data.ids, corrections=data.corrections, actor=principal.name)
    left = await box.call(box.features.quality, name)
    return Resubmitted(rows=rows, quarantined=left.quarantined)


handlers: list[Any] = [get_quality, set_expectations, list_quarantine, resubmit]
