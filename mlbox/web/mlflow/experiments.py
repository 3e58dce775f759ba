"""MLflow's experiments, as an adapter over the tracker's.

An experiment's artifacts are where the box keeps them: `artifact_location` is always `mlflow-artifacts:/ID`.
"""

from __future__ import annotations

from typing import Any, Literal

from litestar import Request

from mlbox.errors import Conflict, InvalidInput
from mlbox.records import Experiment, Principal
from mlbox.store.artifacts import check_path
from mlbox.store.tracking.experiments import Alive
from mlbox.web.box import Box
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.models import Tag, tags_message
from mlbox.web.mlflow.wire import Message, get, paths, post

SCHEME = "mlflow-artifacts:/"
MOST = 50_000
ViewType = Literal["ACTIVE_ONLY", "DELETED_ONLY", "ALL"]
ALIVE: dict[str, Alive] = {"ACTIVE_ONLY": "active", "DELETED_ONLY": "deleted", "ALL": "all"}


class ById(Message, frozen=True, kw_only=True):
    """What names an experiment."""

    experiment_id: str


class ByName(Message, frozen=True, kw_only=True):
    """The other way to name one."""

    experiment_name: str


class Create(Message, frozen=True, kw_only=True):
    """An experiment to make."""

    name: str
    artifact_location: str = ""
    tags: tuple[Tag, ...] = ()


class Update(ById, frozen=True, kw_only=True):
    """Another name."""

    new_name: str


class SetTag(ById, frozen=True, kw_only=True):
    """A tag to set."""

    key: str
    value: str = ""


class DeleteTag(ById, frozen=True, kw_only=True):
    """A tag to take away."""

    key: str


class Search(Message, frozen=True, kw_only=True):
    """A search of experiments."""

    max_results: int | None = None
    page_token: str = ""
    filter: str = ""
    order_by: tuple[str, ...] = ()
    view_type: ViewType = "ACTIVE_ONLY"


def message(experiment: Experiment) -> dict[str, Any]:
    """An experiment as MLflow writes it."""
    return {
        "experiment_id": experiment.id,
        "name": experiment.name,
        "artifact_location": f"{SCHEME}{experiment.id}",
        "lifecycle_stage": "active" if experiment.deleted_at is None else "deleted",
        "creation_time": wire.millis(experiment.created_at),
        "last_update_time": wire.millis(experiment.updated_at or experiment.created_at),
        "tags": tags_message(experiment.tags),
    }


def check_location(location: str) -> None:
    """Raise InvalidInput for artifacts that would be kept anywhere but in this box."""
    if not location:
        return
    inside = location.removeprefix(SCHEME)
    if inside == location or inside.startswith("/") or any(mark in inside for mark in "?#"):
        raise wire.invalid(
            "artifact_location", location, f"mlbox keeps artifacts itself: leave it out, or use {SCHEME}."
        )
    if inside:
        check_path(inside, field="artifact_location")


@post(paths("experiments/create"), action="experiment.create")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """A new experiment; a name that is taken is RESOURCE_ALREADY_EXISTS."""
    asked = await wire.decode(request, Create)
    if not asked.name:
        raise scope.missing("name")
    box.teams.require(principal, "experiment.create", name=asked.name)
    check_location(asked.artifact_location)
    tags = {tag.key: tag.value for tag in asked.tags}
    made = await box.call(box.experiments.create, asked.name, actor=principal.name, tags=tags)
    return {"experiment_id": made.id}


@get(paths("experiments/get"), action="experiment.find")
async def get_experiment(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """One experiment."""
    asked = await wire.decode(request, ById)
    return {"experiment": message(await box.call(scope.experiment, box, principal, asked.experiment_id))}


@get(paths("experiments/get-by-name"), action="experiment.find")
async def by_name(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """One experiment; on RESOURCE_DOES_NOT_EXIST the client makes it."""
    asked = await wire.decode(request, ByName)

    def work() -> dict[str, Any]:
        return {"experiment": message(scope.seen(box, principal, box.experiments.by_name(asked.experiment_name)))}

    return await box.call(work)


@post(paths("experiments/update"), action="experiment.write")
async def update(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another name; refused while the experiment is private, whose new name would be known."""
    asked = await wire.decode(request, Update)

    def work() -> dict[str, Any]:
        found = scope.experiment(box, principal, asked.experiment_id, "experiment.write")
        box.teams.require(principal, "experiment.create", name=asked.new_name)
        if box.teams.is_private("experiment", found.name):
            raise Conflict(f"The experiment {found.name!r} is private.", hint="Share it, rename it, and hide it again.")
        box.experiments.rename(asked.experiment_id, asked.new_name, actor=principal.name)
        return {}

    return await box.call(work)


@post(paths("experiments/delete"), action="experiment.write")
async def delete(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Delete softly, with its runs."""
    asked = await wire.decode(request, ById)

    def work() -> dict[str, Any]:
        scope.experiment(box, principal, asked.experiment_id, "experiment.write")
        box.experiments.delete(asked.experiment_id, actor=principal.name)
        return {}

    return await box.call(work)


@post(paths("experiments/restore"), action="experiment.write")
async def restore(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a deletion back."""
    asked = await wire.decode(request, ById)

    def work() -> dict[str, Any]:
        scope.experiment(box, principal, asked.experiment_id, "experiment.write")
        box.experiments.restore(asked.experiment_id, actor=principal.name)
        return {}

    return await box.call(work)


@post(paths("experiments/set-experiment-tag"), action="experiment.write")
async def set_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Tag an experiment."""
    asked = await wire.decode(request, SetTag)

    def work() -> dict[str, Any]:
        scope.experiment(box, principal, asked.experiment_id, "experiment.write")
        box.experiments.set_tag(asked.experiment_id, asked.key, asked.value)
        return {}

    return await box.call(work)


@post(paths("experiments/delete-experiment-tag"), action="experiment.write")
async def delete_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a tag away."""
    asked = await wire.decode(request, DeleteTag)

    def work() -> dict[str, Any]:
        scope.experiment(box, principal, asked.experiment_id, "experiment.write")
        box.experiments.delete_tag(asked.experiment_id, asked.key)
        return {}

    return await box.call(work)


async def _search(request: Request[Any, Any, Any], box: Box) -> dict[str, Any]:
    asked = await wire.decode(request, Search)
    limit = wire.page_size(asked.max_results, default=1000, most=MOST)
    if asked.view_type not in ALIVE:
        raise InvalidInput("The view type is not known.", field="view_type")
    page = await box.call(
        box.run_search.experiments,
        asked.filter,
        order_by=asked.order_by,
        alive=ALIVE[asked.view_type],
        limit=limit,
        after=wire.read_token(asked.page_token),
    )
    return {"experiments": [message(one) for one in page.found], **wire.next_page(page.next)}


@post(paths("experiments/search"), action="experiment.read")
async def search(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Experiments by filter, in pages."""
    return await _search(request, box)


@get(paths("experiments/search"), action="experiment.read")
async def search_by_get(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """The same, asked by GET."""
    return await _search(request, box)


handlers: list[Any] = [
    *(create, get_experiment, by_name, update, delete, restore),
    *(set_tag, delete_tag, search, search_by_get),
]
