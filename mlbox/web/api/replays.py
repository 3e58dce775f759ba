"""Logged traffic, asked again of a version offline, over HTTP."""

from __future__ import annotations

from typing import Any

from litestar import get, post

from mlbox.records import Principal, Replay, ReplaySpec
from mlbox.web.box import Box


@post("/api/v1/models/{model:str}/versions/{version:int}/replays", status_code=202, action="model.compare")
async def ask(box: Box, principal: Principal, model: str, version: int, data: ReplaySpec | None = None) -> Replay:
    """Have a version asked logged requests offline, and compared with another on them; returns at once, with it in the queue."""
    return await box.call(box.replays.ask, model, version, data or ReplaySpec(), actor=principal.name)


@get("/api/v1/models/{model:str}/versions/{version:int}/replays", action="model.read")
async def of(box: Box, model: str, version: int) -> list[Replay]:
    """A version's replays, newest first."""
    return await box.call(box.replays.of, model, version)


@get("/api/v1/models/{model:str}/versions/{version:int}/replays/{replay_id:str}", action="model.read")
async def one(box: Box, model: str, version: int, replay_id: str) -> Replay:
    """One replay: in the queue, under way, or with what came of it."""
    return await box.call(box.replays.get, model, version, replay_id)


handlers: list[Any] = [ask, of, one]
