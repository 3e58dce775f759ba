"""The calls of the Open Inference Protocol by gRPC: each is what its REST route is, over the same functions."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from mlbox.errors import InvalidInput, MlboxError, NotFound, Refused, Unavailable
from mlbox.records import Principal
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.tensors import Tensor
from mlbox.web.authorise import PUBLIC
from mlbox.web.box import Box
from mlbox.web.problems import in_tritons_words
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.rpc import wire
from mlbox.web.v2 import absent, dataplane, models, repository
from mlbox.web.v2.alike import MOST_AT_HAND
from mlbox.web.v2.wire import Request

FINAL = "triton_final_response"
WANTS_FINAL = "triton_enable_empty_final_response"
MOST_DIGITS = 19


class Call(NamedTuple):
    """One rpc: its action in the table of roles or PUBLIC, its request, what it does, and its field that names a model."""

    action: str
    request: Any
    answer: Callable[[Box, Principal, Any], Awaitable[Any]]
    names: str = ""


async def _live(box: Box, principal: Principal, asked: Any) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _ready(box: Box, principal: Principal, asked: Any) -> Any:
    return pb.ServerReadyResponse(ready=await models.is_ready(box))


async def _server(box: Box, principal: Principal, asked: Any) -> Any:
    return ParseDict(models.facts(box), pb.ServerMetadataResponse())


async def _model_ready(box: Box, principal: Principal, asked: Any) -> Any:
    """False, as REST's client makes of 403, 404 and 503, for what does not serve, cannot be loaded or was unloaded."""
    try:
        await box.call(box.models.ready, asked.name, version_of(asked.version))
    except (NotFound, Refused, Unavailable):
        return pb.ModelReadyResponse(ready=False)
    return pb.ModelReadyResponse(ready=True)


async def _metadata(box: Box, principal: Principal, asked: Any) -> Any:
    found = await models.metadata(box, asked.name, version_of(asked.version))
    return ParseDict(found, pb.ModelMetadataResponse(), ignore_unknown_fields=True)


async def _config(box: Box, principal: Principal, asked: Any) -> Any:
    found = await models.config(box, asked.name, version_of(asked.version))
    return ParseDict({"config": found}, pb.ModelConfigResponse(), ignore_unknown_fields=True)


async def _statistics(box: Box, principal: Principal, asked: Any) -> Any:
    found = await models.stats(box, asked.name or None, version_of(asked.version))
    return ParseDict(found, pb.ModelStatisticsResponse(), ignore_unknown_fields=True)


async def _index(box: Box, principal: Principal, asked: Any) -> Any:
    rows = await repository.listed(box, only_ready=asked.ready)
    return ParseDict({"models": rows}, pb.RepositoryIndexResponse())


async def _load(box: Box, principal: Principal, asked: Any) -> Any:
    await repository.bring_in(box, principal, asked.model_name, wire.parameters_of(asked.parameters))
    return pb.RepositoryModelLoadResponse()


async def _unload(box: Box, principal: Principal, asked: Any) -> Any:
    await repository.put_out(box, asked.model_name)
    return pb.RepositoryModelUnloadResponse()


async def infer(box: Box, principal: Principal, asked: Any) -> Any:
    """Run a model on tensors, or on the features of entities: a small request to a quick model here, any other in a thread."""
    if asked.model_version or asked.ByteSize() > MOST_AT_HAND:
        return await box.call(_inferred, box.models, asked, principal.name)
    read = wire.decode(asked)
    if _is_at_hand(box.models, asked.model_name, read[1]):
        return _inferred(box.models, asked, principal.name, read)
    return await box.call(_inferred, box.models, asked, principal.name, read)


def _is_at_hand(server: ModelServer, model: str, tensors: Sequence[Tensor]) -> bool:
    rows = len(tensors[0].data) if tensors[0].data.ndim else 1
    with contextlib.suppress(MlboxError):  # which the answer will tell of
        return server.targets.is_at_hand(model, rows, [tensor.name for tensor in tensors])
    return False


def _inferred(server: ModelServer, asked: Any, caller: str, read: tuple[Request, list[Tensor]] | None = None) -> Any:
    request, tensors = read or wire.decode(asked)
    version = version_of(asked.model_version)
    found = dataplane.infer(server, asked.model_name, version, request, tensors, caller)
    return wire.encode(request, asked.model_name, found)


async def streamed(box: Box, principal: Principal, content: bytes) -> Any:
    """The answer to one request of a stream; what is wrong with it is told in its place, and the stream goes on."""
    asked = wire.read(pb.ModelInferRequest, content)
    found = pb.ModelStreamInferResponse()
    try:
        found.infer_response.CopyFrom(await infer(box, principal, asked))
        if asked.parameters[WANTS_FINAL].bool_param:
            found.infer_response.parameters[FINAL].bool_param = True
    except MlboxError as err:
        found.error_message = in_tritons_words(err)
        found.infer_response.id = asked.id
    return found


def version_of(text: str) -> int | None:
    """The version that a request names, if it does; raises InvalidInput, in Triton's words, for a text that is no version."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > MOST_DIGITS:
        raise InvalidInput(
            f"failed to get model version from specified version string '{text:.40}'.",
            hint="A version is a number; leave it out for the one in Production.",
            field="version",
        )
    return int(text)


# -- what is not offered ------------------------------------------------------------------------------------------------------


def _nothing(kind: Any) -> Callable[[Box, Principal, Any], Awaitable[Any]]:
    """No region is registered, and none is left after a client had them all taken out, as clients do to begin with."""

    async def answer(box: Box, principal: Principal, asked: Any) -> Any:
        return kind()

    return answer


def _not_offered(what: str, instead: str) -> Callable[[Box, Principal, Any], Awaitable[Any]]:
    async def answer(box: Box, principal: Principal, asked: Any) -> Any:
        raise absent.not_offered(what, instead)

    return answer


CALLS: dict[str, Call] = {
    "ServerLive": Call(PUBLIC, pb.ServerLiveRequest, _live),
    "ServerReady": Call(PUBLIC, pb.ServerReadyRequest, _ready),
    "ServerMetadata": Call("model.read", pb.ServerMetadataRequest, _server),
    "ModelReady": Call("model.read", pb.ModelReadyRequest, _model_ready),
    "ModelMetadata": Call("model.read", pb.ModelMetadataRequest, _metadata),
    "ModelConfig": Call("model.read", pb.ModelConfigRequest, _config),
    "ModelStatistics": Call("model.read", pb.ModelStatisticsRequest, _statistics),
    "ModelInfer": Call("model.predict", pb.ModelInferRequest, infer),
    "RepositoryIndex": Call("model.read", pb.RepositoryIndexRequest, _index),
    "RepositoryModelLoad": Call("model.write", pb.RepositoryModelLoadRequest, _load, "model_name"),
    "RepositoryModelUnload": Call("model.write", pb.RepositoryModelUnloadRequest, _unload, "model_name"),
    "SystemSharedMemoryStatus": Call(
        "model.read", pb.SystemSharedMemoryStatusRequest, _nothing(pb.SystemSharedMemoryStatusResponse)
    ),
    "SystemSharedMemoryRegister": Call(
        "model.predict", pb.SystemSharedMemoryRegisterRequest, _not_offered(*absent.SHARED_MEMORY)
    ),
    "SystemSharedMemoryUnregister": Call(
        "model.predict", pb.SystemSharedMemoryUnregisterRequest, _nothing(pb.SystemSharedMemoryUnregisterResponse)
    ),
    "CudaSharedMemoryStatus": Call(
        "model.read", pb.CudaSharedMemoryStatusRequest, _nothing(pb.CudaSharedMemoryStatusResponse)
    ),
    "CudaSharedMemoryRegister": Call(
        "model.predict", pb.CudaSharedMemoryRegisterRequest, _not_offered(*absent.SHARED_MEMORY)
    ),
    "CudaSharedMemoryUnregister": Call(
        "model.predict", pb.CudaSharedMemoryUnregisterRequest, _nothing(pb.CudaSharedMemoryUnregisterResponse)
    ),
    "TraceSetting": Call("model.read", pb.TraceSettingRequest, _not_offered(*absent.OBSERVING)),
    "LogSettings": Call("model.read", pb.LogSettingsRequest, _not_offered(*absent.OBSERVING)),
}
"""Every call with one request and one answer; `ModelStreamInfer` is the one with streams."""
