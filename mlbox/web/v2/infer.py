"""Inference over the Open Inference Protocol by REST: bodies and headers around the data plane."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from litestar import Request, Response, post

from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import Principal
from mlbox.serve.inference.answers import Inferred
from mlbox.serve.inference.execution import AskRows, Begun
from mlbox.web.box import Box
from mlbox.web.fast.routes import Call, Fast, Reply
from mlbox.web.v2 import dataplane, wire
from mlbox.web.v2.alike import MOST_AT_HAND, PACKINGS, alike
from mlbox.web.v2.models import problem


@post(
    ["/v2/models/{model:str}/infer", "/v2/models/{model:str}/versions/{version:int}/infer"],
    status_code=200,
    accepts=(
        "application/octet-stream",
        "",
        "application/x-www-form-urlencoded",
    ),  # tritonclient names none, curl -d that
    encodings=("gzip", "deflate"),
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def infer(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model: str, version: int | None = None
) -> Response[bytes]:
    """Run a model on tensors, or on the features of entities."""
    body, headers = await request.body(), request.headers
    reply = await box.call(_reply, box, body, headers, model, version, principal.name)
    return Response(reply.body, media_type=reply.kind, headers=dict(reply.headers))


def _reply(
    box: Box,
    body: bytes,
    headers: Mapping[str, str],
    model: str,
    version: int | None,
    caller: str,
    read: wire.Read | None = None,
) -> Reply:
    """From body to body; a large one takes milliseconds to read alone. `read` is what it says, where that is known already."""
    request, tensors = read or wire.decode(
        _plain(body, headers, box.settings.max_body),
        headers.get(wire.HEADER),
        lambda: box.models.inputs(model, version),
    )
    found = dataplane.infer(box.models, model, version, request, tensors, caller)
    return _written(request, model, found, headers)


def _written(request: wire.Request, model: str, found: dataplane.Answer, headers: Mapping[str, str]) -> Reply:
    answer, length = wire.encode(request, model, found.version, found.outputs, found.parameters)
    more = {} if length is None else {wire.HEADER: str(length)}
    kind = "application/json" if length is None else "application/octet-stream"
    return _packed(Reply(answer, kind, more), headers.get("accept-encoding", ""))


# -- compression --------------------------------------------------------------------------------------------------------------


def _plain(body: bytes, headers: Mapping[str, str], most: int) -> bytes:
    """The body as it was before it was compressed; raises TooLarge past the size that a body may have, before it is unpacked."""
    encoding = headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    unpack = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
    try:
        found = unpack.decompress(body, most + 1)
    except zlib.error as err:
        raise InvalidInput(
            f"The body is no {encoding}: {err}.", hint="Send it as it is.", field="content-encoding"
        ) from err
    if len(found) > most:
        raise TooLarge(
            f"The body unpacks to more than {most:,} bytes.",
            hint="Send less, or raise the setting max_body.",
            field="max_body",
        )
    if not unpack.eof:
        raise InvalidInput(f"The {encoding} of the body is cut off.", hint="Send all of it.", field="body")
    return found


def _packed(reply: Reply, accepts: str) -> Reply:
    """Compressed only for who asks for exactly one way, as tritonclient does; browsers and httpx name several."""
    wanted = accepts.strip().lower()
    if wanted not in PACKINGS:
        return reply
    body = gzip.compress(reply.body, compresslevel=1, mtime=0) if wanted == "gzip" else zlib.compress(reply.body, 1)
    return Reply(body, reply.kind, {**reply.headers, "content-encoding": wanted})


# -- the fast path ------------------------------------------------------------------------------------------------------------


def _is_at_hand(box: Box, call: Call) -> bool:
    """A small request to a quick model is answered where it was read; one of ids, as far as its features are at hand."""
    if "version" in call.parameters or not _is_read_soon(call):
        return False
    _, tensors = call.read = wire.decode(call.body, call.headers.get(wire.HEADER))
    return box.models.targets.is_at_hand(
        call.parameters["model"], tensors[0].data.shape[0], [tensor.name for tensor in tensors]
    )


def _is_read_soon(call: Call) -> bool:
    if len(call.body) <= MOST_AT_HAND:
        return True
    head = call.headers.get(wire.HEADER, "")
    length = int(head) if head.isdecimal() and len(head) <= 5 else 0
    return 0 < length <= MOST_AT_HAND and b"BYTES" not in call.body[:length]


def _fast(box: Box, call: Call) -> Reply:
    model, version = call.parameters["model"], call.parameters.get("version")
    return _reply(box, call.body, call.headers, model, version, call.principal.name, call.read)


def _together(box: Box, calls: Sequence[Call]) -> list[Reply | Exception]:
    """Requests that were read on the loop: checked each alone, run as few times as they can be, answered each alone."""
    begun = [_begun(box, call) for call in calls]
    ran = iter(box.models.run([one for one in begun if not isinstance(one, Exception)]))
    found = [one if isinstance(one, Exception) else next(ran) for one in begun]
    return [_answered(call, one) for call, one in zip(calls, found, strict=True)]


def _begun(box: Box, call: Call) -> Begun | AskRows | Exception:
    call.enter()
    request, tensors = call.read
    try:
        return dataplane.begin(box.models, call.parameters["model"], None, request, tensors, call.principal.name)
    except Exception as err:  # this request's own, whatever it is
        return err


def _answered(call: Call, found: Inferred | Exception) -> Reply | Exception:
    if isinstance(found, Exception):
        return found
    try:
        request = call.read[0]
        return _written(request, call.parameters["model"], dataplane.answer(request, found), call.headers)
    except Exception as err:  # likewise
        return err


handlers: list[Any] = [infer]
fast = [Fast(infer, _is_at_hand, _fast, _together, alike)]
