"""Feast's writes: pushes, rows for the online store, and materialization."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, post
from litestar.params import QueryParameter

from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import Principal
from mlbox.store.features.features import EVENT_TIME
from mlbox.web.box import Box
from mlbox.web.feast.wire import CREATED, EVENT, PREFIX, PUSH_SOURCE, Frame, moment, table_of

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[None]] = set()
"""Materializations that nobody waits for: a task that nothing refers to may vanish."""


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """Rows for a source, by column."""

    push_source_name: str
    df: Frame
    to: Literal["online", "offline", "online_and_offline"] = "online"


class OnlineWrite(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a view, by column."""

    feature_view_name: str
    df: Frame


class Materialize(msgspec.Struct, frozen=True, kw_only=True):
    """Views to bring online, all by default, and of which events."""

    start_ts: str | None = None
    end_ts: str | None = None
    feature_views: list[str] | None = None
    disable_event_timestamp: bool = False


@post(f"{PREFIX}/push", status_code=200, include_in_schema=False, action="source.append", names="body")
async def push(box: Box, principal: Principal, data: Push) -> None:
    """Take rows into a source, online, or both."""
    try:
        source = await box.call(box.features.declared, data.push_source_name)
    except NotFound as err:
        unknown = InvalidInput(err.message, hint=err.hint, field=PUSH_SOURCE)
        unknown.status = 422  # to Feast another kind of error than a view that is not there
        raise unknown from err
    box.teams.require(principal, "source.append", name=source.name)
    renamed = {source.event_time: EVENT, **({source.arrival_time: CREATED} if source.arrival_time else {})}

    def take() -> None:
        table = table_of(data.df, source.columns, renamed, optional=source.arrival_time or "")
        if source.arrival_time in table.column_names and table.column(source.arrival_time).null_count:
            table = table.drop_columns([source.arrival_time])  # not said: the server stamps it
        box.features.push(source.name, table, to=data.to, actor=principal.name)

    await box.call(take)


@post(f"{PREFIX}/write-to-online-store", status_code=200, include_in_schema=False, action="view.write", names="body")
async def write_to_online_store(box: Box, principal: Principal, data: OnlineWrite) -> None:
    """Write rows of a view online, and nowhere else."""
    view = await box.call(box.features.view, data.feature_view_name)
    box.teams.require(principal, "view.write", name=view.name)
    columns = (*view.join_keys, *view.features, EVENT_TIME)

    def take() -> None:
        table = table_of(data.df, columns, {EVENT_TIME.name: EVENT})
        box.features.write_online(view.ref, table, actor=principal.name)

    await box.call(take)


@post(f"{PREFIX}/materialize", status_code=200, include_in_schema=False, action="view.materialize")
async def materialize(
    box: Box, principal: Principal, data: Materialize, async_: Annotated[bool, QueryParameter(name="async")] = False
) -> Response[Any]:
    """Bring the events of a span online."""
    return await _materialize(box, principal, data, waits=not async_)


@post(f"{PREFIX}/materialize-incremental", status_code=200, include_in_schema=False, action="view.materialize")
async def materialize_incremental(
    box: Box, principal: Principal, data: Materialize, async_: Annotated[bool, QueryParameter(name="async")] = False
) -> Response[Any]:
    """Bring what came in since the last time online; the end is now, whatever is sent, so that nothing late is missed."""
    asked = msgspec.structs.replace(data, start_ts=None, end_ts=None)
    return await _materialize(box, principal, asked, waits=not async_)


async def _materialize(box: Box, principal: Principal, asked: Materialize, *, waits: bool) -> Response[Any]:
    views: list[str] = []
    for name in asked.feature_views or []:
        views.append((await box.call(box.features.view, name)).ref)
    for ref in views:
        box.teams.require(principal, "view.materialize", name=ref.partition("@")[0])
    busy = sorted(set(box.features.progress()) & set(views or box.features.progress()))
    if busy and not waits:
        raise Conflict(f"{busy[0]} is being materialized.", hint="Wait until it is done.", field="feature_views")
    start, end = (
        None if text is None else moment(text, field)
        for text, field in ((asked.start_ts, "start_ts"), (asked.end_ts, "end_ts"))
    )

    async def work() -> None:
        for ref in views or (None,):
            await box.call(
                box.features.materialize,
                ref,
                start=start,
                end=end,
                full=asked.disable_event_timestamp,
                actor=principal.name,
            )

    if waits:
        await work()
        return Response(None, status_code=200)
    task = asyncio.create_task(_logged(work()))
    _running.add(task)
    task.add_done_callback(_running.discard)
    return Response({"status": "accepted", "feature_views": asked.feature_views or []}, status_code=202)


async def _logged(work: Any) -> None:
    try:
        await work
    except Exception:
        _log.exception("A materialization that nobody waits for failed.")


handlers: list[Any] = [push, write_to_online_store, materialize, materialize_incremental]
