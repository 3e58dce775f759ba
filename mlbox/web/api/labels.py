"""Label sets over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import QueryParameter

from mlbox.records import Column, LabelSet, Principal, Record
from mlbox.store.labels import TIMES
from mlbox.web.api.features import Rows
from mlbox.web.box import Box
from mlbox.web.uploads import receive_rows


class NewLabelSet(Record, frozen=True, kw_only=True):
    """A label set to declare: what it is keyed by, and its value."""

    name: str
    keys: tuple[Column, ...]
    value: Column


class LabelSetState(LabelSet, frozen=True, kw_only=True):
    """A label set, and how many outcomes are known at domain time."""

    known: int


@post("/api/v1/labels", action="label.create")
async def create_labels(box: Box, principal: Principal, data: NewLabelSet) -> LabelSet:
    """Declare a label set; the same declaration again changes nothing."""
    box.teams.require(principal, "label.create", name=data.name)
    return await box.call(box.labels.create, data.name, data.keys, data.value, actor=principal.name)


@get("/api/v1/labels", action="label.read")
async def list_labels(box: Box) -> list[LabelSet]:
    """All label sets by name."""
    return await box.call(box.labels.sets)


@get("/api/v1/labels/{name:str}", action="label.read")
async def get_labels(box: Box, name: str) -> LabelSetState:
    """One label set."""
    found = await box.call(box.labels.label_set, name)
    known = await box.call(box.labels.known, name, at=box.clock.now())
    return LabelSetState(**{field: getattr(found, field) for field in found.__struct_fields__}, known=known)


@post("/api/v1/labels/{name:str}/rows", request_max_body_size=None, action="label.append")
async def append_labels(
    box: Box,
    principal: Principal,
    request: Request[Any, Any, Any],
    name: str,
    format_: Annotated[str, QueryParameter(name="format")],
) -> Rows:
    """Add the body's rows (keys, event_time, known_at, value), all or none."""
    found = await box.call(box.labels.label_set, name)
    columns = (*found.keys, *TIMES, found.value)
    table = await receive_rows(box, request, format_, columns, required=[column.name for column in columns])
    return Rows(rows=await box.call(box.labels.append, name, table, actor=principal.name))


handlers: list[Any] = [create_labels, list_labels, get_labels, append_labels]
