"""Triton's repository extension: what could serve, and what of it is in memory. What may be loaded the registry decides."""

from __future__ import annotations

from typing import Any

from litestar import Response, post

from mlbox.errors import Refused
from mlbox.records import ModelVersion, Principal, Record
from mlbox.serve.server import SERVING
from mlbox.web.box import Box
from mlbox.web.v2.models import problem


class Index(Record, frozen=True, kw_only=True):
    """Which models to list."""

    ready: bool = False
    """Only those in memory."""


class Change(Record, frozen=True, kw_only=True):
    """How to load or unload; `config` and `file:...` would bring a model that nobody approved, and are refused."""

    parameters: dict[str, Any] = {}


@post("/v2/repository/index", status_code=200, exception_handlers={Exception: problem}, action="model.read")
async def index(box: Box, data: Index | None = None) -> list[dict[str, str]]:
    """Every version that may serve, and whether it is in memory."""
    loaded = {(one.model, one.version) for one in box.models.loaded()}
    found = await box.call(_servable, box)
    rows = [
        {
            "name": one.model,
            "version": str(one.version),
            "state": "READY" if (one.model, one.version) in loaded else "UNAVAILABLE",
            "reason": "" if (one.model, one.version) in loaded else "unloaded",
        }
        for one in found
    ]
    return [row for row in rows if row["state"] == "READY" or data is None or not data.ready]


def _servable(box: Box) -> list[ModelVersion]:
    return [one for stage in SERVING for one in box.registry.in_stage(stage) if one.servable]


@post(
    "/v2/repository/models/{model:str}/load",
    status_code=200,
    exception_handlers={Exception: problem},
    action="model.write",
)
async def load(box: Box, principal: Principal, model: str, data: Change | None = None) -> Response[bytes]:
    """Bring the version in Production into memory; a version that nobody approved cannot be brought in."""
    named = [name for name in (data.parameters if data else {}) if name == "config" or name.startswith("file:")]
    if named:
        raise Refused(
            f"A model is not loaded from {named[0]!r:.80}: only what the registry lets serve is.",
            hint="Register a version and promote it: `mlbox model promote NAME@N`.",
            field=named[0][:200],
        )
    await box.call(box.models.ready, model)
    return Response(b"", status_code=200)


@post(
    "/v2/repository/models/{model:str}/unload",
    status_code=200,
    exception_handlers={Exception: problem},
    action="model.write",
)
async def unload(box: Box, principal: Principal, model: str, data: Change | None = None) -> Response[bytes]:
    """Free a model's memory; it is loaded again when it is asked for."""
    found = await box.call(box.models.metadata, model)
    box.models.unload(found.model, found.version)
    return Response(b"", status_code=200)


handlers: list[Any] = [index, load, unload]
