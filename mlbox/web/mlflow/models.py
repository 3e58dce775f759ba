"""MLflow's registered models and their aliases, as an adapter over the registry.

A description is the model's purpose. `latest_versions` has the newest version of each stage, as MLflow's own server answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from litestar import Request

from mlbox.errors import InvalidInput
from mlbox.records import Model, ModelVersion, Principal, Stage
from mlbox.web.api.registry import check_rename
from mlbox.web.box import Box
from mlbox.web.mlflow import wire
from mlbox.web.mlflow.wire import Message, delete, get, patch, paths, post

MOST_MODELS = 1000
STAGES: tuple[Stage, ...] = ("None", "Staging", "Production", "Archived")
_BY_LOWER: dict[str, Stage] = {stage.lower(): stage for stage in STAGES}
ACTIVE: tuple[Stage, ...] = ("Staging", "Production")


class Tag(Message, frozen=True, kw_only=True):
    """A key and its value."""

    key: str
    value: str = ""


class Named(Message, frozen=True, kw_only=True):
    """What names a registered model; every request about one is one of these."""

    name: str


class CreateModel(Named, frozen=True, kw_only=True):
    """A model to make."""

    description: str = ""
    tags: tuple[Tag, ...] = ()


class UpdateModel(Named, frozen=True, kw_only=True):
    """Another description."""

    description: str = ""


class RenameModel(Named, frozen=True, kw_only=True):
    """Another name."""

    new_name: str


class LatestVersions(Named, frozen=True, kw_only=True):
    """The stages to look in; all without any."""

    stages: tuple[str, ...] = ()


class SetTag(Named, frozen=True, kw_only=True):
    """A tag to set."""

    key: str
    value: str = ""


class DeleteTag(Named, frozen=True, kw_only=True):
    """A tag to take away."""

    key: str


class SetAlias(Named, frozen=True, kw_only=True):
    """The version that an alias is to stand for."""

    alias: str
    version: str | int


class Alias(Named, frozen=True, kw_only=True):
    """An alias."""

    alias: str


class Search(Message, frozen=True, kw_only=True):
    """A search of models or of versions."""

    filter: str = ""
    max_results: int | None = None
    order_by: tuple[str, ...] = ()
    page_token: str = ""


# -- in MLflow's words --------------------------------------------------------------------------------------------------


def version_message(version: ModelVersion) -> dict[str, Any]:
    """A version as MLflow writes it."""
    return {
        "name": version.model,
        "version": str(version.version),
        "creation_timestamp": wire.millis(version.created_at),
        "last_updated_timestamp": wire.millis(version.updated_at or version.created_at),
        "user_id": version.submitted_by,
        "current_stage": version.stage,
        "description": version.description,
        "source": version.source or "",
        "run_id": version.run_id or "",
        "status": "READY",
        "status_message": version.unservable,
        "tags": tags_message(version.tags),
        "run_link": version.run_link,
        "aliases": list(version.aliases),
        **({"model_id": version.logged_model} if version.logged_model else {}),
    }


def model_message(model: Model, latest: Iterable[ModelVersion]) -> dict[str, Any]:
    """A registered model as MLflow writes it."""
    return {
        "name": model.name,
        "creation_timestamp": wire.millis(model.created_at),
        "last_updated_timestamp": wire.millis(model.updated_at or model.created_at),
        "user_id": model.owner,
        "description": model.purpose,
        "latest_versions": [version_message(version) for version in latest],
        "tags": tags_message(model.tags),
        "aliases": [{"alias": alias, "version": str(number)} for alias, number in sorted(model.aliases.items())],
    }


def tags_message(tags: dict[str, str]) -> list[dict[str, str]]:
    """Tags by name."""
    return [{"key": key, "value": value} for key, value in sorted(tags.items())]


def stage_of(text: str) -> Stage:
    """A stage however it is written; raises InvalidInput."""
    found = _BY_LOWER.get(text.lower())
    if found is None:
        raise InvalidInput(
            f"Invalid Model Version stage: {text[:80]}. Value must be one of {', '.join(STAGES)}.", field="stage"
        )
    return found


def number_of(version: str | int) -> int:
    """A version's number; raises InvalidInput for what is none. One that is too large for any names none either."""
    try:
        return min(int(version), 2**62)
    except ValueError as err:
        raise wire.invalid("version", version, "Version must be an integer.") from err


def latest(box: Box, model: Model, stages: Sequence[Stage] = STAGES) -> list[ModelVersion]:
    """The newest version of each stage that has one."""
    numbers = sorted(number for stage, number in model.stages.items() if stage in stages)
    return [box.registry.version(model.name, number) for number in numbers]


def shown(box: Box, name: str) -> dict[str, Any]:
    """The answer that is a registered model."""
    model = box.registry.model(name)
    return {"registered_model": model_message(model, latest(box, model))}


# -- models -------------------------------------------------------------------------------------------------------------


@post(paths("registered-models/create"), action="model.register")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """An empty model; a second one of the name is RESOURCE_ALREADY_EXISTS, on which `register_model` goes on."""
    asked = await wire.take(request, box, principal, CreateModel, "model.register")

    def work() -> dict[str, Any]:
        box.registry.create_model(asked.name, actor=principal.name, purpose=asked.description)
        for tag in asked.tags:
            box.curation.set_model_tag(asked.name, tag.key, tag.value, actor=principal.name)
        return shown(box, asked.name)

    return await box.call(work)


@get(paths("registered-models/get"), action="model.read")
async def get_model(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """One model."""
    asked = await wire.take(request, box, principal, Named, "model.read")
    return await box.call(shown, box, asked.name)


@patch(paths("registered-models/update"), action="model.write")
async def update(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another description."""
    asked = await wire.take(request, box, principal, UpdateModel, "model.write")
    await box.call(box.curation.describe, asked.name, purpose=asked.description, actor=principal.name)
    return await box.call(shown, box, asked.name)


@post(paths("registered-models/rename"), action="model.write")
async def rename(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another name; refused while the model serves or is on its way to Production."""
    asked = await wire.take(request, box, principal, RenameModel, "model.write")
    check_rename(box, principal, asked.name, asked.new_name)
    await box.call(box.curation.rename, asked.name, asked.new_name, actor=principal.name)
    return await box.call(shown, box, asked.new_name)


@delete(paths("registered-models/delete"), action="model.write")
async def delete_model(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Delete a model; refused while a version is in Production."""
    asked = await wire.take(request, box, principal, Named, "model.write")
    await box.call(box.curation.delete, asked.name, actor=principal.name)
    return {}


@get(paths("registered-models/search"), action="model.read")
async def search(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Models by filter, in pages."""
    asked = await wire.decode(request, Search)
    limit = wire.page_size(asked.max_results, default=100, most=MOST_MODELS)

    def work() -> dict[str, Any]:
        after = wire.read_token(asked.page_token)
        page = box.model_search.models(asked.filter, order_by=asked.order_by, limit=limit, after=after)
        messages = [model_message(model, latest(box, model)) for model in page.found]
        return {"registered_models": messages, **wire.next_page(page.next)}

    return await box.call(work)


async def _latest_versions(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    asked = await wire.take(request, box, principal, LatestVersions, "model.read")

    def work() -> dict[str, Any]:
        stages = [stage_of(stage) for stage in asked.stages] or list(STAGES)
        found = latest(box, box.registry.model(asked.name), stages)
        return {"model_versions": [version_message(version) for version in found]}

    return await box.call(work)


@get(paths("registered-models/get-latest-versions"), action="model.read")
async def get_latest_versions(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """The newest version of each stage: what `models:/NAME/Production` asks."""
    return await _latest_versions(request, box, principal)


@post(paths("registered-models/get-latest-versions"), action="model.read")
async def post_latest_versions(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """The same, asked by POST."""
    return await _latest_versions(request, box, principal)


# -- tags and aliases ---------------------------------------------------------------------------------------------------


@post(paths("registered-models/set-tag"), action="model.write")
async def set_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Tag a model."""
    asked = await wire.take(request, box, principal, SetTag, "model.write")
    await box.call(box.curation.set_model_tag, asked.name, asked.key, asked.value, actor=principal.name)
    return {}


@delete(paths("registered-models/delete-tag"), action="model.write")
async def delete_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a model's tag away."""
    asked = await wire.take(request, box, principal, DeleteTag, "model.write")
    await box.call(box.curation.delete_model_tag, asked.name, asked.key, actor=principal.name)
    return {}


@post(paths("registered-models/alias"), action="model.write")
async def set_alias(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Let a free name stand for a version."""
    asked = await wire.take(request, box, principal, SetAlias, "model.write")
    number = number_of(asked.version)
    await box.call(box.curation.set_alias, asked.name, asked.alias, number, actor=principal.name)
    return {}


@get(paths("registered-models/alias"), action="model.read")
async def get_alias(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """The version that an alias stands for: what `models:/NAME@ALIAS` asks."""
    asked = await wire.take(request, box, principal, Alias, "model.read")
    return {"model_version": version_message(await box.call(by_alias, box, asked.name, asked.alias))}


def by_alias(box: Box, name: str, alias: str) -> ModelVersion:
    """The version that an alias stands for; an alias that is not there is INVALID_PARAMETER_VALUE, as with MLflow."""
    if alias not in box.registry.model(name).aliases:
        raise InvalidInput(f"Registered model alias {alias[:80]} not found.", field="alias")
    return box.registry.by_alias(name, alias)


@delete(paths("registered-models/alias"), action="model.write")
async def delete_alias(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take an alias away."""
    asked = await wire.take(request, box, principal, Alias, "model.write")
    await box.call(box.curation.delete_alias, asked.name, asked.alias, actor=principal.name)
    return {}


handlers: list[Any] = [
    *(create, get_model, update, rename, delete_model, search, get_latest_versions, post_latest_versions),
    *(set_tag, delete_tag, set_alias, get_alias, delete_alias),
]
