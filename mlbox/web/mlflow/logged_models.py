"""MLflow 3's LoggedModels, as an adapter over the store's."""

from __future__ import annotations

from typing import Any

from litestar import Request

from mlbox.records import LoggedModel, ModelMetric, Principal
from mlbox.store.artifacts import check_path
from mlbox.store.tracking.logged_models import OrderBy
from mlbox.web.box import Box
from mlbox.web.mlflow import metrics, scope, wire
from mlbox.web.mlflow.artifacts import listing
from mlbox.web.mlflow.experiments import SCHEME
from mlbox.web.mlflow.models import Tag, tags_message
from mlbox.web.mlflow.wire import Message, delete, get, patch, paths, post

MOST = 1000
_STATUS = {f"LOGGED_MODEL_{name}": name for name in ("PENDING", "READY")} | {"LOGGED_MODEL_UPLOAD_FAILED": "FAILED"}
_SHOWN = {plain: name for name, plain in _STATUS.items()}


class Create(Message, frozen=True, kw_only=True):
    """A model that a run is about to log."""

    experiment_id: str
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: tuple[Tag, ...] = ()
    tags: tuple[Tag, ...] = ()


class Finalize(Message, frozen=True, kw_only=True):
    """Whether its files are all there."""

    status: str


class Tags(Message, frozen=True, kw_only=True):
    """Tags to set."""

    tags: tuple[Tag, ...] = ()


class Params(Message, frozen=True, kw_only=True):
    """Parameters to add."""

    params: tuple[Tag, ...] = ()


class Data(Message, frozen=True, kw_only=True):
    """The data on which a filter's metrics count."""

    dataset_name: str
    dataset_digest: str = ""


class Order(Message, frozen=True, kw_only=True):
    """A field to order by."""

    field_name: str
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class Search(Message, frozen=True, kw_only=True):
    """A search of logged models."""

    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    datasets: tuple[Data, ...] = ()
    max_results: int | None = None
    order_by: tuple[Order, ...] = ()
    page_token: str = ""


class Folder(Message, frozen=True, kw_only=True):
    """A folder of a logged model."""

    artifact_directory_path: str = ""


def address(model: LoggedModel) -> str:
    """Where a logged model's files are."""
    return f"{SCHEME}{model.experiment_id}/models/{model.id}/artifacts"


def message(model: LoggedModel) -> dict[str, Any]:
    """A logged model as MLflow writes it."""
    return {
        "info": {
            "model_id": model.id,
            "experiment_id": model.experiment_id,
            "name": model.name,
            "creation_timestamp_ms": wire.millis(model.created_at),
            "last_updated_timestamp_ms": wire.millis(model.updated_at),
            "artifact_uri": address(model),
            "status": _SHOWN[model.status],
            "model_type": model.type,
            "source_run_id": model.run_id or "",
            "status_message": model.message,
            "tags": tags_message(model.tags),
        },
        "data": {"params": tags_message(model.params), "metrics": [_metric(model, one) for one in model.metrics]},
    }


def _metric(model: LoggedModel, metric: ModelMetric) -> dict[str, Any]:
    data = {name: getattr(metric, name) for name in ("dataset_name", "dataset_digest") if getattr(metric, name)}
    return {
        "key": metric.key,
        "value": metrics.shown(metric.value),
        "timestamp": wire.millis(metric.at),
        "step": metric.step,
        "run_id": metric.run_id,
        "model_id": model.id,
        **data,
    }


def _pairs(pairs: tuple[Tag, ...]) -> dict[str, str]:
    return {pair.key: pair.value for pair in pairs}


@post(paths("logged-models"), action="run.write")
async def create(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """A new logged model, pending until its files are there."""
    asked = await wire.decode(request, Create)

    def work() -> dict[str, Any]:
        group = scope.experiment(box, principal, asked.experiment_id, "run.write")
        if asked.source_run_id:
            scope.run(box, principal, "run.write", asked.source_run_id)
        else:
            scope.no_job(principal)
        made = box.logged_models.create(
            group.id,
            user=principal.name,
            name=asked.name,
            type=asked.model_type,
            run_id=asked.source_run_id or None,
            params=_pairs(asked.params),
            tags=_pairs(asked.tags),
        )
        return {"model": message(made)}

    return await box.call(work)


@get(paths("logged-models/{model_id:str}"), action="run.read")
async def get_model(request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str) -> dict[str, Any]:
    """One logged model."""
    return {"model": message(await box.call(scope.model, box, principal, "run.read", model_id))}


@patch(paths("logged-models/{model_id:str}"), action="run.write")
async def finalize(request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str) -> dict[str, Any]:
    """Say whether its files are all there."""
    asked = await wire.decode(request, Finalize)
    if asked.status not in _STATUS:
        raise wire.invalid("status", asked.status, f"One of {', '.join(_STATUS)}.")

    def work() -> dict[str, Any]:
        scope.model(box, principal, "run.write", model_id)
        return {"model": message(box.logged_models.finalize(model_id, _STATUS[asked.status]))}

    return await box.call(work)


@delete(paths("logged-models/{model_id:str}"), action="run.write")
async def delete_model(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str
) -> dict[str, Any]:
    """Delete softly."""

    def work() -> dict[str, Any]:
        scope.no_job(principal)
        scope.model(box, principal, "run.write", model_id)
        box.logged_models.delete(model_id, actor=principal.name)
        return {}

    return await box.call(work)


@patch(paths("logged-models/{model_id:str}/tags"), action="run.write")
async def set_tags(request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str) -> dict[str, Any]:
    """Set tags."""
    asked = await wire.decode(request, Tags)

    def work() -> dict[str, Any]:
        scope.model(box, principal, "run.write", model_id)
        return {"model": message(box.logged_models.set_tags(model_id, _pairs(asked.tags)))}

    return await box.call(work)


@delete(paths("logged-models/{model_id:str}/tags/{key:path}"), action="run.write")
async def delete_tag(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str, key: str
) -> dict[str, Any]:
    """Take a tag away."""

    def work() -> dict[str, Any]:
        scope.model(box, principal, "run.write", model_id)
        box.logged_models.delete_tag(model_id, key.removeprefix("/"))
        return {}

    return await box.call(work)


@post(paths("logged-models/{model_id:str}/params"), action="run.write")
async def add_params(request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str) -> dict[str, Any]:
    """Add parameters."""
    asked = await wire.decode(request, Params)

    def work() -> dict[str, Any]:
        scope.model(box, principal, "run.write", model_id)
        box.logged_models.add_params(model_id, _pairs(asked.params))
        return {}

    return await box.call(work)


@post(paths("logged-models/search"), action="run.read")
async def search(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Logged models by filter and order, in pages."""
    asked = await wire.decode(request, Search)
    scope.no_job(principal)
    limit = wire.page_size(asked.max_results, default=100, most=MOST)
    after = wire.read_token(asked.page_token)

    def work() -> dict[str, Any]:
        page = box.logged_models.search(
            asked.experiment_ids,
            asked.filter,
            datasets=[(data.dataset_name, data.dataset_digest) for data in asked.datasets],
            order_by=[
                OrderBy(one.field_name, one.ascending, one.dataset_name, one.dataset_digest) for one in asked.order_by
            ],
            limit=limit,
            after=after,
        )
        return {"models": [message(model) for model in page.found], **wire.next_page(page.next)}

    return await box.call(work)


@get(paths("logged-models/{model_id:str}/artifacts/directories"), action="run.read")
async def directories(request: Request[Any, Any, Any], box: Box, principal: Principal, model_id: str) -> dict[str, Any]:
    """What is right below a folder of a logged model."""
    asked = await wire.decode(request, Folder)
    folder = asked.artifact_directory_path.strip("/")

    def work() -> dict[str, Any]:
        model = scope.model(box, principal, "run.read", model_id)
        found = listing(box.logged_models.files(model_id), check_path(folder) if folder else "")
        return {"root_uri": address(model), "files": found}

    return await box.call(work)


handlers: list[Any] = [
    *(create, search, get_model, finalize, delete_model, set_tags, delete_tag, add_params, directories),
]
