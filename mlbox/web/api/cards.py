"""Who answers for a version, over HTTP: its card, its facts, and all that an approver looks at."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post

from mlbox.records import Card, Delivery, Dossier, Governance, Principal, Promotion
from mlbox.store.registry.promotion_notices import subject_of
from mlbox.web.box import Box


@get("/api/v1/approvals", action="model.read")
async def waiting(box: Box) -> list[Promotion]:
    """The promotions that wait for a person's decision, oldest first."""
    found = await box.call(box.promotions.open)
    return [promotion for promotion in found if promotion.state == "waiting_approval"]


@get("/api/v1/promotions/{promotion_id:str}/dossier", action="model.read")
async def dossier(box: Box, promotion_id: str) -> Dossier:
    """All about a promotion: gates, comparison, fairness, shadow, card, and in what it differs from the champion."""
    return await box.call(box.governor.dossier, promotion_id)


@get("/api/v1/promotions/{promotion_id:str}/deliveries", action="model.read")
async def deliveries(box: Box, promotion_id: str) -> list[Delivery]:
    """What the policy's addresses were told of a promotion, newest first, and what became of each message."""

    def found() -> list[Delivery]:
        return box.promotion_outbox.of(subject_of(box.promotions.get(promotion_id).id))

    return await box.call(found)


@get("/api/v1/models/{model:str}/versions/{version:int}/governance", action="model.read")
async def governance(box: Box, model: str, version: int) -> Governance:
    """Who trained a version, from what code and data, who approved it, what for, and when it served what share."""
    return await box.call(box.governor.facts, model, version)


@get("/api/v1/models/{model:str}/versions/{version:int}/card", action="model.read")
async def card_of_version(box: Box, model: str, version: int) -> Response[str]:
    """A version's model card in Markdown, with the YAML of Hugging Face's hub."""
    text = await box.call(box.governor.card, model, version)
    return Response(text, media_type="text/markdown")


@get("/api/v1/models/{model:str}/card", action="model.read")
async def card(box: Box, model: str) -> Card:
    """What people wrote into a model's card."""
    return await box.call(box.cards.of, model)


@post("/api/v1/models/{model:str}/card", status_code=200, action="model.write")
async def edit(box: Box, principal: Principal, model: str, data: dict[str, str]) -> Card:
    """Write parts of a model's card anew, by name; the others stay."""
    return await box.call(box.cards.edit, model, data, actor=principal.name)


handlers: list[Any] = [waiting, dossier, deliveries, governance, card_of_version, card, edit]
