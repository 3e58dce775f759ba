"""What becomes of the prediction log, over HTTP: taken out, held, erased, and for how long it is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args
from urllib.parse import quote

import msgspec
from litestar import delete, get, post, put
from litestar.params import Parameter, QueryParameter
from litestar.response import Stream

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import (
    HoldSpec,
    PredictionHold,
    PredictionKeeping,
    PredictionRemoval,
    PredictionSampling,
    Principal,
    Record,
    ServeRole,
)
from mlbox.serve.predictions.export import MEDIA, Format, export
from mlbox.serve.predictions.selection import Selection, between
from mlbox.store.monitoring.prediction_rows import check_entity
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]
Given = Annotated[
    list[str] | None, QueryParameter(name="entity", description="KEY=VALUE that a prediction's entity must have.")
]


class NewHold(Record, frozen=True, kw_only=True):
    """Which predictions are to be held, and why."""

    model: str | None = None
    entity: dict[str, Any] = {}
    since: str | None = None
    """Of the predictions, in domain time."""
    until: str | None = None
    reason: str
    expires_at: str | None = None
    """Real time; until it is released where it is left out."""


class NewErasure(Record, frozen=True, kw_only=True):
    """Of whom no prediction is to stay."""

    entity: dict[str, Any]
    reason: str
    model: str | None = None
    """Every model's where it is left out."""


class Days(Record, frozen=True, kw_only=True):
    """How long a model's predictions are kept."""

    days: Annotated[float, msgspec.Meta(ge=1, le=36500)] | None
    """None for the setting `prediction_days`. No less than a day: a slip of the finger is not to empty the log."""


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class NewSampling(Record, frozen=True, kw_only=True):
    """Which of a model's predictions are kept."""

    share: Share = 1.0
    roles: dict[ServeRole, Share] = {}
    """Of the roles whose share is another one, as shadow."""


# `names`: whether the model is there for the asker is asked before what it takes to export it.
@get("/api/v1/predictions/{model:str}/export", action="prediction.export", names="body", media_type=MEDIA["parquet"])
async def export_predictions(
    box: Box,
    principal: Principal,
    model: str,
    format_: Annotated[str, QueryParameter(name="format")] = "parquet",
    since: str | None = None,
    until: str | None = None,
    version: Annotated[int | None, Parameter(ge=1, le=2**63 - 1)] = None,
    role: str | None = None,
    entity: Given = None,
) -> Stream:
    """A model's predictions as Parquet, CSV or JSON lines, sent while they are read; `since` and `until` are domain time."""
    form: Format | None = next((one for one in get_args(Format) if one == format_), None)
    if form is None:
        raise InvalidInput(f"{format_[:40]!r} is no form of it.", hint="Use parquet, csv or jsonl.", field="format")
    if role is not None and role not in get_args(ServeRole):
        raise InvalidInput(
            f"{role[:40]!r} is no role.", hint=f"One of: {', '.join(get_args(ServeRole))}.", field="role"
        )
    keys = _keys(entity or [])
    start = parse_time(since, field="since") if since else None
    end = parse_time(until, field="until") if until else None
    what = Selection(keys, *between(start, end), version, role)
    await box.call(box.registry.model, model)
    box.teams.require(principal, "prediction.export", name=model)
    pieces = export(box.predictions, model, what, form)
    first = await box.call(next, pieces, None)  # what is wrong has to be said before the answer
    asked = {"form": form, "keys": sorted(keys), "since": since, "until": until}
    await box.call(box.access.note, "predictions.exported", f"model:{model}", principal.name, **asked)

    async def send() -> AsyncIterator[bytes]:
        piece = first
        try:
            while piece is not None:
                yield piece
                piece = await box.call(next, pieces, None)
        finally:
            await box.call(pieces.close)

    headers = {"Content-Disposition": f'attachment; filename="{quote(model)}.{form}"'}
    return Stream(send(), media_type=MEDIA[form], headers=headers)


def _keys(given: list[str]) -> dict[str, str]:
    keys = dict(part.split("=", 1) for part in given if "=" in part)
    if len(keys) != len(given):
        raise InvalidInput("A key is written KEY=VALUE.", hint="Such as customer=17.", field="entity")
    check_entity(keys)
    return keys


@get("/api/v1/predictions/holds", action="prediction.holds")
async def holds(box: Box, limit: Limit = 100, after: str | None = None) -> list[PredictionHold]:
    """Which predictions are held, and were, newest first."""
    return await box.call(box.keeping.rows.holds, limit=limit, after=after)


@post("/api/v1/predictions/holds", action="prediction.hold")
async def hold(box: Box, principal: Principal, data: NewHold) -> PredictionHold:
    """Hold predictions: of a model, about an entity, of a time, or of all of these; nothing removes them."""
    box.teams.require(principal, "prediction.hold", name=data.model or "")
    return await box.call(
        box.keeping.hold,
        HoldSpec(
            model=data.model,
            entity=data.entity,
            since=parse_time(data.since, field="since") if data.since else None,
            until=parse_time(data.until, field="until") if data.until else None,
            reason=data.reason,
            expires_at=parse_time(data.expires_at, field="expires_at") if data.expires_at else None,
        ),
        actor=principal.name,
    )


@delete("/api/v1/predictions/holds/{hold_id:str}", status_code=200, action="prediction.hold")
async def release(box: Box, principal: Principal, hold_id: str) -> PredictionHold:
    """End a hold now; it stays in the list."""
    found = await box.call(box.keeping.rows.get, hold_id)
    box.teams.require(principal, "prediction.hold", name=found.model or "")
    return await box.call(box.keeping.rows.release, hold_id, actor=principal.name)


@get("/api/v1/predictions/removals", action="prediction.holds")
async def removals(box: Box, limit: Limit = 100, after: str | None = None) -> list[PredictionRemoval]:
    """What was removed of the prediction log, newest first."""
    return await box.call(box.keeping.rows.removals, limit=limit, after=after)


@post("/api/v1/predictions/erase", status_code=200, action="prediction.erase")
async def erase(box: Box, principal: Principal, data: NewErasure) -> PredictionRemoval:
    """Remove for good every prediction about an entity; a conflict where a hold is about one, and then none goes."""
    box.teams.require(principal, "prediction.erase", name=data.model or "")
    return await box.call(box.keeping.erase, data.entity, model=data.model, reason=data.reason, actor=principal.name)


@get("/api/v1/predictions/{model:str}/retention", action="monitor.read")
async def retention(box: Box, model: str) -> PredictionKeeping:
    """How long a model's predictions are kept, and what there is of them."""
    return await box.call(box.keeping.of, model)


@put("/api/v1/predictions/{model:str}/retention", action="prediction.keep")
async def keep(box: Box, principal: Principal, model: str, data: Days) -> PredictionKeeping:
    """Keep a model's predictions for so many days, instead of as the setting `prediction_days` says."""
    return await box.call(box.keeping.keep, model, data.days, actor=principal.name)


@put("/api/v1/predictions/{model:str}/sampling", action="prediction.keep")
async def sample(box: Box, principal: Principal, model: str, data: NewSampling) -> PredictionKeeping:
    """Keep the predictions of a share of the requests from now on, the same requests in every role; all are counted."""
    sampling = PredictionSampling(share=data.share, roles=data.roles)
    return await box.call(box.keeping.sample, model, sampling, actor=principal.name)


handlers: list[Any] = [
    *(export_predictions, holds, hold, release, removals, erase),
    *(retention, keep, sample),
]
