"""How models are served, over the native API."""

from __future__ import annotations

from typing import Any

from litestar import get, patch, post

from mlbox.errors import NotFound
from mlbox.records import Bench, Principal, Record, ServingConfig, VersionQuarantine
from mlbox.web.box import Box


@get("/api/v1/models/{model:str}/serving", action="model.read")
async def get_serving(box: Box, model: str) -> ServingConfig:
    """How a model's requests are joined, queued, limited and remembered."""
    return await box.call(box.serving.of, model)


@patch("/api/v1/models/{model:str}/serving", action="model.configure")
async def change_serving(box: Box, principal: Principal, model: str, data: dict[str, Any]) -> ServingConfig:
    """Set some of it; what is loaded goes by it at once, and no request fails of it."""
    return await box.call(box.serving.change, model, data, actor=principal.name)


class Sizes(Record, frozen=True, kw_only=True):
    """What to measure; by default a few of each."""

    rows: tuple[int, ...] = ()
    """Of a request."""
    concurrency: tuple[int, ...] = ()
    """Requests at a time."""


@get("/api/v1/models/{model:str}/versions/{version:int}/bench", action="model.read")
async def get_bench(box: Box, model: str, version: int) -> Bench:
    """How quick a version was when that was measured last; 404 where it was not."""
    found = await box.call(box.benches.latest, model, version)
    if found is None:
        raise NotFound(
            f"{model}/{version} was not measured.", hint=f"`mlbox model bench {model}/{version}`.", field="version"
        )
    return found


@post("/api/v1/models/{model:str}/versions/{version:int}/bench", action="model.write")
async def run_bench(box: Box, principal: Principal, model: str, version: int, data: Sizes | None = None) -> Bench:
    """Measure a version, in a process of its own, and keep what came of it; takes some seconds."""
    sizes = data or Sizes()
    return await box.call(
        box.benches.run, model, version, actor=principal.name, rows=sizes.rows, concurrency=sizes.concurrency
    )


@get("/api/v1/quarantine", action="model.read")
async def list_quarantined(box: Box) -> list[VersionQuarantine]:
    """Versions that may not run, because the processes that ran them died."""
    return await box.call(box.quarantines.all)


@post("/api/v1/models/{model:str}/versions/{version:int}/release", action="model.release", status_code=204)
async def release(box: Box, principal: Principal, model: str, version: int) -> None:
    """Let a version run again that ended its processes."""
    await box.call(box.quarantines.release, model, version, actor=principal.name)


handlers: list[Any] = [get_serving, change_serving, get_bench, run_bench, list_quarantined, release]
