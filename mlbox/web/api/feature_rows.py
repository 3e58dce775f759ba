"""The rows of the feature store over HTTP: pushes, materialization, online and as they were."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.params import QueryParameter

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import Column, Freshness, OnlineRow, Principal, Pushed, Record
from mlbox.store.features.features import EVENT_TIME
from mlbox.store.tables import table_of
from mlbox.web.api.features import Rows
from mlbox.web.box import Box
from mlbox.web.fast.routes import Call, Fast, Reply
from mlbox.web.uploads import receive_rows

if TYPE_CHECKING:
    import pyarrow as pa

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
MAX_ENTITIES = 10_000
MAX_ENTITIES_ARROW = 100_000
MAX_ROWS = 10_000
_MAPS = 3
"""How many values an entity's answer has for each feature: its status and time as well."""

To = Literal["online_and_offline", "online", "offline"]
JsonRow = dict[str, Any]


class Push(Record, frozen=True, kw_only=True):
    """Rows of a source that are known from now on, and which store they go to."""

    rows: tuple[JsonRow, ...]
    to: To = "online_and_offline"


class OnlineRows(Record, frozen=True, kw_only=True):
    """Rows of a view: join keys, features and `event_time`."""

    rows: tuple[JsonRow, ...]


class MaterializeRequest(Record, frozen=True, kw_only=True):
    """Which view to bring up to domain time, all of them by default, and of which events (after `start`, up to `end`)."""

    view: str | None = None
    start: str | None = None
    end: str | None = None
    full: bool = False
    """Write everything again, not only what changed."""


class Materializing(Record, frozen=True, kw_only=True):
    """A view that is being materialized: how many parts are done, of how many."""

    view: str
    done: int
    parts: int


class OnlineRequest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Features, by reference or service, of entities, each a map of its join keys."""

    features: tuple[str, ...]
    entities: tuple[JsonRow, ...]


@post("/api/v1/sources/{name:str}/push", status_code=200, action="source.append")
async def push(box: Box, name: str, principal: Principal, data: Push) -> Pushed:
    """Take rows that become known now: into the source, and online at once in the views that look at each row alone."""
    source = await box.call(box.features.declared, name)
    _check_count(data.rows)

    def take() -> Pushed:
        table = table_of(data.rows, source.columns, "rows", optional=source.arrival_time or "")
        return box.features.push(name, table, to=data.to, actor=principal.name)

    return await box.call(take)


@post("/api/v1/features/views/{ref:str}/online", status_code=200, action="view.write")
async def write_online(box: Box, ref: str, principal: Principal, data: OnlineRows) -> Rows:
    """Write rows of a view online, and nowhere else; how many took effect: a newer event stays."""
    view = await box.call(box.features.view, ref)
    _check_count(data.rows)
    columns = (*view.join_keys, *view.features, EVENT_TIME)

    def take() -> Rows:
        table = table_of(data.rows, columns, "rows")
        return Rows(rows=box.features.write_online(view.ref, table, actor=principal.name))

    return await box.call(take)


@post("/api/v1/features/materialize", status_code=200, action="view.materialize")
async def materialize(box: Box, principal: Principal, data: MaterializeRequest) -> Rows:
    """Bring the online store up to domain time; how many entities changed. A run that was broken off goes on."""
    if data.view is not None:
        box.teams.require(principal, "view.materialize", name=data.view)
    start, end = (_moment(text, field) for field, text in (("start", data.start), ("end", data.end)))
    written = await box.call(
        box.features.materialize, data.view, start=start, end=end, full=data.full, actor=principal.name
    )
    return Rows(rows=written)


@get("/api/v1/features/materialize", action="view.read")
async def materializing(box: Box) -> list[Materializing]:
    """The views that are being materialized now."""
    return [Materializing(view=ref, done=done, parts=parts) for ref, (done, parts) in box.features.progress().items()]


@get("/api/v1/features/views/{ref:str}/freshness", action="view.read")
async def freshness(box: Box, ref: str) -> Freshness:
    """How up to date a view is offline and online, when its schedule asks for it next, and what went wrong, if anything."""
    return await box.call(box.features.freshness, ref)


@post("/api/v1/features/online", status_code=200, action="view.read")
async def online(box: Box, request: Request[Any, Any, Any], data: OnlineRequest) -> list[OnlineRow] | Response[bytes]:
    """The latest values of each entity, as of domain time; with `Accept: application/vnd.apache.arrow.stream` as a table."""
    as_arrow = ARROW in request.headers.get("accept", "")
    _check_entities(data, as_arrow)
    if not as_arrow:
        if box.features.is_at_hand(data.features, _MAPS * len(data.entities)):
            return box.features.online_features(data.features, data.entities)
        return await box.call(box.features.online_features, data.features, data.entities)
    return Response(await box.call(_online_arrow, box, data.features, data.entities), media_type=ARROW, status_code=200)


def _check_entities(asked: OnlineRequest, as_arrow: bool) -> None:
    most = MAX_ENTITIES_ARROW if as_arrow else MAX_ENTITIES
    if len(asked.entities) > most:
        raise InvalidInput(
            f"{len(asked.entities):,} entities are too many for one request.",
            hint=f"Ask for {most:,} at most{'' if as_arrow else f', or for {MAX_ENTITIES_ARROW:,} as {ARROW}'}.",
            field="entities",
        )


_decode_online = msgspec.json.Decoder(OnlineRequest).decode


def _is_at_hand(box: Box, call: Call) -> bool:
    call.read = asked = _decode_online(call.body)
    as_arrow = ARROW in call.headers.get("accept", "")
    _check_entities(asked, as_arrow)
    return not as_arrow and box.features.is_at_hand(asked.features, _MAPS * len(asked.entities))


def _fast_online(box: Box, call: Call) -> Reply:
    asked: OnlineRequest = call.read
    if ARROW in call.headers.get("accept", ""):
        return Reply(_online_arrow(box, asked.features, asked.entities), ARROW)
    return Reply(msgspec.json.encode(box.features.online_features(asked.features, asked.entities)))


def _online_arrow(box: Box, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> bytes:
    return _arrow(box.features.online_table(features, entities))


@post("/api/v1/features/historical", status_code=200, request_max_body_size=None, action="view.read")
async def historical(
    box: Box,
    request: Request[Any, Any, Any],
    feature: Annotated[list[str], QueryParameter(name="feature", min_items=1)],
    event_time: str = "event_time",
    known: Literal["then", "latest"] = "then",
    format_: Annotated[str, QueryParameter(name="format")] = "arrow",
) -> Response[bytes]:
    """The body's rows with features as they were known at each row's time; Arrow, or Parquet for `Accept` of that.

    The body (`?format=parquet|csv|arrow`) has a column for each join key, and one of moments, named by `event_time`.
    """
    keys = await box.call(box.features.asked_with, feature)
    columns = [*keys, Column(name=event_time, dtype="TIMESTAMP")]
    spine = await receive_rows(box, request, format_, columns, required=(event_time,), spine=True)
    found = await box.call(box.features.historical, feature, spine, event_time=event_time, known=known)
    if PARQUET in request.headers.get("accept", ""):
        return Response(await box.call(_parquet, found), media_type=PARQUET, status_code=200)
    return Response(await box.call(_arrow, found), media_type=ARROW, status_code=200)


def _arrow(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _check_count(rows: Sequence[JsonRow]) -> None:
    if not rows:
        raise InvalidInput("There are no rows.", hint="Send one at least.", field="rows")
    if len(rows) > MAX_ROWS:
        raise TooLarge(
            f"{len(rows):,} rows are too many at once.", hint=f"Send {MAX_ROWS:,} at most, or a file.", field="rows"
        )


def _moment(text: str | None, field: str) -> datetime | None:
    return None if text is None else parse_time(text, field=field)


handlers: list[Any] = [push, write_online, materialize, materializing, freshness, online, historical]
fast = [Fast(online, _is_at_hand, _fast_online)]
