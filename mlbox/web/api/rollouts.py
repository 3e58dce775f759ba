"""Canaries over HTTP: hold them, let them go on, and what was decided about them from which evidence."""

from __future__ import annotations

from typing import Any

from litestar import get, post

from mlbox.records import CoursePoint, ModelVersion, Principal, Promotion, Recomputed, RolloutDecision, ShadowFigures
from mlbox.serve.rollout.verdict import recompute
from mlbox.web.api.models import Comment
from mlbox.web.box import Box


@post("/api/v1/promotions/{promotion_id:str}/pause", status_code=200, action="model.promote")
async def pause(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Keep a canary at its share until it is resumed; its guards still roll it back."""
    return await box.call(box.rollouts.hold, promotion_id, "paused", actor=principal.name, comment=data.comment)


@post("/api/v1/promotions/{promotion_id:str}/resume", status_code=200, action="model.promote")
async def resume(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Let a canary that was paused, or is undecided, go on; the pause counts for no hold."""
    return await box.call(box.rollouts.hold, promotion_id, "", actor=principal.name, comment=data.comment)


@post("/api/v1/promotions/{promotion_id:str}/freeze", status_code=200, action="model.promote")
async def freeze(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Take a canary's traffic away and keep it loaded with its evidence, for a post-mortem; it ends by a rollback."""
    return await box.call(box.rollouts.hold, promotion_id, "frozen", actor=principal.name, comment=data.comment)


@post("/api/v1/promotions/{promotion_id:str}/advance", status_code=200, action="model.approve")
async def advance(box: Box, principal: Principal, promotion_id: str, data: Comment) -> Promotion:
    """Give an undecided canary its next share, or one whose guards all hold before its hold ends: a second approver's word."""
    return await box.call(box.rollouts.advance, promotion_id, actor=principal.name, comment=data.comment)


@post("/api/v1/models/{model:str}/versions/{version:int}/reinstate", status_code=200, action="model.promote")
async def reinstate(box: Box, principal: Principal, model: str, version: int, data: Comment) -> ModelVersion:
    """Take Production back to this version at once; it must have been there before."""
    return await box.call(box.reinstatement.to, model, version, actor=principal.name, reason=data.comment)


@get("/api/v1/promotions/{promotion_id:str}/decisions", action="model.read")
async def decisions(box: Box, promotion_id: str) -> list[RolloutDecision]:
    """What was decided about a candidate's traffic, oldest first, each with its inputs, statistics, bounds and rule."""
    return await box.call(box.rollout_log.of, promotion_id)


@get("/api/v1/promotions/{promotion_id:str}/decisions/recomputed", action="model.read")
async def recomputed(box: Box, promotion_id: str) -> list[Recomputed]:
    """Every decision made again from its own inputs, and whether the answer is the same."""
    return await box.call(_recomputed, box, promotion_id)


def _recomputed(box: Box, promotion_id: str) -> list[Recomputed]:
    policy = box.promotions.get(promotion_id).policy
    return [recompute(decision, policy) for decision in box.rollout_log.of(promotion_id)]


@get("/api/v1/promotions/{promotion_id:str}/course", action="model.read")
async def course(box: Box, promotion_id: str) -> list[CoursePoint]:
    """What a canary's guards said while its evidence grew, step by step: one point for each tenth that it grew by."""
    return await box.call(box.rollout_log.course, promotion_id)


@get("/api/v1/promotions/{promotion_id:str}/shadow", action="model.read")
async def shadow(box: Box, promotion_id: str) -> list[ShadowFigures]:
    """What a shadow does beside the champion, or did as it ended: on all requests, then by segment, the largest first."""
    return list(await box.call(lambda: box.rollouts.shadow(box.promotions.get(promotion_id))))


handlers: list[Any] = [reinstate, pause, resume, freeze, advance, decisions, recomputed, course, shadow]
