"""Triton's repository extension: what could serve, and what of it is in memory. What may be loaded the registry decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import MediaType, Response, post

from mlbox.errors import MlboxError, NotFound, Refused
from mlbox.records import ModelVersion, Principal, Record
from mlbox.serve.inference import naming
from mlbox.serve.inference.targets import SERVING
from mlbox.web.box import Box
from mlbox.web.v2.configuring import changes_of
from mlbox.web.v2.models import config, problem

UNTYPED = ("", "application/x-www-form-urlencoded")
"""JSON all the same: tritonclient names no type, `curl -d` that of a form."""


class Index(Record, frozen=True, kw_only=True):
    """Which models to list."""

    ready: bool = False
    """Only those in memory."""


class Change(Record, frozen=True, kw_only=True):
    """How to load or unload: `config` configures the model; `file:...` would bring one that nobody approved, and is refused."""

    parameters: dict[str, Any] = {}


@post(
    "/v2/repository/index",
    status_code=200,
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.read",
)
async def index(box: Box, data: Index | None = None) -> list[dict[str, str]]:
    """Every version that may serve, and whether it is in memory."""
    return await listed(box, only_ready=data is not None and data.ready)


async def listed(box: Box, *, only_ready: bool) -> list[dict[str, str]]:
    """The rows of the index."""
    found = await box.call(_servable, box)
    states = dict.fromkeys(box.models.loading(), ("LOADING", ""))
    states |= {(one.model, one.version): ("READY", "") for one in box.models.loaded()}
    barred = {(one.model, one.version): one.reason for one in await box.call(box.quarantines.all)}
    rows = []
    for one in found:
        name = (one.model, one.version)
        state, reason = states.get(name) or ("UNAVAILABLE", barred.get(name, "unloaded"))
        rows.append({"name": one.model, "version": str(one.version), "state": state, "reason": reason})
    return [row for row in rows if row["state"] == "READY" or not only_ready]


def _servable(box: Box) -> list[ModelVersion]:
    return [one for stage in SERVING for one in box.registry.in_stage(stage) if one.servable]


@post(
    "/v2/repository/models/{model:str}/load",
    status_code=200,
    media_type=MediaType.TEXT,
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.write",
)
async def load(box: Box, principal: Principal, model: str, data: Change | None = None) -> Response[bytes]:
    """Bring the version in Production into memory, configured as is said; one that nobody approved cannot be brought in."""
    await bring_in(box, principal, model, data.parameters if data else {})
    return Response(b"", status_code=200)


async def bring_in(box: Box, principal: Principal, model: str, parameters: Mapping[str, Any]) -> None:
    """Have the version in Production in memory; raises Refused where the parameters name a file, or there is none.

    An error begins with the words that Triton's clients look for.
    """
    named = [name for name in parameters if name.startswith("file:")]
    try:
        if named:
            raise Refused(
                f"a model is not loaded from {named[0]!r:.80}: only what the registry lets serve is.",
                hint="Register a version and promote it: `mlbox model promote NAME@N`.",
                field=named[0][:200],
            )
        found = await box.call(_let_serve, box, model)
        if "config" in parameters:
            await _configure(box, principal, model, parameters["config"])
        await box.call(box.models.load, found)
    except MlboxError as err:
        failed = type(err)(f"failed to load {model!r:.200}, {err.message}", hint=err.hint, field=err.field)
        failed.retry_seconds = err.retry_seconds
        raise failed from err


async def _configure(box: Box, principal: Principal, model: str, text: object) -> None:
    """Change how a model is served, as `mlbox model serving` does: what is loaded goes by it at once, and no request fails."""
    now = await config(box, model, None)
    box.teams.require(principal, "model.configure", name=now["name"])
    changes = changes_of(text, now)
    if changes:
        await box.call(box.serving.change, now["name"], changes, actor=principal.name)


def _let_serve(box: Box, model: str) -> ModelVersion:
    """The version that an address names; raises Refused also for a model of which none is in the stage that is meant."""
    try:
        return box.models.metadata(model)
    except NotFound as err:
        name, what = naming.parse(model)
        box.registry.model(name)
        if what.lower() in naming.STAGES:
            raise Refused(err.message, hint=err.hint, field=err.field) from err
        raise


@post(
    "/v2/repository/models/{model:str}/unload",
    status_code=200,
    media_type=MediaType.TEXT,
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.write",
)
async def unload(box: Box, principal: Principal, model: str, data: Change | None = None) -> Response[bytes]:
    """Free a model's memory; it is loaded again when it is asked for answers."""
    await put_out(box, model)
    return Response(b"", status_code=200)


async def put_out(box: Box, model: str) -> None:
    """Free the memory of the version in Production."""
    found = await box.call(box.models.metadata, model)
    box.models.unload(found.model, found.version)


handlers: list[Any] = [index, load, unload]
