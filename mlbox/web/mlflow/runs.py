"""MLflow's runs, as an adapter over the tracker.

Who began a run is whoever the token is of; what the client says of its user stays the tag `mlflow.user`. A run's name is its
tag `mlflow.runName`, whichever of the two is set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from litestar import Request

from mlbox.errors import InvalidInput
from mlbox.records import DatasetInput, Principal, Run, RunModel, RunStatus
from mlbox.web.box import Box
from mlbox.web.mlflow import metrics as points
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.experiments import ALIVE, SCHEME, ViewType
from mlbox.web.mlflow.models import Tag, tags_message
from mlbox.web.mlflow.runlog import NAME_TAG, ById, check_value, tags_of
from mlbox.web.mlflow.wire import Message, get, paths, post

USER_TAG, COMMIT_TAG = "mlflow.user", "mlflow.source.git.commit"
MOST_RUNS = 50_000
_FIRST = (
    "amber",
    "brisk",
    "calm",
    "clever",
    "eager",
    "gentle",
    "keen",
    "lucky",
    "merry",
    "nimble",
    "proud",
    "quiet",
    "sunny",
)
_SECOND = (
    "badger",
    "crane",
    "dolphin",
    "falcon",
    "heron",
    "ibex",
    "koala",
    "lark",
    "marten",
    "otter",
    "puffin",
    "raven",
)


class Create(Message, frozen=True, kw_only=True):
    """A run to begin."""

    experiment_id: str = "0"
    user_id: str = ""
    run_name: str = ""
    start_time: int | None = None
    tags: tuple[Tag, ...] = ()


class Update(ById, frozen=True, kw_only=True):
    """A change of a run."""

    status: RunStatus | None = None
    end_time: int | None = None
    run_name: str = ""


class Search(Message, frozen=True, kw_only=True):
    """A search of runs."""

    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    run_view_type: ViewType = "ACTIVE_ONLY"
    max_results: int | None = None
    order_by: tuple[str, ...] = ()
    page_token: str = ""


# -- in MLflow's words --------------------------------------------------------------------------------------------------


def address(experiment_id: str, run_id: str) -> str:
    """Where a run's artifacts are."""
    return f"{SCHEME}{experiment_id}/{run_id}/artifacts"


def info(run: Run) -> dict[str, Any]:
    """A run without what it logged."""
    return {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": run.experiment_id,
        "user_id": run.user,
        "status": run.status,
        "start_time": wire.millis(run.started_at),
        **({} if run.ended_at is None else {"end_time": wire.millis(run.ended_at)}),
        "artifact_uri": address(run.experiment_id, run.id),
        "lifecycle_stage": "active" if run.deleted_at is None else "deleted",
    }


def messages(box: Box, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs as MLflow writes them."""
    read = box.tracker.inputs_of([run.id for run in runs])
    return [_message(run, *read[run.id]) for run in runs]


def _message(run: Run, datasets: Sequence[DatasetInput], models: Sequence[RunModel]) -> dict[str, Any]:
    own = {NAME_TAG: run.name, USER_TAG: run.user, COMMIT_TAG: run.git_commit}
    tags = {**{key: value for key, value in own.items() if value}, **run.tags}
    return {
        "info": info(run),
        "data": {
            "metrics": [points.message(metric) for metric in run.metrics.values()],
            "params": tags_message(run.params),
            "tags": tags_message(tags),
        },
        "inputs": {
            "dataset_inputs": [_dataset(data) for data in datasets],
            "model_inputs": [{"model_id": model.model_id} for model in models if model.role == "input"],
        },
        "outputs": {
            "model_outputs": [{"model_id": m.model_id, "step": m.step} for m in models if m.role == "output"],
        },
    }


def _dataset(data: DatasetInput) -> dict[str, Any]:
    plain = {name: getattr(data, name) for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    return {"tags": tags_message(data.tags), "dataset": {name: value for name, value in plain.items() if value}}


def named(box: Box, run_id: str) -> dict[str, Any]:
    """The answer that is a run."""
    return {"run": messages(box, [box.tracker.run(run_id)])[0]}


# -- the life of a run --------------------------------------------------------------------------------------------------


@post(paths("runs/create"), action="run.create")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Begin a run; one without a name gets one."""
    asked = await wire.decode(request, Create)
    tags = tags_of(asked.tags)
    name = asked.run_name or tags.get(NAME_TAG) or _any_name()
    if asked.run_name and tags.get(NAME_TAG, name) != name:
        raise wire.invalid("run_name", asked.run_name, f"The tag {NAME_TAG} says {tags[NAME_TAG]!r:.80}.")
    started = None if asked.start_time is None else points.moment(asked.start_time, "start_time")

    def work() -> dict[str, Any]:
        group = scope.experiment(box, principal, asked.experiment_id, "run.create")
        if group.deleted_at is not None:
            raise InvalidInput(
                f"The experiment {group.id} must be in the 'active' state. Current state is deleted.",
                field="experiment_id",
            )
        made = box.tracker.start_run(
            experiment=group.name,
            user=principal.name,
            name=name,
            started=started,
            git_commit=tags.get(COMMIT_TAG, "")[:64] or None,
            tags={**tags, NAME_TAG: name},
        )
        return {"run": messages(box, [made])[0]}

    return await box.call(work)


def _any_name() -> str:
    return f"{random.choice(_FIRST)}-{random.choice(_SECOND)}-{random.randrange(1000)}"  # noqa: S311 no secret


@get(paths("runs/get"), action="run.read")
async def get_run(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """One run, with the last value of each metric."""
    asked = await wire.decode(request, ById)
    return await box.call(lambda: named(box, scope.run(box, principal, "run.read", asked.run_id or asked.run_uuid)))


@post(paths("runs/update"), action="run.write")
async def update(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Another status, end or name. The run of a job ends with its job, whatever the script says."""
    asked = await wire.decode(request, Update)
    ended = None if asked.end_time is None else points.moment(asked.end_time, "end_time")

    def work() -> dict[str, Any]:
        run_id = scope.run(box, principal, "run.write", asked.run_id or asked.run_uuid)
        name = asked.run_name or None
        if name is not None:
            check_value("run_name", name, points.MAX_KEY)
            box.tracker.log(run_id, tags={NAME_TAG: name}, name=name)
        return {"run_info": info(box.tracker.change(run_id, status=asked.status, ended=ended))}

    return await box.call(work)


@post(paths("runs/delete"), action="run.delete")
async def delete(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Delete softly."""
    asked = await wire.decode(request, ById)

    def work() -> dict[str, Any]:
        scope.no_job(principal)
        box.tracker.delete(
            scope.run(box, principal, "run.delete", asked.run_id or asked.run_uuid), actor=principal.name
        )
        return {}

    return await box.call(work)


@post(paths("runs/restore"), action="run.delete")
async def restore(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a deletion back."""
    asked = await wire.decode(request, ById)

    def work() -> dict[str, Any]:
        scope.no_job(principal)
        box.tracker.restore(
            scope.run(box, principal, "run.delete", asked.run_id or asked.run_uuid), actor=principal.name
        )
        return {}

    return await box.call(work)


@post(paths("runs/search"), action="run.read")
async def search(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Runs by filter and order, in pages."""
    asked = await wire.decode(request, Search)
    scope.no_job(principal)
    if not asked.experiment_ids:
        raise scope.missing("experiment_ids")
    limit = wire.page_size(asked.max_results, default=1000, most=MOST_RUNS)
    after = wire.read_token(asked.page_token)

    def work() -> dict[str, Any]:
        page = box.run_search.runs(
            asked.experiment_ids,
            asked.filter,
            order_by=asked.order_by,
            alive=ALIVE[asked.run_view_type],
            limit=limit,
            after=after,
        )
        return {"runs": messages(box, page.found), **wire.next_page(page.next)}

    return await box.call(work)


handlers: list[Any] = [create, get_run, update, delete, restore, search]
