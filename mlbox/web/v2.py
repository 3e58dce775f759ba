"""The Open Inference Protocol v2 over JSON, as one adapter over the model server.

A request is either the model's own tensor, FP32 [N, F] with its columns in the order of its features, or the entities' ids:
one [N] tensor per join key, and the server looks the features up. The answer is the tensor `score`, FP64 [N]. The request's
parameter `key` (or `keys`, one for each row) decides which version answers.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Request, Response, get, post

from mlbox import __version__
from mlbox.errors import InvalidInput, MlboxError, Unavailable
from mlbox.ids import new_id
from mlbox.records import ModelVersion, Prediction, Principal
from mlbox.serve.server import ModelServer, PredictRow
from mlbox.web.api.predict import default_key
from mlbox.web.box import Box
from mlbox.web.problems import as_mlbox_error, open_inference
from mlbox.web.v2_tensors import Tensor, flat

SCORE = "score"
NEEDED = ("registry", "features", "online")
"""The stores that no prediction can do without."""
BINARY = "inference-header-content-length"


class InferOutput(msgspec.Struct):
    """An output that is asked for."""

    name: str


class InferRequest(msgspec.Struct):
    """The body of `infer`; unknown parameters are ignored, as the protocol says."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[InferOutput] = []


def problem(_: Request[Any, Any, Any], err: Exception) -> Response[dict[str, Any]]:
    """Every error in this protocol's shape."""
    ours = as_mlbox_error(err)
    return Response(open_inference(ours), status_code=ours.status)


# -- the server and its models ----------------------------------------------------------------------------------------------


@get("/v2", exception_handlers={Exception: problem}, action="model.read")
async def server_metadata() -> dict[str, Any]:
    """Name, version, extensions."""
    return {"name": "mlbox", "version": __version__, "extensions": ["parameters"]}


@get("/v2/health/live", exception_handlers={Exception: problem}, action="model.read")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@get("/v2/health/ready", exception_handlers={Exception: problem}, action="model.read")
async def ready(box: Box) -> Response[dict[str, bool]]:
    """Models can be asked, 503 where not; both names, because the standard's text has the wrong one."""
    checks = box.checks()
    try:
        for name in NEEDED:
            await box.call(checks[name])
    except MlboxError:
        return Response({"ready": False, "live": True}, status_code=503)
    return Response({"ready": True, "live": True})


@get(
    ["/v2/models/{model:str}", "/v2/models/{model:str}/versions/{version:int}"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_metadata(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """A model's tensors."""
    found = await box.call(box.models.metadata, model, version)
    return {
        "name": found.model,
        "versions": [str(found.version)],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": t.name, "datatype": t.dtype, "shape": [-1, len(found.features)]} for t in found.inputs],
        "outputs": [{"name": SCORE, "datatype": "FP64", "shape": [-1]}],
        "parameters": {"features": ",".join(found.features)},
    }


@get(
    ["/v2/models/{model:str}/ready", "/v2/models/{model:str}/versions/{version:int}/ready"],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_ready(box: Box, model: str, version: int | None = None) -> dict[str, Any]:
    """The model serves and is in memory; 404 where it does not serve, 503 where it cannot be loaded."""
    found = await box.call(box.models.ready, model, version)
    return {"name": found.model, "ready": True}


# -- inference --------------------------------------------------------------------------------------------------------------


@post(
    ["/v2/models/{model:str}/infer", "/v2/models/{model:str}/versions/{version:int}/infer"],
    status_code=200,
    accepts=("application/octet-stream", ""),  # tritonclient names no type
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def infer(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model: str, version: int | None = None
) -> Response[bytes]:
    """Score the rows of a request."""
    if BINARY in request.headers:
        raise InvalidInput(
            "Binary tensors are not taken; `data` in the JSON is.",
            hint="In tritonclient: set_data_from_numpy(..., binary_data=False).",
            field=BINARY,
        )
    body = await request.body()
    answer = await box.call(answer_of, box.models, body, model, version, principal.name)
    return Response(answer, media_type="application/json")


def answer_of(models: ModelServer, body: bytes, model: str, version: int | None, caller: str) -> bytes:
    """From body to body, all of it off the loop: a large request takes milliseconds to read alone."""
    asked = _decode(body)
    _check_outputs(asked)
    rows = rows_of(asked, models.metadata(model, version))
    found = models.predict(model, rows=rows, caller=caller, version=version)
    return msgspec.json.encode(_answer(asked, model, found))


def _decode(body: bytes) -> InferRequest:
    try:
        return msgspec.json.decode(body, type=InferRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidInput(f"The request cannot be read: {err}.", hint="Send Open Inference Protocol v2 JSON.") from err


def _check_outputs(asked: InferRequest) -> None:
    for output in asked.outputs:
        if output.name != SCORE:
            raise InvalidInput(
                f"There is no output {output.name!r:.80}.", hint=f"The output is named {SCORE}.", field="outputs"
            )


def rows_of(asked: InferRequest, served: ModelVersion) -> list[PredictRow]:
    """The rows that a request's tensors describe; raises InvalidInput naming the tensor."""
    if not asked.inputs:
        raise InvalidInput("There are no inputs.", hint="Send the model's tensor, or the ids.", field="inputs")
    names = [tensor.name for tensor in asked.inputs]
    if len(set(names)) < len(names):
        raise InvalidInput("An input is named twice.", hint="Name each once.", field="inputs")
    if not served.inputs:
        raise Unavailable(f"{served.ref} has no tensors on record.", hint="Register it again.")
    if served.inputs[0].name in names:
        return _rows_of_tensor(asked, served)
    return _rows_of_ids(asked, served)


def _rows_of_tensor(asked: InferRequest, served: ModelVersion) -> list[PredictRow]:
    spec, width = served.inputs[0], len(served.features)
    if len(asked.inputs) > 1:
        other = next(tensor.name for tensor in asked.inputs if tensor.name != spec.name)
        raise InvalidInput(f"unexpected inference input {other!r:.80} for model {served.model!r}", field=other)
    (tensor,) = asked.inputs
    if tensor.datatype != spec.dtype:
        raise InvalidInput(
            f"inference input {tensor.name!r} data-type is {tensor.datatype!r:.40}, but model {served.model!r} expects"
            f" {spec.dtype!r}",
            field=tensor.name,
        )
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        raise InvalidInput(
            f"unexpected shape for input {tensor.name!r} for model {served.model!r}. Expected [-1,{width}],"
            f" got {list(tensor.shape)!s:.80}",
            field=tensor.name,
        )
    values = flat(tensor, missing=True)
    keys = _keys(asked, tensor.shape[0])
    return [
        PredictRow(
            key=keys[n] if keys else new_id(),
            features=dict(zip(served.features, values[n * width : (n + 1) * width], strict=True)),
        )
        for n in range(tensor.shape[0])
    ]


def _rows_of_ids(asked: InferRequest, served: ModelVersion) -> list[PredictRow]:
    count = asked.inputs[0].shape[0] if asked.inputs[0].shape else 0
    for tensor in asked.inputs:
        if tensor.shape not in ((count,), (count, 1)):
            raise InvalidInput(
                f"unexpected shape for input {tensor.name!r:.80} for model {served.model!r}. Expected [{count}],"
                f" got {list(tensor.shape)!s:.80}",
                hint=f"Send {served.inputs[0].name!r} [-1,{len(served.features)}], or one id for each row and join key.",
                field=tensor.name,
            )
    columns = {tensor.name: flat(tensor) for tensor in asked.inputs}
    keys = _keys(asked, count)
    rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
    return [PredictRow(key=keys[n] if keys else default_key(row), entity=row) for n, row in enumerate(rows)]


def _keys(asked: InferRequest, count: int) -> Sequence[str] | None:
    key, keys = asked.parameters.get("key"), asked.parameters.get("keys")
    if key is not None:
        keys = [key] * count
    if keys is None:
        return None
    if not isinstance(keys, list) or len(keys) != count:
        raise InvalidInput(
            "The parameter keys is not a list of one for each row.", hint=f"Send {count} of them.", field="keys"
        )
    if any(isinstance(one, list | dict) for one in keys):
        raise InvalidInput("A key is a text or a number.", hint="Send what stays with the caller.", field="key")
    return [str(one) for one in keys]


def _answer(asked: InferRequest, model: str, found: Sequence[Prediction]) -> dict[str, Any]:
    """The parameters say who answered: one value, or where rows differ one for each, joined by commas."""
    parameters = {"model_version": _joined([str(p.version) for p in found]), "role": _joined([p.role for p in found])}
    if len(found) == 1:
        parameters["prediction_id"] = found[0].id
    return {
        **({"id": asked.id} if asked.id is not None else {}),
        "model_name": model,
        "model_version": str(found[0].version),
        "parameters": parameters,
        "outputs": [{"name": SCORE, "datatype": "FP64", "shape": [len(found)], "data": [p.score for p in found]}],
    }


def _joined(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ",".join(values)


handlers: list[Any] = [server_metadata, live, ready, model_metadata, model_ready, infer]
