"""How models are served, over the native API."""

from __future__ import annotations

from typing import Any

from litestar import get, patch

from mlbox.records import Principal, ServingConfig
from mlbox.web.box import Box


@get("/api/v1/models/{model:str}/serving", action="model.read")
async def get_serving(box: Box, model: str) -> ServingConfig:
    """How a model's requests are joined, queued, limited and remembered."""
    return await box.call(box.serving.of, model)


@patch("/api/v1/models/{model:str}/serving", action="model.configure")
async def change_serving(box: Box, principal: Principal, model: str, data: dict[str, Any]) -> ServingConfig:
    """Set some of it; what is loaded goes by it at once, and no request fails of it."""
    return await box.call(box.serving.change, model, data, actor=principal.name)


handlers: list[Any] = [get_serving, change_serving]
