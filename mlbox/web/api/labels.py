"""Label sets and labels over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import (
    Agreement,
    HeldLabel,
    LabelItem,
    Labelled,
    LabelSet,
    Principal,
    Record,
    SourceCounts,
)
from mlbox.store.labels.labels import source_of
from mlbox.store.labels.rows import OPTIONAL_NAMES, columns_of
from mlbox.store.labels.studio import read_export
from mlbox.store.labels.webhook import read_body
from mlbox.web.box import Box
from mlbox.web.uploads import body_of, receive_rows

MAX_LABELS = 10_000
Limit = Annotated[int, Parameter(ge=1, le=1000)]


class LabelSetState(LabelSet, frozen=True, kw_only=True):
    """A label set, and how many outcomes are known at domain time, and how many are tied."""

    known: int
    unresolved: int


class NewLabels(Record, frozen=True, kw_only=True):
    """Labels: keys, `event_time`, the value; where they are there `known_at`, `id`, `annotator` and `prediction_id`."""

    labels: list[dict[str, Any]]
    source: str | None = None


class Settled(Record, frozen=True, kw_only=True):
    """What an item is."""

    keys: dict[str, Any]
    event_time: datetime
    value: Any


class Resubmit(Record, frozen=True, kw_only=True):
    """Held labels to send again, all by default, with corrections of their columns by id."""

    ids: list[int] | None = None
    corrections: dict[int, dict[str, Any]] = {}


class Publish(Record, frozen=True, kw_only=True):
    """The source that what counts is written to."""

    source: str


class Ids(Record, frozen=True, kw_only=True):
    """Held labels, by id."""

    ids: list[int]


@post("/api/v1/labels", action="label.create")
async def create_labels(box: Box, principal: Principal, data: LabelSet) -> LabelSet:
    """Declare a label set, or change its sources, policy, classes or range; its keys and its value's type stay."""
    box.teams.require(principal, "label.create", name=data.name)
    return await box.call(box.labels.apply, data, actor=principal.name)


@get("/api/v1/labels", action="label.read")
async def list_labels(box: Box) -> list[LabelSet]:
    """All label sets by name."""
    return await box.call(box.labels.sets)


@get("/api/v1/labels/{name:str}", action="label.read")
async def get_labels(box: Box, name: str) -> LabelSetState:
    """One label set."""
    found = await box.call(box.labels.label_set, name)
    now = box.clock.now()
    known, tied = await box.call(box.labels.known, name, at=now), await box.call(box.labels.unresolved, name, at=now)
    return LabelSetState(**msgspec.structs.asdict(found), known=known, unresolved=tied)


@post("/api/v1/labels/{name:str}/rows", request_max_body_size=None, status_code=201, action="label.append")
async def append_labels(
    box: Box,
    principal: Principal,
    request: Request[Any, Any, Any],
    name: str,
    format_: Annotated[str, QueryParameter(name="format")],
    source: str | None = None,
    backfill: bool = False,
) -> Labelled:
    """Add the body's rows, each new, known already, or held back with the reason.

    They have columns for the keys, `event_time` and the value, and may have `known_at`, `id`, `annotator` and `prediction_id`. A
    `backfill` brings history along: its `known_at` is believed, which takes the role admin.
    """
    if backfill:
        box.teams.require(principal, "label.backfill", name=name)
    found = await box.call(box.labels.label_set, name)
    table = await receive_rows(box, request, format_, columns_of(found), optional=OPTIONAL_NAMES)
    return await box.call(box.labels.append, name, table, source=source, backfill=backfill, actor=principal.name)


@post("/api/v1/labels/{name:str}/feedback", status_code=200, action="label.append")
async def add_feedback(box: Box, principal: Principal, name: str, data: NewLabels) -> Labelled:
    """Add a few labels; sent again they are nothing new. One that names a prediction needs no keys and no time of its own."""
    if len(data.labels) > MAX_LABELS:
        raise TooLarge(
            f"{len(data.labels):,} labels are too many at once.",
            hint=f"Send {MAX_LABELS:,} at most, or a file.",
            field="labels",
        )
    found = await box.call(box.labels.declared, name)
    rows = await box.call(box.outcomes.complete, found, data.labels)
    return await box.call(box.labels.append_rows, name, rows, source=data.source, actor=principal.name)


@post("/api/v1/labels/{name:str}/webhook/{source:str}", status_code=200, action="label.append")
async def receive_webhook(box: Box, principal: Principal, name: str, source: str, data: Any) -> Labelled:
    """Add the labels in another system's own JSON, where the source says they are; delivered again they are nothing new."""
    found = await box.call(box.labels.declared, name)
    rows = read_body(data, found, source_of(found, source))
    completed = await box.call(box.outcomes.complete, found, rows)
    return await box.call(box.labels.append_rows, name, completed, source=source, actor=principal.name)


@post("/api/v1/labels/{name:str}/label-studio", status_code=200, request_max_body_size=None, action="label.append")
async def add_annotations(
    box: Box, principal: Principal, request: Request[Any, Any, Any], name: str, source: str | None = None
) -> Labelled:
    """Add the annotations of Label Studio's JSON export, which is the body."""
    found = await box.call(box.labels.label_set, name)
    with await box.call(box.uploads.begin) as upload:
        async for chunk in body_of(request):
            await box.call(upload.write, chunk)
        await box.call(upload.finish)
        rows = await box.call(_read, upload.path.read_bytes, found)
    return await box.call(box.labels.append_rows, name, rows, source=source, actor=principal.name)


def _read(content: Any, labels: LabelSet) -> list[Mapping[str, Any]]:
    return read_export(content(), labels)


@get("/api/v1/labels/{name:str}/items", action="label.read")
async def get_item(box: Box, name: str, event_time: str | None = None, keys: str = "{}") -> LabelItem:
    """What is claimed of one item, and what counts; `keys` is a JSON object."""
    await box.call(box.labels.declared, name)
    if event_time is None:
        raise InvalidInput("Which moment is meant is not said.", hint="Give ?event_time=.", field="event_time")
    return await box.call(box.labels.item, name, _object(keys), parse_time(event_time, field="event_time"))


@get("/api/v1/labels/{name:str}/review", action="label.read")
async def get_review(box: Box, name: str, limit: Limit = 20) -> list[LabelItem]:
    """Items whose claims are tied, the latest events first."""
    return await box.call(box.labels.review, name, limit=limit)


@post("/api/v1/labels/{name:str}/review", status_code=200, action="label.settle")
async def settle(box: Box, principal: Principal, name: str, data: Settled) -> LabelItem:
    """Decide what an item is: a claim that is believed before any other."""
    return await box.call(box.labels.settle, name, data.keys, data.event_time, data.value, actor=principal.name)


@get("/api/v1/labels/{name:str}/held", action="label.read")
async def get_held(
    box: Box, name: str, limit: Limit = 100, after: Annotated[int, Parameter(ge=0, le=2**62)] = 0
) -> list[HeldLabel]:
    """Labels that were held back, with the reasons, from the id after `after`."""
    return await box.call(box.labels.held, name, limit=limit, after=after)


@post("/api/v1/labels/{name:str}/held/resubmit", status_code=200, action="label.append")
async def resubmit_held(box: Box, principal: Principal, name: str, data: Resubmit) -> Labelled:
    """Send held labels again; those that are taken leave the quarantine."""
    return await box.call(box.labels.resubmit, name, data.ids, data.corrections, actor=principal.name)


@post("/api/v1/labels/{name:str}/held/discard", status_code=200, action="label.append")
async def discard_held(box: Box, principal: Principal, name: str, data: Ids) -> dict[str, int]:
    """Forget held labels."""
    return {"rows": await box.call(box.labels.discard, name, data.ids, actor=principal.name)}


@post("/api/v1/labels/{name:str}/publish", status_code=200, action="label.publish")
async def publish(box: Box, principal: Principal, name: str, data: Publish) -> LabelSet:
    """Have what counts written to a source of its own, from the first label on: feature views read it like any other."""
    box.teams.require(principal, "source.create", name=data.source)
    return await box.call(box.labels.publish, name, data.source, actor=principal.name)


@get("/api/v1/labels/{name:str}/counts", action="label.read")
async def get_counts(box: Box, name: str, days: Annotated[int, Parameter(ge=1, le=3650)] = 30) -> list[SourceCounts]:
    """What arrived, per source and day, and how long after the events."""
    return await box.call(box.labels.counts, name, days=days)


@get("/api/v1/labels/{name:str}/agreement", action="label.read")
async def get_agreement(box: Box, name: str) -> Agreement:
    """How far those who label agree: Krippendorff's alpha, Fleiss' and Cohen's kappa, and who confuses what."""
    return await box.call(box.labels.agreement, name)


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as err:
        raise InvalidInput(
            "`keys` is no JSON object.", hint='keys={"customer": "c7"}, encoded for an address.', field="keys"
        ) from err


handlers: list[Any] = [
    *(create_labels, list_labels, get_labels, append_labels, add_feedback, add_annotations, receive_webhook),
    *(get_item, get_review, settle, get_held, resubmit_held, discard_held, get_counts, get_agreement),
    publish,
]
