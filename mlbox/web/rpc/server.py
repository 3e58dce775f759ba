"""The gRPC server: who asks, what went wrong, and one line in the log for each call, as around REST.

Messages come in as bytes and are read here, because grpc answers INTERNAL for what it cannot read itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes to stderr, past the log

import grpc
import grpc.aio

from mlbox.errors import InvalidInput, MlboxError, NotAuthenticated, StartupError
from mlbox.records import Principal
from mlbox.settings import Settings
from mlbox.store.access.access import Access
from mlbox.store.asking import NOBODY, set_asking, waiting
from mlbox.web import authorise
from mlbox.web.access_log import AccessLog, Request
from mlbox.web.box import Box
from mlbox.web.problems import as_mlbox_error, in_tritons_words, retry_after
from mlbox.web.rpc import calls, health_pb2, wire
from mlbox.web.rpc.alike import Alike
from mlbox.web.v2 import models
from mlbox.web.v2.queueing import wire_deadline

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
INFER_PATH = f"/{SERVICE}/{INFER}"
REQUEST_ID = "x-request-id"
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""gRPC's code for each status of the tree of errors; any other is INTERNAL."""
MOST_KEYS = 1024
MOST_DETAILS = 2000
"""Characters of an error: they travel in a header, of which clients take 8 KiB."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


Metadata = Sequence[tuple[str, Any]]
Unary = Callable[[bytes | AsyncIterator[bytes], Any], Awaitable[bytes]]


class RpcServer:
    """gRPC over one box. `start` and `stop` are for the running loop."""

    def __init__(self, box: Box, log: AccessLog) -> None:
        self._box = box
        self._log = log
        self._server: Any = None
        self._alike = Alike(box.models)

    async def start(self) -> str:
        """Listen, and say where; raises StartupError in words when the address cannot be had."""
        settings = self._box.settings
        self._server = grpc.aio.server(options=_options(settings), maximum_concurrent_rpcs=settings.max_requests)
        every = {name: self._unary(name, call) for name, call in calls.CALLS.items()}
        whole = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in every.items()}
        asked_first = {name: grpc.stream_unary_rpc_method_handler(answer) for name, answer in every.items()}
        whole[STREAM] = asked_first[STREAM] = grpc.stream_stream_rpc_method_handler(self._stream)
        health = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        usual = functools.partial(self._usual, every[INFER])
        self._server.add_generic_rpc_handlers(
            (
                _Service(whole, asked_first, self._box.access, usual),
                grpc.method_handlers_generic_handler(HEALTH, health),
            )
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        port = self._listen(f"{host}:{settings.grpc_port}", settings)
        await self._server.start()
        return f"{host}:{port}"

    def _listen(self, address: str, settings: Settings) -> int:
        try:
            if not settings.tls_cert:
                return int(self._server.add_insecure_port(address))
            pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
            return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
        except RuntimeError as err:
            raise StartupError(
                f"The server cannot listen on {address} for gRPC.",
                hint="Give another --grpc-port or --host.",
                field="grpc_port",
            ) from err

    async def stop(self, grace: float) -> None:
        """Take no more calls, and end those in hand that are not through after so many seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    # -- calls ----------------------------------------------------------------------------------------------------------

    def _unary(self, name: str, call: calls.Call) -> Unary:
        """A call with its message, or with what it is read from once it is known who asks."""

        async def work(content: bytes, principal: Principal, context: Any) -> bytes:
            seconds = context.time_remaining()
            if seconds is not None:
                wire_deadline.set(time.perf_counter() + seconds)
            self._box.models.tab.settle()  # what was answered is counted before anything else is asked
            asked = wire.read(call.request, content)
            named = {"model": getattr(asked, call.names)} if call.names else {}
            await authorise.check(self._box, principal, call.action, named)
            with waiting():
                answer: bytes = (await call.answer(self._box, principal, asked)).SerializeToString()
            if name == INFER:
                self._alike.note(asked, content)
            return answer

        async def answer(content: bytes | AsyncIterator[bytes], context: Any) -> bytes:
            line = _Line(self._log, name, context)
            try:
                if call.action == authorise.PUBLIC:
                    return await self._for_everyone(call)
                principal = line.principal = await self._admit(line.metadata, context)
                message = content if isinstance(content, bytes) else await anext(content, b"")
                known = self._known(message, principal) if name == INFER else None
                return known or await work(message, principal, context)
            except Exception as err:
                raise await line.refuse(err) from None
            finally:
                line.write()

        return answer

    def _usual(self, infer: Unary, key: bytes) -> Unary:
        """Inference for whoever has this credential, without what only calls need that are not like one before.

        What is not answered so is answered by `infer`, as if nothing had been tried.
        """
        recall, log, path = self._box.access.recall_key, self._log, INFER_PATH

        async def answer(content: bytes | AsyncIterator[bytes], context: Any) -> bytes:
            assert isinstance(content, bytes)
            began, start, found = time.time(), time.perf_counter(), None
            principal = recall(key)
            if principal is not None:
                set_asking(principal)
                with contextlib.suppress(MlboxError):  # which the call is told of below
                    found = self._known(content, principal)
            if found is None:
                return await infer(content, context)
            status = 0 if context.cancelled() else 200
            seconds, peer = time.perf_counter() - start, _peer(context.peer())
            log.note(Request(began, seconds, log.new_id(), status, "gRPC", path, b"", peer, principal))
            return found

        return answer

    def _known(self, content: bytes, principal: Principal) -> bytes | None:
        """The answer to inference that says the same as one before, if that can be had here."""
        if principal.job_id is not None:
            return None
        self._box.teams.require(principal, calls.CALLS[INFER].action)
        return self._alike.answer(content, principal)

    async def _stream(self, contents: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One answer to each request, in their order; who asks is looked at anew for each."""
        line = _Line(self._log, STREAM, context)
        try:
            line.principal = await self._admit(line.metadata, context)
            async for content in contents:
                line.principal = await self._admit(line.metadata, context)
                await authorise.check(self._box, line.principal, "model.predict", {})
                with waiting():
                    answer = await calls.streamed(self._box, line.principal, content)
                yield answer.SerializeToString()
        except Exception as err:
            raise await line.refuse(err) from None
        finally:
            line.write()

    async def _admit(self, metadata: Metadata, context: Any) -> Principal:
        """Who asks: as by REST, an Authorization header, here called metadata."""
        given = _credentials(metadata)
        if len(given) > 1:
            raise InvalidInput("The metadata authorization came twice.", hint="Send it once.", field="authorization")
        if not given:
            raise NotAuthenticated("A token is needed.", hint="Send the metadata authorization: Bearer TOKEN.")
        credential = given[0]
        door = self._box.door
        principal = self._box.access.recall(credential) or await door.admit(credential, _peer(context.peer())[0])
        set_asking(principal)
        return principal

    # -- health -----------------------------------------------------------------------------------------------------------

    async def _for_everyone(self, call: calls.Call) -> bytes:
        """The answer to a call that says nothing, whose message is not read: nobody knows who sent it."""
        set_asking(NOBODY)
        answer: bytes = (await call.answer(self._box, NOBODY, call.request())).SerializeToString()
        return answer

    async def _check(self, content: bytes, context: Any) -> bytes:
        """For everyone, as /readyz is: a load balancer has no token."""
        found = await self._health(content)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        answer: bytes = health_pb2.HealthCheckResponse(status=found).SerializeToString()
        return answer

    async def _watch(self, content: bytes, context: Any) -> AsyncIterator[bytes]:
        """The state now, and once more when the server stops."""
        found = await self._health(content)
        yield health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN if found is None else found).SerializeToString()
        await self._box.stopping.wait()
        yield health_pb2.HealthCheckResponse(status=NOT_SERVING).SerializeToString()

    async def _health(self, content: bytes) -> Any:
        set_asking(NOBODY)
        if self._box.stopping.is_set():
            return NOT_SERVING
        try:
            service = wire.read(health_pb2.HealthCheckRequest, content).service
        except InvalidInput:
            return None
        if service not in ("", SERVICE, HEALTH):
            return None
        return SERVING if await models.is_ready(self._box) else NOT_SERVING


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The handler of each call: the quicker one, which begins with the message, for credentials that are known already.

    grpc takes in a message before it calls that one. Whoever is not known yet is asked who he is before any of it is read.
    Inference by a credential that asked before has a handler of its own, made by `usual` of the credential's key.
    """

    def __init__(
        self,
        whole: Mapping[str, Any],
        asked_first: Mapping[str, Any],
        access: Access,
        usual: Callable[[bytes], Unary],
    ) -> None:
        self._whole = {f"/{SERVICE}/{name}": handler for name, handler in whole.items()}
        self._asked_first = {f"/{SERVICE}/{name}": handler for name, handler in asked_first.items()}
        self._key, self._recall = access.key_of, access.recall_key
        self._make = usual
        self._usual: dict[bytes, Any] = {}
        """By the credential's key, the handler of its inference."""

    def service(self, details: Any) -> Any:
        """The handler of a call; None for one that there is not."""
        metadata: Metadata = details.invocation_metadata or ()
        method = details.method
        given = _credentials(metadata)
        key = self._key(given[0]) if len(given) == 1 else b""
        if not key or self._recall(key) is None:
            return self._asked_first.get(method)
        if method != INFER_PATH or any(name == REQUEST_ID for name, _ in metadata):
            return self._whole.get(method)
        return self._usual.get(key) or self._begin(key)

    def _begin(self, key: bytes) -> Any:
        if len(self._usual) >= MOST_KEYS:
            self._usual.clear()
        handler = self._usual[key] = grpc.unary_unary_rpc_method_handler(self._make(key))
        return handler


class _Line:
    """What is noted of one call."""

    def __init__(self, log: AccessLog, name: str, context: Any) -> None:
        self._log = log
        self._path = f"/{SERVICE}/{name}"
        self._context = context
        self._began, self._start = time.time(), time.perf_counter()
        self.metadata: Metadata = context.invocation_metadata() or ()
        self._id = log.begin([(n.encode(), v.encode()) for n, v in self.metadata if n == REQUEST_ID])
        self._status = 0
        self.principal: Principal | None = None

    async def refuse(self, err: Exception) -> MlboxError:
        """Tell the client, which ends the call; what is returned is never raised."""
        ours = as_mlbox_error(err)
        self._status = ours.status
        trailing = [(REQUEST_ID, self._id), *((n.decode(), v.decode()) for n, v in retry_after(ours))]
        code = CODES.get(ours.status, grpc.StatusCode.INTERNAL)
        await self._context.abort(code, in_tritons_words(ours)[:MOST_DETAILS], tuple(trailing))
        return ours

    def write(self) -> None:
        """The line in the log."""
        seconds = time.perf_counter() - self._start
        status = self._status or (0 if self._context.cancelled() else 200)
        peer = _peer(self._context.peer())
        self._log.note(Request(self._began, seconds, self._id, status, "gRPC", self._path, b"", peer, self.principal))


def _credentials(metadata: Metadata) -> list[bytes]:
    return [
        value if isinstance(value, bytes) else value.encode() for name, value in metadata if name == "authorization"
    ]


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header),
        ("grpc.absolute_max_metadata_size", settings.max_header),
        ("grpc.so_reuseport", 0),  # a second server on the same port would take half of the calls
    ]


@functools.lru_cache(maxsize=1024)
def _peer(text: str) -> tuple[str, int]:
    """The address that asks, of grpc's `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`."""
    _, _, place = unquote(text).partition(":")
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0
