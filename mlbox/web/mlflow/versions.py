"""MLflow's model versions and their stages, as an adapter over the registry and the promotions.

A version keeps the files that it was registered with, and `get-download-uri` leads to them, not to whatever lies now where they
came from. `transition-stage` is a step of a promotion: to Staging it waits for the gates, and to Production it answers 403
with what is missing until another person has approved.
"""

from __future__ import annotations

from typing import Any

from litestar import Request

from mlbox.errors import InvalidInput
from mlbox.records import ModelVersion, Principal
from mlbox.serve.registration.sources import DATASET_TAG, KEPT, Source
from mlbox.web.box import Box
from mlbox.web.mlflow import wire
from mlbox.web.mlflow.models import ACTIVE, Named, Search, Tag, number_of, stage_of, version_message
from mlbox.web.mlflow.wire import delete, get, patch, paths, post

MOST_VERSIONS = 200_000
DEFAULT_VERSIONS = 10_000


class OfVersion(Named, frozen=True, kw_only=True):
    """What names a version; every request about one is one of these."""

    version: str | int


class CreateVersion(Named, frozen=True, kw_only=True):
    """A version to register."""

    source: str
    run_id: str = ""
    run_link: str = ""
    model_id: str = ""
    description: str = ""
    tags: tuple[Tag, ...] = ()


class UpdateVersion(OfVersion, frozen=True, kw_only=True):
    """Another description."""

    description: str = ""


class Transition(OfVersion, frozen=True, kw_only=True):
    """Another stage."""

    stage: str
    archive_existing_versions: bool = False


class SetVersionTag(OfVersion, frozen=True, kw_only=True):
    """A tag to set."""

    key: str
    value: str = ""


class DeleteVersionTag(OfVersion, frozen=True, kw_only=True):
    """A tag to take away."""

    key: str


def answer(version: ModelVersion) -> dict[str, Any]:
    """The answer that is a version."""
    return {"model_version": version_message(version)}


@post(paths("model-versions/create"), action="model.register")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Register what a source names: files of a run, of a logged model or of another version."""
    asked = await wire.take(request, box, principal, CreateVersion, "model.register")
    ask = Source(
        source=asked.source,
        run_id=asked.run_id or None,
        model_id=asked.model_id or None,
        run_link=asked.run_link,
        description=asked.description,
        tags={tag.key: tag.value for tag in asked.tags},
    )
    return answer(await box.call(box.sources.register, asked.name, ask, actor=principal.name, job_id=principal.job_id))


@get(paths("model-versions/get"), action="model.read")
async def get_version(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """One version."""
    asked = await wire.take(request, box, principal, OfVersion, "model.read")
    return answer(await box.call(box.registry.version, asked.name, number_of(asked.version)))


@patch(paths("model-versions/update"), action="model.write")
async def update(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another description."""
    asked = await wire.take(request, box, principal, UpdateVersion, "model.write")
    number = number_of(asked.version)
    return answer(
        await box.call(box.curation.describe_version, asked.name, number, asked.description, actor=principal.name)
    )


@post(paths("model-versions/transition-stage"), action="model.promote")
async def transition(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another stage, by the rules of the promotion. One version at most is in Production, so the former is archived."""
    asked = await wire.take(request, box, principal, Transition, "model.promote")
    stage = stage_of(asked.stage)
    if asked.archive_existing_versions and stage not in ACTIVE:
        raise InvalidInput(
            "Model version transition cannot archive existing model versions because"
            f" '{asked.stage:.80}' is not an Active stage. Valid stages are {list(ACTIVE)}",
            field="archive_existing_versions",
        )
    moved = await box.call(
        box.stages.move,
        asked.name,
        number_of(asked.version),
        stage,
        actor=principal.name,
        archive_others=asked.archive_existing_versions,
    )
    return answer(moved)


@delete(paths("model-versions/delete"), action="model.write")
async def delete_version(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Delete a version; refused in Production and on the way there."""
    asked = await wire.take(request, box, principal, OfVersion, "model.write")
    await box.call(box.curation.delete_version, asked.name, number_of(asked.version), actor=principal.name)
    return {}


@get(paths("model-versions/search"), action="model.read")
async def search(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Versions by filter, in pages."""
    asked = await wire.decode(request, Search)
    limit = wire.page_size(asked.max_results, default=DEFAULT_VERSIONS, most=MOST_VERSIONS)

    def work() -> dict[str, Any]:
        after = wire.read_token(asked.page_token)
        page = box.model_search.versions(asked.filter, order_by=asked.order_by, limit=limit, after=after)
        return {"model_versions": [version_message(version) for version in page.found], **wire.next_page(page.next)}

    return await box.call(work)


@get(paths("model-versions/get-download-uri"), action="model.read")
async def download_uri(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Where the version's own files are."""
    asked = await wire.take(request, box, principal, OfVersion, "model.read")
    version = await box.call(box.registry.version, asked.name, number_of(asked.version))
    return {"artifact_uri": f"mlflow-artifacts:/{KEPT}/{version.id}"}


@post(paths("model-versions/set-tag"), action="model.write")
async def set_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Tag a version. `dataset_version` links it to the dataset version that it names; `approved_by` is a note."""
    asked = await wire.take(request, box, principal, SetVersionTag, "model.write")

    def work() -> None:
        dataset = box.sources.dataset_named(asked.value) if asked.key == DATASET_TAG else None
        number = number_of(asked.version)
        box.curation.set_version_tag(asked.name, number, asked.key, asked.value, actor=principal.name, dataset=dataset)

    await box.call(work)
    return {}


@delete(paths("model-versions/delete-tag"), action="model.write")
async def delete_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a version's tag away."""
    asked = await wire.take(request, box, principal, DeleteVersionTag, "model.write")
    number = number_of(asked.version)
    await box.call(box.curation.delete_version_tag, asked.name, number, asked.key, actor=principal.name)
    return {}


handlers: list[Any] = [
    *(create, get_version, update, transition, delete_version, search, download_uri),
    *(set_tag, delete_tag),
]
