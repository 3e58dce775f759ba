"""Entities, and definitions that are planned and applied as one."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post

from mlbox import definition_text
from mlbox.records import Definitions, Entity, FeaturePlan, PlannedChange, Principal, Record
from mlbox.store.features.catalog import split_ref
from mlbox.web.box import Box
from mlbox.web.catalogue import lineage

_USERS = ("service", "dataset", "model", "endpoint")


class Apply(Record, frozen=True, kw_only=True):
    """Definitions to apply, and the `base` of the plan that was agreed to, if there was one."""

    definitions: Definitions
    base: str | None = None


class DefinitionText(Record, frozen=True, kw_only=True):
    """Definitions in TOML, and the `base` of the plan that was agreed to, if there was one."""

    toml: str
    base: str | None = None


@get("/api/v1/features/entities", action="view.read")
async def list_entities(box: Box) -> list[Entity]:
    """All entities by name."""
    return await box.call(box.features.entities)


@post("/api/v1/features/entities", action="view.apply")
async def apply_entity(box: Box, principal: Principal, data: Entity) -> Entity:
    """Name join keys; they cannot change while a view names the entity."""
    box.teams.require(principal, "view.apply", name=data.name)
    return await box.call(box.features.apply_entity, data, actor=principal.name)


@post("/api/v1/features/plan", status_code=200, action="view.apply")
async def plan(box: Box, principal: Principal, data: Definitions) -> FeaturePlan:
    """What applying definitions would do, and what it touches, without doing it."""
    _require(box, principal, data)
    return await box.call(_plan, box, data)


@post("/api/v1/features/plan/toml", status_code=200, action="view.apply")
async def plan_text(box: Box, principal: Principal, data: DefinitionText) -> FeaturePlan:
    """What applying definitions in TOML would do, without doing it."""

    def look() -> FeaturePlan:
        wanted = definition_text.read(data.toml)
        _require(box, principal, wanted)
        return _plan(box, wanted)

    return await box.call(look)


@post("/api/v1/features/apply", status_code=200, action="view.apply")
async def apply(box: Box, principal: Principal, data: Apply) -> FeaturePlan:
    """Bring the box to what is defined, all or none; a 409 where another apply came after the plan."""
    _require(box, principal, data.definitions)
    return await box.call(box.features.apply, data.definitions, base=data.base, actor=principal.name)


@post("/api/v1/features/apply/toml", status_code=200, action="view.apply")
async def apply_text(box: Box, principal: Principal, data: DefinitionText) -> FeaturePlan:
    """Bring the box to what a text in TOML defines, all or none; a 409 where another apply came after the plan."""

    def do() -> FeaturePlan:
        wanted = definition_text.read(data.toml)
        _require(box, principal, wanted)
        return box.features.apply(wanted, base=data.base, actor=principal.name)

    return await box.call(do)


def _plan(box: Box, wanted: Definitions) -> FeaturePlan:
    found = box.features.plan(wanted)
    return msgspec.structs.replace(found, changes=tuple(_touching(box, one) for one in found.changes))


def _require(box: Box, principal: Principal, wanted: Definitions) -> None:
    for source in wanted.sources:
        box.teams.require(principal, "source.create", name=source.name)
    kinds: tuple[tuple[str, ...], ...] = (
        tuple(one.name for one in wanted.entities),
        tuple(one.name for one in wanted.views),
        tuple(one.name for one in wanted.transforms),
        tuple(one.name for one in wanted.services),
    )
    for names in kinds:
        for name in names:
            box.teams.require(principal, "view.apply", name=name)


def _touching(box: Box, change: PlannedChange) -> PlannedChange:
    """The change with what uses the version before it."""
    if change.action != "new version" or change.kind == "service":
        return change
    name, version = split_ref(change.ref)
    nodes = lineage(box, f"{name}@v{(version or 2) - 1}").nodes
    users = tuple(f"{node.kind} {node.name}" for node in nodes if node.kind in _USERS)
    return msgspec.structs.replace(change, touches=users)


handlers: list[Any] = [list_entities, apply_entity, plan, plan_text, apply, apply_text]
