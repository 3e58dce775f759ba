"""The Open Inference Protocol v2 over JSON, as one adapter over the model server.

A request is either the model's own tensor, FP32 [N, F] with its columns in the order of its features, or the entities' ids:
one [N] tensor per join key, and the server looks the features up. The answer is the tensor `score`, FP64 [N]. The request's
parameter `key` (or `keys`, one for each row) decides which version answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, get, post

from mlbox import __version__
from mlbox.errors import InvalidInput
from mlbox.ids import new_id
from mlbox.records import ModelVersion, Prediction, Principal
from mlbox.serve.server import PredictRow
from mlbox.web.api.predict import default_key
from mlbox.web.box import Box
from mlbox.web.problems import as_mlbox_error

NUMBERS = frozenset({"FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL"})
DATATYPES = NUMBERS | {"BYTES"}


class InferInput(msgspec.Struct):
    """A named tensor of the request; `data` is flat or nested."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class InferOutput(msgspec.Struct):
    """An output that is asked for."""

    name: str


class InferRequest(msgspec.Struct):
    """The body of `infer`; unknown parameters are ignored, as the protocol says."""

    inputs: list[InferInput]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[InferOutput] = []


def problem(_: Request[Any, Any, Any], err: Exception) -> Response[dict[str, str]]:
    """Every error in this protocol's shape."""
    ours = as_mlbox_error(err)
    return Response({"error": str(ours)}, status_code=ours.status)


# -- the server and its models ----------------------------------------------------------------------------------------------


@get("/v2", exception_handlers={Exception: problem})
async def server_metadata() -> dict[str, Any]:
    """Name, version, extensions."""
    return {"name": "mlbox", "version": __version__, "extensions": ["parameters"]}


@get("/v2/health/live", exception_handlers={Exception: problem})
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@get("/v2/health/ready", exception_handlers={Exception: problem})
async def ready() -> dict[str, bool]:
    """Models can be asked; both names, because the standard's text has the wrong one."""
    return {"ready": True, "live": True}


@get(
    ["/v2/models/{model:str}", "/v2/models/{model:str}/versions/{version:int}"], exception_handlers={Exception: problem}
)
async def model_metadata(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """A model's tensors."""
    found = await box.call(box.models.metadata, model, version)
    return {
        "name": found.model,
        "versions": [str(found.version)],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": t.name, "datatype": t.dtype, "shape": t.shape} for t in found.inputs],
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
        "parameters": {"features": found.features},
    }


@get(
    ["/v2/models/{model:str}/ready", "/v2/models/{model:str}/versions/{version:int}/ready"],
    exception_handlers={Exception: problem},
)
async def model_ready(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """The model serves; 404 where it does not."""
    found = await box.call(box.models.metadata, model, version)
    return {"name": found.model, "ready": True}


# -- inference --------------------------------------------------------------------------------------------------------------


@post(
    ["/v2/models/{model:str}/infer", "/v2/models/{model:str}/versions/{version:int}/infer"],
    status_code=200,
    exception_handlers={Exception: problem},
)
async def infer(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model: str, version: int | None = None
) -> dict[str, Any]:
    """Score the rows of a request."""
    asked = _decode(await request.body())
    _check_outputs(asked)
    served = await box.call(box.models.metadata, model, version)
    rows = rows_of(asked, served)
    found = await box.call(box.models.predict, model, rows=rows, caller=principal.name, version=version)
    return _answer(asked, model, found)


def _decode(body: bytes) -> InferRequest:
    try:
        return msgspec.json.decode(body, type=InferRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidInput(f"The request cannot be read: {err}.", hint="Send Open Inference Protocol v2 JSON.") from err


def _check_outputs(asked: InferRequest) -> None:
    for output in asked.outputs:
        if output.name != "score":
            raise InvalidInput(
                f"There is no output {output.name!r:.80}.", hint="The output is named score.", field="outputs"
            )


def rows_of(asked: InferRequest, served: ModelVersion) -> list[PredictRow]:
    """The rows that a request's tensors describe; raises InvalidInput naming the tensor."""
    if not asked.inputs:
        raise InvalidInput("There are no inputs.", hint="Send the model's tensor, or the ids.", field="inputs")
    for tensor in asked.inputs:
        _check_tensor(tensor)
    names = [tensor.name for tensor in asked.inputs]
    if len(set(names)) < len(names):
        raise InvalidInput("An input is named twice.", hint="Name each once.", field="inputs")
    own = served.inputs[0].name
    if own in names:
        return _rows_of_tensor(asked, served)
    return _rows_of_ids(asked)


def _check_tensor(tensor: InferInput) -> None:
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(
            f"The input {tensor.name!r:.80} has the datatype {tensor.datatype!r:.40}.",
            hint=f"In JSON one of {', '.join(sorted(DATATYPES))}.",
            field=tensor.name,
        )
    if not tensor.shape or any(size < 0 for size in tensor.shape):
        raise InvalidInput(f"The input {tensor.name!r:.80} has the shape {tensor.shape}.", field=tensor.name)


def _flat(tensor: InferInput) -> list[Any]:
    """The tensor's values, row by row; raises InvalidInput where their number is not the shape's."""
    values: list[Any] = tensor.data
    for _ in tensor.shape[1:]:
        if values and all(isinstance(value, list) for value in values):
            values = [inner for value in values for inner in value]
    if len(values) != math.prod(tensor.shape) or any(isinstance(value, list | dict) for value in values):
        raise InvalidInput(
            f"The input {tensor.name!r:.80} has {len(values)} values for the shape {list(tensor.shape)}.",
            hint="Send as many as the shape says, flat or nested.",
            field=tensor.name,
        )
    return values


def _rows_of_tensor(asked: InferRequest, served: ModelVersion) -> list[PredictRow]:
    spec, width = served.inputs[0], len(served.features)
    if len(asked.inputs) > 1:
        other = next(tensor.name for tensor in asked.inputs if tensor.name != spec.name)
        raise InvalidInput(f"unexpected inference input {other!r:.80} for model {served.model!r}", field=other)
    (tensor,) = asked.inputs
    if tensor.datatype != spec.dtype:
        raise InvalidInput(
            f"inference input {tensor.name!r} data-type is {tensor.datatype!r}, but model {served.model!r} expects"
            f" {spec.dtype!r}",
            field=tensor.name,
        )
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        raise InvalidInput(
            f"unexpected shape for input {tensor.name!r} for model {served.model!r}. Expected [-1,{width}],"
            f" got {list(tensor.shape)}",
            field=tensor.name,
        )
    values = _flat(tensor)
    keys = _keys(asked, tensor.shape[0])
    return [
        PredictRow(
            key=keys[n] if keys else new_id(),
            features=dict(zip(served.features, values[n * width : (n + 1) * width], strict=True)),
        )
        for n in range(tensor.shape[0])
    ]


def _rows_of_ids(asked: InferRequest) -> list[PredictRow]:
    count = asked.inputs[0].shape[0]
    for tensor in asked.inputs:
        if tensor.shape not in ((count,), (count, 1)):
            raise InvalidInput(
                f"The input {tensor.name!r:.80} has the shape {list(tensor.shape)}; [{count}] is wanted.",
                hint="Send one id for each row.",
                field=tensor.name,
            )
    columns = {tensor.name: _flat(tensor) for tensor in asked.inputs}
    keys = _keys(asked, count)
    rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
    return [PredictRow(key=keys[n] if keys else default_key(row), entity=row) for n, row in enumerate(rows)]


def _keys(asked: InferRequest, count: int) -> Sequence[str] | None:
    key, keys = asked.parameters.get("key"), asked.parameters.get("keys")
    if key is not None:
        return [str(key)] * count
    if keys is None:
        return None
    if not isinstance(keys, list) or len(keys) != count:
        raise InvalidInput("The parameter keys is not a list of one for each row.", field="keys")
    return [str(key) for key in keys]


def _answer(asked: InferRequest, model: str, found: Sequence[Prediction]) -> dict[str, Any]:
    versions, roles = [p.version for p in found], [p.role for p in found]
    one = len(set(versions)) == 1 and len(set(roles)) == 1
    mixed: dict[str, Any] = {"versions": versions, "roles": roles}
    return {
        **({"id": asked.id} if asked.id is not None else {}),
        "model_name": model,
        "model_version": str(versions[0]),
        "parameters": {"role": roles[0], "prediction_id": found[0].id} if one else mixed,
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [len(found)], "data": [p.score for p in found]}],
    }


handlers: list[Any] = [server_metadata, live, ready, model_metadata, model_ready, infer]
