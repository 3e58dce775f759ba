"""What people change of models over HTTP, approvals by version, and the history of stages and aliases."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

from litestar import delete, get, patch, post, put

from mlbox.clock import parse_time
from mlbox.errors import Conflict, InvalidInput
from mlbox.records import Model, Principal, Promotion, Record, Stage, Tenure
from mlbox.records import ModelVersion as Version
from mlbox.web.api.models import Comment
from mlbox.web.box import Box


class Facts(Record, frozen=True, kw_only=True):
    """What to change of a model; what is left out stays."""

    purpose: str | None = None
    owner: str | None = None
    expires_at: datetime | None = None


class NewName(Record, frozen=True, kw_only=True):
    """Another name."""

    name: str


class AliasOf(Record, frozen=True, kw_only=True):
    """The version that an alias stands for."""

    version: int


class Move(Record, frozen=True, kw_only=True):
    """A stage to move to."""

    stage: Stage
    archive_others: bool = False


@get("/api/v1/models/{model:str}/history", action="model.read")
async def history(box: Box, model: str, at: str | None = None) -> list[Tenure]:
    """Which version was in which stage and under which alias, newest first; `at` a moment, or a day such as 2026-03-03."""
    start, end = span_of(at) if at else (None, None)
    return await box.call(box.history.of, model, start=start, end=end)


def span_of(at: str, *, field: str = "at") -> tuple[datetime, datetime]:
    """The moment, or the day in UTC, that a text names."""
    if len(at) == len("2026-03-03"):
        try:
            day = datetime.strptime(at, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError as err:
            raise InvalidInput(f"{at!r} is not a day.", hint="Write it like 2026-03-03.", field=field) from err
        return day, datetime.combine(day.date(), time.max, UTC)
    moment = parse_time(at, field=field)
    return moment, moment


@patch("/api/v1/models/{model:str}", action="model.write")
async def describe(box: Box, principal: Principal, model: str, data: Facts) -> Model:
    """Set a model's facts: what for, whose, and until when."""
    return await box.call(
        box.curation.describe,
        model,
        actor=principal.name,
        purpose=data.purpose,
        owner=data.owner,
        expires_at=data.expires_at,
    )


@post("/api/v1/models/{model:str}/rename", status_code=200, action="model.write")
async def rename(box: Box, principal: Principal, model: str, data: NewName) -> Model:
    """Give a model another name, in a team in which one may make models."""
    await box.call(check_rename, box, principal, model, data.name)
    return await box.call(box.curation.rename, model, data.name, actor=principal.name)


def check_rename(box: Box, principal: Principal, name: str, new_name: str) -> None:
    """Raise NotAuthorised for a name in a team of others, and Conflict for a private model, which would become known."""
    box.teams.require(principal, "model.create", name=new_name)
    if box.teams.is_private("model", name):
        raise Conflict(f"The model {name!r} is private.", hint="Share it, rename it, and hide it again.", field="name")


@delete("/api/v1/models/{model:str}", action="model.write")
async def delete_model(box: Box, principal: Principal, model: str) -> None:
    """Delete a model; refused while a version is in Production or on its way there."""
    await box.call(box.curation.delete, model, actor=principal.name)


@delete("/api/v1/models/{model:str}/versions/{version:int}", action="model.write")
async def delete_version(box: Box, principal: Principal, model: str, version: int) -> None:
    """Delete a version; refused in Production and on its way there."""
    await box.call(box.curation.delete_version, model, version, actor=principal.name)


@put("/api/v1/models/{model:str}/aliases/{alias:str}", status_code=204, action="model.write")
async def set_alias(box: Box, principal: Principal, model: str, alias: str, data: AliasOf) -> None:
    """Let a free name stand for a version."""
    await box.call(box.curation.set_alias, model, alias, data.version, actor=principal.name)


@delete("/api/v1/models/{model:str}/aliases/{alias:str}", action="model.write")
async def delete_alias(box: Box, principal: Principal, model: str, alias: str) -> None:
    """Take a name away."""
    await box.call(box.curation.delete_alias, model, alias, actor=principal.name)


@post("/api/v1/models/{model:str}/versions/{version:int}/stage", status_code=200, action="model.promote")
async def move(box: Box, principal: Principal, model: str, version: int, data: Move) -> Version:
    """Move a version to another stage, by the rules of its promotion."""
    return await box.call(
        box.stages.move, model, version, data.stage, actor=principal.name, archive_others=data.archive_others
    )


@post("/api/v1/models/{model:str}/versions/{version:int}/approve", status_code=200, action="model.approve")
async def approve(box: Box, principal: Principal, model: str, version: int, data: Comment | None = None) -> Promotion:
    """Say yes to a version; refused to whoever trained, submitted or proposed it."""
    return await box.call(decide, box, model, version, "approve", principal.name, data)


@post("/api/v1/models/{model:str}/versions/{version:int}/reject", status_code=200, action="model.approve")
async def reject(box: Box, principal: Principal, model: str, version: int, data: Comment | None = None) -> Promotion:
    """Say no to a version."""
    return await box.call(decide, box, model, version, "reject", principal.name, data)


def decide(box: Box, model: str, number: int, decision: Any, approver: str, comment: Comment | None) -> Promotion:
    """Decide about the promotion of a version that waits; raises Conflict when none does."""
    version = box.registry.version(model, number)
    waiting = [p for p in box.promotions.of(model, number) if p.state == "waiting_approval"]
    if not waiting:
        raise Conflict(
            f"{version.ref} does not wait for an approval: {box.stages.missing(version)}"
            if version.stage != "Production"
            else f"{version.ref} is in Production already.",
            field="version",
        )
    words = comment.comment if comment else ""
    return box.promotions.decide(waiting[0].id, approver=approver, decision=decision, comment=words)


handlers: list[Any] = [
    *(history, describe, rename, delete_model, delete_version, set_alias, delete_alias),
    *(move, approve, reject),
]
