"""MLflow's webhooks, as an adapter: who is told of what happens to registered models."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from litestar import Request

from mlbox.errors import InvalidInput
from mlbox.records import Principal, Webhook
from mlbox.store.registry.webhooks import MLFLOW
from mlbox.web.box import Box
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.wire import Message, delete, get, patch, paths, post

MOST = 1000
Status = Literal["ACTIVE", "DISABLED"]


class Named(Message, frozen=True, kw_only=True):
    """An event by MLflow's enums."""

    entity: str
    action: str

    @property
    def name(self) -> str:
        """As `registered_model.created`."""
        return f"{self.entity}.{self.action}".lower()


class Create(Message, frozen=True, kw_only=True):
    """A webhook to make."""

    name: str
    url: str
    events: tuple[Named, ...] = ()
    description: str = ""
    secret: str = ""
    status: Status = "ACTIVE"


class Change(Message, frozen=True, kw_only=True):
    """What of a webhook to change."""

    name: str | None = None
    url: str | None = None
    events: tuple[Named, ...] = ()
    description: str | None = None
    secret: str | None = None
    status: Status | None = None


class Page(Message, frozen=True, kw_only=True):
    """A page of webhooks."""

    max_results: int | None = None
    page_token: str = ""


class Test(Message, frozen=True, kw_only=True):
    """An event to make up; the webhook's first where it is left out."""

    event: Named | None = None


def message(webhook: Webhook) -> dict[str, Any]:
    """A webhook as MLflow writes it; its secret is never shown. Events that MLflow's client does not know stand apart."""
    events = [name.upper().split(".") for name in webhook.events if name in MLFLOW]
    return {
        "webhook_id": webhook.id,
        "name": webhook.name,
        "description": webhook.description,
        "url": webhook.url,
        "events": [{"entity": entity, "action": action} for entity, action in events],
        "mlbox_events": [name for name in webhook.events if name not in MLFLOW],
        "status": "ACTIVE" if webhook.active else "DISABLED",
        "creation_timestamp": wire.millis(webhook.created_at),
        "last_updated_timestamp": wire.millis(webhook.updated_at),
    }


@post(paths("webhooks"), action="webhook.write")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """A new webhook."""
    asked = await wire.decode(request, Create)
    if not asked.events:
        raise scope.missing("events")

    def work() -> dict[str, Any]:
        box.deliverer.check(asked.url)
        made = box.webhooks.create(
            asked.name,
            asked.url,
            [event.name for event in asked.events],
            owner=principal.name,
            description=asked.description,
            secret=asked.secret,
            active=asked.status == "ACTIVE",
        )
        return {"webhook": message(made)}

    return await box.call(work)


@get(paths("webhooks"), action="webhook.read")
async def list_webhooks(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Webhooks, in pages."""
    asked = await wire.decode(request, Page)
    limit = wire.page_size(asked.max_results, default=100, most=MOST)
    place = wire.read_token(asked.page_token)
    found = await box.call(box.webhooks.all, limit=limit + 1, after=str(place[0]) if place else "")
    more = len(found) > limit
    return {
        "webhooks": [message(webhook) for webhook in found[:limit]],
        **wire.next_page([found[limit - 1].id] if more else None),
    }


@get(paths("webhooks/{webhook_id:str}"), action="webhook.read")
async def get_webhook(box: Box, webhook_id: str) -> dict[str, Any]:
    """One webhook."""
    return {"webhook": message(await box.call(box.webhooks.get, webhook_id))}


@patch(paths("webhooks/{webhook_id:str}"), action="webhook.write")
async def update(request: Request[Any, Any, Any], box: Box, principal: Principal, webhook_id: str) -> dict[str, Any]:
    """Change what is given."""
    asked = await wire.decode(request, Change)

    def work() -> dict[str, Any]:
        if asked.url:
            box.deliverer.check(asked.url)
        changed = box.webhooks.change(
            webhook_id,
            actor=principal.name,
            name=asked.name,
            url=asked.url,
            events=[event.name for event in asked.events] or None,
            description=asked.description,
            secret=asked.secret,
            active=None if asked.status is None else asked.status == "ACTIVE",
        )
        return {"webhook": message(changed)}

    return await box.call(work)


@delete(paths("webhooks/{webhook_id:str}"), action="webhook.write")
async def remove(box: Box, principal: Principal, webhook_id: str) -> dict[str, Any]:
    """Forget a webhook."""
    await box.call(box.webhooks.delete, webhook_id, actor=principal.name)
    return {}


@get(paths("webhooks/{webhook_id:str}/deliveries"), action="webhook.read")
async def deliveries(box: Box, webhook_id: str) -> dict[str, Any]:
    """What a webhook was told, newest first, and what became of it; MLflow has no such list."""
    found = await box.call(box.webhooks.deliveries, webhook_id)
    return {"deliveries": [msgspec.to_builtins(delivery) for delivery in found]}


@post(paths("webhooks/{webhook_id:str}/test"), action="webhook.write")
async def test(request: Request[Any, Any, Any], box: Box, principal: Principal, webhook_id: str) -> dict[str, Any]:
    """Send a made-up event, and say what was answered."""
    asked = await wire.decode(request, Test)

    def work() -> dict[str, Any]:
        webhook = box.webhooks.get(webhook_id)
        if asked.event is not None and asked.event.name not in webhook.events:
            raise InvalidInput(f"The webhook is not told of {asked.event.name}.", field="event")
        done = box.deliverer.test(webhook, asked.event.name if asked.event else None)
        answer = {"success": done.ok, "response_status": done.status, "response_body": done.body or None}
        told = {**answer, "error_message": done.error or None}
        return {"result": {key: value for key, value in told.items() if value is not None}}

    return await box.call(work)


handlers: list[Any] = [create, list_webhooks, get_webhook, update, remove, deliveries, test]
