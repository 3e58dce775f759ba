"""What MLflow's runs log: points, parameters, tags, models, inputs and outputs; one at a time, or in batches."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from litestar import Request

from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import DatasetInput, Metric, Principal, RunModel
from mlbox.store.tracking.run_inputs import version_named
from mlbox.web.box import Box
from mlbox.web.mlflow import metrics as points
from mlbox.web.mlflow import scope, wire
from mlbox.web.mlflow.metrics import Point
from mlbox.web.mlflow.models import Tag
from mlbox.web.mlflow.wire import Message, paths, post

NAME_TAG = "mlflow.runName"
MODELS_TAG = "mlflow.log-model.history"
MOST_METRICS, MOST_PARAMS, MOST_TAGS, MOST_ENTITIES, MOST_BYTES = 1000, 100, 100, 1000, 1_000_000
MOST_PARAM, MOST_TAG = 6000, 8000


class ById(Message, frozen=True, kw_only=True):
    """What names a run; every request about one is one of these."""

    run_id: str = ""
    run_uuid: str = ""


class SetTag(ById, frozen=True, kw_only=True):
    """A tag to set, or a parameter to log."""

    key: str
    value: str = ""


class DeleteTag(ById, frozen=True, kw_only=True):
    """A tag to take away."""

    key: str


class LogMetric(Point, frozen=True, kw_only=True):
    """One point."""

    run_id: str = ""
    run_uuid: str = ""


class LogBatch(ById, frozen=True, kw_only=True):
    """What is logged at once, all or none."""

    metrics: tuple[Point, ...] = ()
    params: tuple[Tag, ...] = ()
    tags: tuple[Tag, ...] = ()


class LogModel(ById, frozen=True, kw_only=True):
    """The description of a model that a client of 2.x logged as artifacts."""

    model_json: str = ""


class Dataset(Message, frozen=True, kw_only=True):
    """Data that a run read."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str = ""
    profile: str = ""


class DatasetTags(Message, frozen=True, kw_only=True):
    """Data, and what the run says of it."""

    dataset: Dataset
    tags: tuple[Tag, ...] = ()


class ModelRef(Message, frozen=True, kw_only=True):
    """A logged model, and the step at which it was made."""

    model_id: str
    step: int = 0


class LogInputs(ById, frozen=True, kw_only=True):
    """The data and the models that a run read."""

    datasets: tuple[DatasetTags, ...] = ()
    models: tuple[ModelRef, ...] = ()


class LogOutputs(ById, frozen=True, kw_only=True):
    """The models that a run made."""

    models: tuple[ModelRef, ...] = ()


# -- what runs log ------------------------------------------------------------------------------------------------------


def tags_of(tags: Sequence[Tag], place: str = "tags") -> dict[str, str]:
    """Tags by key; raises InvalidInput for one that cannot be."""
    for number, tag in enumerate(tags):
        points.check_key(tag.key, f"{place}[{number}].key")
        check_value(f"{place}[{number}].value", tag.value, MOST_TAG)
    return {tag.key: tag.value for tag in tags}


def _params(params: Sequence[Tag]) -> dict[str, str]:
    for number, param in enumerate(params):
        points.check_key(param.key, f"params[{number}].key")
        check_value(f"params[{number}].value", param.value, MOST_PARAM)
    found = {param.key: param.value for param in params}
    if len(found) < len(params):
        twice = sorted({one.key for one in params if [p.key for p in params].count(one.key) > 1})
        raise InvalidInput(f"Duplicate parameter keys have been submitted: {twice}.", field="params")
    return found


def check_value(parameter: str, value: str, most: int) -> None:
    """Raise InvalidInput for a text that is too long."""
    if len(value) > most:
        raise InvalidInput(
            f"'{parameter}' exceeds the maximum length of {most} characters: {value[:40]!r}... has {len(value):,}.",
            field=parameter,
        )


class Logging(NamedTuple):
    """What a request logs, and the question whether it may."""

    check: Callable[[], None]
    what: dict[str, Any]


def _logging(
    box: Box,
    principal: Principal,
    run_id: str,
    *,
    given: Sequence[Point] = (),
    params: Mapping[str, str] = {},
    tags: Mapping[str, str] = {},
    place: bool = False,
) -> Logging:
    metrics = [points.metric_of(one, f"metrics[{n}]." if place else "") for n, one in enumerate(given)]
    models: dict[str, list[tuple[Metric, str, str]]] = {}
    for one, metric in zip(given, metrics, strict=True):
        if one.model_id:
            models.setdefault(one.model_id, []).append((metric, one.dataset_name, one.dataset_digest))

    def check() -> None:
        scope.run(box, principal, "run.write", run_id)
        for model_id in models:
            scope.model(box, principal, "run.write", model_id)

    name = tags.get(NAME_TAG)
    return Logging(check, {"metrics": metrics, "params": params, "tags": tags, "name": name, "models": models})


def _changed(run_id: str, err: Conflict) -> InvalidInput:
    return InvalidInput(
        f"Changing param values is not allowed for run ID='{run_id}'. {err.message}", hint=err.hint, field=err.field
    )


def _log(box: Box, principal: Principal, run_id: str, **given: Any) -> dict[str, Any]:
    """Log much."""
    check, what = _logging(box, principal, run_id, **given)
    check()
    try:
        box.tracker.log(run_id, **what)
    except Conflict as err:
        raise _changed(run_id, err) from err
    return {}


async def _log_one(box: Box, principal: Principal, run_id: str, **given: Any) -> dict[str, Any]:
    """Log one thing: there is so little to do that a thread of its own would cost more, so the writer asks and writes."""
    check, what = _logging(box, principal, run_id, **given)
    context = contextvars.copy_context()
    try:
        await asyncio.wrap_future(box.tracker.submit_log(run_id, check=lambda: context.run(check), **what))
    except Conflict as err:
        raise _changed(run_id, err) from err
    return {}


@post(paths("runs/log-metric"), action="run.write")
async def log_metric(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Add one point."""
    asked = await wire.decode(request, LogMetric)
    return await _log_one(box, principal, asked.run_id or asked.run_uuid, given=[asked])


@post(paths("runs/log-parameter"), action="run.write")
async def log_parameter(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Add one parameter."""
    asked = await wire.decode(request, SetTag)
    points.check_key(asked.key, "key")
    check_value("value", asked.value, MOST_PARAM)
    params = {asked.key: asked.value}
    return await _log_one(box, principal, asked.run_id or asked.run_uuid, params=params)


@post(paths("runs/set-tag"), action="run.write")
async def set_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Tag a run."""
    asked = await wire.decode(request, SetTag)
    points.check_key(asked.key, "key")
    check_value("value", asked.value, MOST_TAG)
    tags = {asked.key: asked.value}
    return await _log_one(box, principal, asked.run_id or asked.run_uuid, tags=tags)


@post(paths("runs/delete-tag"), action="run.write")
async def delete_tag(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Take a tag away."""
    asked = await wire.decode(request, DeleteTag)

    def work() -> dict[str, Any]:
        box.tracker.delete_tag(scope.run(box, principal, "run.write", asked.run_id or asked.run_uuid), asked.key)
        return {}

    return await box.call(work)


@post(paths("runs/log-batch"), action="run.write")
async def log_batch(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Add points, parameters and tags, all or none."""
    size = len(await request.body())
    if size > MOST_BYTES:
        raise InvalidInput(
            f"Batched logging API requests must be at most {MOST_BYTES} bytes in length, got one of length {size}.",
            field="body",
        )
    asked = await wire.decode(request, LogBatch)
    counts = {"metrics": len(asked.metrics), "params": len(asked.params), "tags": len(asked.tags)}
    limits = {"metrics": MOST_METRICS, "params": MOST_PARAMS, "tags": MOST_TAGS}
    for what, count in {**counts, "entities": sum(counts.values())}.items():
        most = limits.get(what, MOST_ENTITIES)
        if count > most:
            raise InvalidInput(
                f"A batch logging request can contain at most {most} {what}. Got {count} {what}."
                f" Please split up {what} across multiple requests and try again.",
                field=what,
            )
    params, tags = _params(asked.params), tags_of(asked.tags)
    run_id = asked.run_id or asked.run_uuid
    return await box.call(
        lambda: _log(box, principal, run_id, given=asked.metrics, params=params, tags=tags, place=True)
    )


@post(paths("runs/log-model"), action="run.write")
async def log_model(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Note a model that a client of 2.x logged: it goes into the tag `mlflow.log-model.history`, as MLflow has it."""
    asked = await wire.decode(request, LogModel)
    try:
        model = msgspec.json.decode(asked.model_json, type=dict[str, Any])
    except msgspec.MsgspecError as err:
        raise wire.invalid("model_json", asked.model_json[:80], "It is not a JSON object.") from err
    absent = [name for name in ("artifact_path", "flavors", "utc_time_created", "run_id") if name not in model]
    if absent:
        raise wire.invalid("model_json", asked.model_json[:80], f"It has no {', '.join(absent)}.")

    def work() -> dict[str, Any]:
        run_id = scope.run(box, principal, "run.write", asked.run_id or asked.run_uuid)
        known = box.tracker.run(run_id).tags.get(MODELS_TAG, "[]")
        history = [*msgspec.json.decode(known), model]
        box.tracker.log(run_id, tags={MODELS_TAG: msgspec.json.encode(history).decode()})
        return {}

    return await box.call(work)


# -- inputs and outputs -------------------------------------------------------------------------------------------------


def _data(number: int, given: DatasetTags) -> DatasetInput:
    data = given.dataset
    for field, most in (
        ("name", 500),
        ("digest", 36),
        ("source", 65_535),
        ("schema", 1_048_575),
        ("profile", 16_777_215),
    ):
        check_value(f"datasets[{number}].dataset.{field}", getattr(data, field), most)
    for field in ("name", "digest"):
        if not getattr(data, field):
            raise scope.missing(f"datasets[{number}].dataset.{field}")
    for tag in given.tags:
        check_value(f"datasets[{number}].tags.key", tag.key, 255)
        check_value(f"datasets[{number}].tags.value", tag.value, 500)
    plain = {name: getattr(data, name) for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    return DatasetInput(**plain, tags={tag.key: tag.value for tag in given.tags})


@post(paths("runs/log-inputs"), action="run.write")
async def log_inputs(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Note the data and the models that a run read."""
    asked = await wire.decode(request, LogInputs)
    datasets = [_data(number, one) for number, one in enumerate(asked.datasets)]
    return await box.call(
        _note, box, principal, asked.run_id or asked.run_uuid, datasets, _models(asked.models, "input")
    )


@post(paths("runs/outputs"), action="run.write")
async def log_outputs(request: Request[Any, Any, Any], box: Box, principal: Principal) -> dict[str, Any]:
    """Note the models that a run made."""
    asked = await wire.decode(request, LogOutputs)
    models = _models(asked.models, "output")
    return await box.call(_note, box, principal, asked.run_id or asked.run_uuid, [], models)


def _models(given: Sequence[ModelRef], role: Literal["input", "output"]) -> list[RunModel]:
    return [RunModel(model_id=one.model_id, role=role, step=one.step) for one in given]


def _note(
    box: Box, principal: Principal, run_id: str, datasets: list[DatasetInput], models: list[RunModel]
) -> dict[str, Any]:
    scope.run(box, principal, "run.write", run_id)
    for model in models:
        scope.model(box, principal, "run.read", model.model_id)
    version = _version_among(box, datasets)
    if version is not None:
        box.tracker.name_dataset(run_id, version)
    box.tracker.add_inputs(run_id, datasets, models)
    return {}


def _version_among(box: Box, datasets: Sequence[DatasetInput]) -> str | None:
    """The first dataset version of this box that whoever asks may see; other data may be called what it likes."""
    for data in datasets:
        ref = version_named(data, box.url)
        with contextlib.suppress(NotFound):
            if ref is not None:
                return box.datasets.version(ref).ref
    return None


handlers: list[Any] = [
    *(log_metric, log_parameter, set_tag, delete_tag, log_batch, log_model, log_inputs, log_outputs),
]
