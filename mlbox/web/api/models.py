"""The registry over HTTP: models, versions, policies, promotions and what serves."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter

from mlbox.errors import NotAuthorised
from mlbox.records import (
    CompareSpec,
    Comparison,
    Endpoint,
    Model,
    ModelVersion,
    Principal,
    Promotion,
    Record,
)
from mlbox.serve.registration.registration import Registration
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class NewModel(Record, frozen=True, kw_only=True):
    """An empty model."""

    name: str
    purpose: str = ""


class Comment(Record, frozen=True, kw_only=True):
    """Why."""

    comment: str = ""


class Versions(Record, frozen=True, kw_only=True):
    """Two versions to compare, and on what."""

    first: int
    second: int
    spec: CompareSpec


@get("/api/v1/models", action="model.read")
async def list_models(box: Box, limit: Limit = 100, after: str | None = None) -> list[Model]:
    """Models by name."""
    return await box.call(box.registry.models, limit=limit, after=after)


@post("/api/v1/models", action="model.create")
async def create_model(box: Box, principal: Principal, data: NewModel) -> Model:
    """An empty model, to give it a purpose or a policy before its first version."""
    box.teams.require(principal, "model.create", name=data.name)
    return await box.call(box.registry.create_model, data.name, actor=principal.name, purpose=data.purpose)


@get("/api/v1/models/{model:str}", action="model.read")
async def get_model(box: Box, model: str) -> Model:
    """One model."""
    return await box.call(box.registry.model, model)


@get("/api/v1/models/{model:str}/versions", action="model.read")
async def list_versions(box: Box, model: str, limit: Limit = 100, after: int | None = None) -> list[ModelVersion]:
    """A model's versions, newest first."""
    return await box.call(box.registry.versions, model, limit=limit, before=after)


@get("/api/v1/models/{model:str}/versions/{version:int}", action="model.read")
async def get_version(box: Box, model: str, version: int) -> ModelVersion:
    """One version."""
    return await box.call(box.registry.version, model, version)


@post("/api/v1/models/{model:str}/versions", action="model.register")
async def register(box: Box, principal: Principal, model: str, data: Registration) -> ModelVersion:
    """Register an artifact of a run; a job may register what its own run made."""
    if principal.job_id is not None:
        run = await box.call(box.tracker.run, data.run_id)
        if run.job_id != principal.job_id:
            raise NotAuthorised("A job's token may register its own run's artifacts only.")
    return await box.call(box.registrar.register, model, data, actor=principal.name)


@post("/api/v1/models/{model:str}/versions/{version:int}/archive", status_code=200, action="model.write")
async def archive(box: Box, principal: Principal, model: str, version: int) -> ModelVersion:
    """Take a version out of use."""
    return await box.call(box.registry.archive, model, version, actor=principal.name)


@post("/api/v1/models/{model:str}/versions/{version:int}/promote", action="model.promote")
async def promote(box: Box, principal: Principal, model: str, version: int) -> Promotion:
    """Propose a version and begin to test it."""
    return await box.call(box.promoter.promote, model, version, actor=principal.name)


@post("/api/v1/models/{model:str}/compare", status_code=200, action="model.compare")
async def compare(box: Box, model: str, data: Versions) -> Comparison:
    """Score two versions on the same rows, and say how much better the second is and how sure that is."""
    return await box.call(box.comparer.compare, model, data.first, data.second, data.spec)


@get("/api/v1/promotions", action="model.read")
async def list_promotions(
    box: Box, model: str | None = None, limit: Limit = 100, after: str | None = None
) -> list[Promotion]:
    """Promotions, newest first."""
    return await box.call(box.promotions.page, model=model, limit=limit, before=after)


@get("/api/v1/promotions/{promotion_id:str}", action="model.read")
async def get_promotion(box: Box, promotion_id: str) -> Promotion:
    """One promotion, with its gates and approvals."""
    return await box.call(box.promotions.get, promotion_id)


@post("/api/v1/promotions/{promotion_id:str}/approve", status_code=200, action="model.approve")
async def approve(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Say yes; refused to whoever trained, submitted or proposed the version."""
    return await box.call(
        box.promotions.decide, promotion_id, approver=principal.name, decision="approve", comment=data.comment
    )


@post("/api/v1/promotions/{promotion_id:str}/reject", status_code=200, action="model.approve")
async def reject(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Say no."""
    return await box.call(
        box.promotions.decide, promotion_id, approver=principal.name, decision="reject", comment=data.comment
    )


@post("/api/v1/promotions/{promotion_id:str}/withdraw", status_code=200, action="model.promote")
async def withdraw(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """End a promotion that nobody wants any more."""
    return await box.call(box.promotions.withdraw, promotion_id, actor=principal.name, reason=data.comment)


@post("/api/v1/promotions/{promotion_id:str}/roll-back", status_code=200, action="model.promote")
async def roll_back(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Take a candidate's traffic away at once."""
    return await box.call(box.rollouts.roll_back, promotion_id, actor=principal.name, comment=data.comment)


@get("/api/v1/endpoints", action="model.read")
async def list_endpoints(box: Box) -> list[Endpoint]:
    """What serves, and how the candidates stand."""
    return await box.call(box.rollouts.endpoints)


handlers: list[Any] = [
    *(list_models, create_model, get_model, list_versions, get_version, register, archive),
    *(promote, compare, list_promotions, get_promotion),
    *(approve, reject, withdraw, roll_back, list_endpoints),
]
