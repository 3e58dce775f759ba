"""Training-serving skew over HTTP."""

from __future__ import annotations

from typing import Any

from litestar import get, post

from mlbox.records import Principal, SkewResult
from mlbox.web.box import Box


@post("/api/v1/monitoring/{model:str}/skew", status_code=200, action="monitor.check")
async def check_skew(box: Box, principal: Principal, model: str) -> list[SkewResult]:
    """Compute a sample of what the model was served anew from the history, now."""
    return await box.call(box.skew.check, model)


@get("/api/v1/monitoring/{model:str}/skew", action="monitor.read")
async def latest_skew(box: Box, model: str) -> list[SkewResult]:
    """The results of the last check, by feature."""
    await box.call(box.registry.model, model)
    return await box.call(box.skew.latest, model)


handlers: list[Any] = [check_skew, latest_skew]
