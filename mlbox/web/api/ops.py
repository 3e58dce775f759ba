"""The box itself over HTTP: the clock, the audit log."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter, QueryParameter
from litestar.response import Stream

from mlbox.errors import InvalidInput
from mlbox.records import ChainReport, Delivery, Event, Principal, Record
from mlbox.store import audit as audit_log
from mlbox.web.box import Box

EXPORTED_AT_ONCE = 2000
Limit = Annotated[int, Parameter(ge=1, le=1000)]


class Advance(Record, frozen=True, kw_only=True):
    """Where to move domain time."""

    to: datetime


class ClockState(Record, frozen=True, kw_only=True):
    """Both clocks."""

    replay: bool
    domain_time: datetime
    real_time: datetime


@get("/api/v1/clock", action="box.read")
async def clock(box: Box) -> ClockState:
    """Both clocks."""
    return ClockState(replay=box.clock.replay, domain_time=box.clock.now(), real_time=box.clock.real())


@post("/api/v1/clock", status_code=200, action="box.advance")
async def advance(box: Box, principal: Principal, data: Advance) -> ClockState:
    """Move the domain time of a box in replay mode forward."""
    if data.to.tzinfo is None:
        raise InvalidInput("The time has no zone.", hint="Add an offset or a Z.", field="to")
    await box.call(box.advance, data.to, actor=principal.name)
    return ClockState(replay=box.clock.replay, domain_time=box.clock.now(), real_time=box.clock.real())


@get("/api/v1/openlineage/deliveries", action="audit.verify")
async def openlineage(box: Box, limit: Limit = 100) -> list[Delivery]:
    """What an OpenLineage collector was told, newest first, and what became of it."""
    return await box.call(box.lineage.deliveries, limit=limit)


@get("/api/v1/audit", action="audit.read")
async def audit(
    box: Box,
    principal: Principal,
    subject: str | None = None,
    actor: str | None = None,
    type_: Annotated[str | None, QueryParameter(name="type")] = None,
    limit: Limit = 100,
    after: str | None = None,
) -> list[Event]:
    """What happened, newest first, from below the id `after`."""
    return await box.call(box.events, subject=subject, actor=actor, type=type_, limit=limit, before=after)


@get("/api/v1/audit/verify", action="audit.verify")
async def verify_audit(box: Box, head: list[str] | None = None) -> list[ChainReport]:
    """Walk the hash chain of every room's log: what of it is as it was written, and what is wrong first.

    `head` are `ROOM=NUMBER:HASH` that were kept elsewhere.
    """
    kept = {room: audit_log.head_of(value) for room, _, value in (text.partition("=") for text in head or ())}
    return await box.call(audit_log.verify, box.data_dir.root, kept)


@get("/api/v1/audit/export", action="audit.verify", media_type="application/x-ndjson")
async def export_audit(box: Box) -> Stream:
    """Every event of every room with its hashes, as lines of JSON."""
    return Stream(_lines(box), media_type="application/x-ndjson")


async def _lines(box: Box) -> AsyncIterator[bytes]:
    """The export, read in pieces off the loop."""
    events = audit_log.export(box.data_dir.root)
    while piece := await box.call(lambda: b"".join(itertools.islice(events, EXPORTED_AT_ONCE))):
        yield piece


handlers: list[Any] = [
    *(clock, advance, audit, verify_audit, export_audit, openlineage),
]
