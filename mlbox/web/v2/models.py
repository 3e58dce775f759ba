"""The server and its models over the Open Inference Protocol: what there is, what it takes, how it is configured, what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, get

from mlbox import __version__
from mlbox.errors import MlboxError
from mlbox.records import ModelVersion, ServingConfig, TensorSpec
from mlbox.serve.inference.loading import Holding, inputs_of
from mlbox.serve.inference.rows import MAX_ROWS
from mlbox.serve.inference.statistics import Duration, Totals
from mlbox.serve.inference.tensors import are_batched
from mlbox.web.box import Box
from mlbox.web.problems import as_mlbox_error, open_inference, retry_after

EXTENSIONS = [
    *("classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics"),
    "schedule_policy",
]
NEEDED = ("registry", "features", "online")
"""The stores that no prediction can do without."""
PLATFORM = "onnx_onnxv1"
TRITON_TYPES = {"BYTES": "TYPE_STRING"}


def problem(_: Request[Any, Any, Any], err: Exception) -> Response[dict[str, Any]]:
    """Every error in this protocol's shape."""
    ours = as_mlbox_error(err)
    headers = {name.decode(): value.decode() for name, value in retry_after(ours)}
    return Response(open_inference(ours), status_code=ours.status, headers=headers)


@get("/v2", exception_handlers={Exception: problem}, action="model.read")
async def server_metadata(box: Box) -> dict[str, Any]:
    """Name, version, extensions."""
    return facts(box)


def facts(box: Box) -> dict[str, Any]:
    """What the server says of itself."""
    return {"name": box.settings.open_inference_name, "version": __version__, "extensions": EXTENSIONS}


@get("/v2/health/live", exception_handlers={Exception: problem}, action="public")
async def live() -> dict[str, bool]:
    """The process answers; for everyone, as probes have no token."""
    return {"live": True}


@get("/v2/health/ready", exception_handlers={Exception: problem}, action="public")
async def ready(box: Box) -> Response[dict[str, bool]]:
    """Models can be asked, 503 where not; both names, because the standard's text has the wrong one."""
    found = await is_ready(box)
    return Response({"ready": found, "live": True}, status_code=200 if found else 503)


async def is_ready(box: Box) -> bool:
    """Whether models can be asked."""
    checks = box.checks()
    try:
        for name in NEEDED:
            await box.call(checks[name])
    except MlboxError:
        return False
    return True


@get(
    ["/v2/models/{model:str}", "/v2/models/{model:str}/versions/{version:int}"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_metadata(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """A model's tensors, and the versions that may be named."""
    return await metadata(box, model, version)


async def metadata(box: Box, model: str, version: int | None) -> dict[str, Any]:
    """The tensors of a version, in the protocol's words, and where it runs once it is in memory."""
    found = await box.call(box.models.metadata, model, version)
    others = await box.call(box.models.targets.numbers, model) if version is None else []
    return {
        "name": found.model,
        "versions": [str(number) for number in others or [found.version]],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in inputs_of(found, found.inputs)],
        "outputs": [_tensor(spec) for spec in found.outputs],
        "parameters": {
            "features": ",".join(found.features),
            "execution_providers": ",".join(box.models.held(found).providers),
        },
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}


@get(
    ["/v2/models/{model:str}/ready", "/v2/models/{model:str}/versions/{version:int}/ready"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_ready(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """The model serves and is in memory; 404 where it does not serve, 503 where it cannot be loaded or was unloaded."""
    found = await box.call(box.models.ready, model, version)
    return {"name": found.model, "ready": True}


@get(
    ["/v2/models/{model:str}/config", "/v2/models/{model:str}/versions/{version:int}/config"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_config(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """A model's configuration in the words of Triton's ModelConfig."""
    return await config(box, model, version)


async def config(box: Box, model: str, version: int | None) -> dict[str, Any]:
    """How a version is configured."""
    found = await box.call(box.models.metadata, model, version)
    serving = await box.call(box.serving.latest, found.model)
    return _config_of(found, serving, box.models.held(found))


def _config_of(found: ModelVersion, serving: ServingConfig, held: Holding) -> dict[str, Any]:
    """Dimensions are without that of rows, where it is free in every tensor; `max_batch_size` says how many rows there may be."""
    inputs = inputs_of(found, found.inputs)
    batched = are_batched((*inputs, *found.outputs))
    return {
        "name": found.model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"specific": {"versions": [found.version]}},
        "max_batch_size": MAX_ROWS if batched else 0,
        "input": _config_tensors(inputs, batched),
        "output": _config_tensors(found.outputs, batched),
        **(_scheduling(serving) if batched else {}),
        "response_cache": {"enable": serving.cache_bytes > 0},
        "instance_group": [{"name": found.model, "count": 1, **_kind_of(held)}],
        "parameters": {"features": {"string_value": ",".join(found.features)}},
    }


def _kind_of(held: Holding) -> dict[str, Any]:
    return {"kind": "KIND_GPU", "gpus": [held.device]} if held.on_gpu else {"kind": "KIND_CPU"}


def _scheduling(serving: ServingConfig) -> dict[str, Any]:
    """How requests are joined and queued: a request may be larger than what is joined, and then runs alone."""
    if serving.max_batch == 1:
        return {}
    return {
        "dynamic_batching": {
            "preferred_batch_size": [serving.max_batch],
            "max_queue_delay_microseconds": serving.max_delay_us,
            "priority_levels": serving.priority_levels,
            "default_priority_level": serving.default_priority,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": int(serving.timeout_ms * 1000),
                "allow_timeout_override": True,
                "max_queue_size": serving.queue_limit,
            },
        }
    }


def _config_tensors(specs: Sequence[TensorSpec], batched: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "data_type": TRITON_TYPES.get(spec.dtype, f"TYPE_{spec.dtype}"),
            "dims": list(spec.shape[1:] if batched else spec.shape),
        }
        for spec in specs
    ]


@get("/v2/models/stats", exception_handlers={Exception: problem}, action="model.read")
async def all_stats(box: Box) -> dict[str, Any]:
    """What each version that is in memory did since the server started."""
    return await stats(box)


async def stats(box: Box, model: str | None = None, version: int | None = None) -> dict[str, Any]:
    """The figures of one version, or of all in memory that whoever asks may see."""
    if model is not None:
        found = [await box.call(box.models.metadata, model, version)]
    else:
        found = [one for one in box.models.loaded() if box.registry.visible(one.model)]
    counted = box.models.statistics
    return {
        "model_stats": [_stats_of(one, counted.of(one.model, one.version), box.models.held(one).size) for one in found]
    }


@get(
    ["/v2/models/{model:str}/stats", "/v2/models/{model:str}/versions/{version:int}/stats"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_stats(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """What a version did since the server started, in the words of Triton's statistics extension."""
    return await stats(box, model, version)


def _stats_of(found: ModelVersion, totals: Totals, size: int) -> dict[str, Any]:
    """One version's figures; counts of rows and of runs apart, times in nanoseconds.

    `response_stats` is for models that give several responses to a request, of which there are none.
    """
    nothing = _duration(Duration())
    return {
        "name": found.model,
        "version": str(found.version),
        "last_inference": totals.last_ms,
        "inference_count": totals.rows,
        "execution_count": totals.executions,
        "inference_stats": {
            "success": _duration(totals.success),
            "fail": _duration(totals.fail),
            "queue": _duration(totals.queue),
            "compute_input": {**nothing, "count": totals.success.count},
            "compute_infer": _duration(totals.infer),
            "compute_output": {**nothing, "count": totals.success.count},
            "cache_hit": _duration(totals.cache_hit),
            "cache_miss": _duration(totals.cache_miss),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": {**nothing, "count": took.count},
                "compute_infer": _duration(took),
                "compute_output": {**nothing, "count": took.count},
            }
            for rows, took in sorted(totals.batches.items())
        ],
        "response_stats": {},
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": size}] if size else [],
    }


def _duration(found: Duration) -> dict[str, int]:
    return {"count": found.count, "ns": found.ns}


handlers: list[Any] = [
    *(server_metadata, live, ready, all_stats, model_metadata, model_ready, model_config, model_stats),
]
