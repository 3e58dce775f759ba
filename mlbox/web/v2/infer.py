"""Inference over the Open Inference Protocol by REST: bodies and headers around the data plane."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, NamedTuple

from litestar import Request, Response, post

from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import Principal
from mlbox.serve.server import ModelServer
from mlbox.web.box import Box
from mlbox.web.v2 import dataplane, wire
from mlbox.web.v2.models import problem


class Asked(NamedTuple):
    """One request as it came in."""

    body: bytes
    head: str | None
    """The header with the length of the JSON, where binary data follows."""
    encoding: str
    """In which it is compressed: identity, gzip or deflate."""
    accepts: str
    """In which the answer may be."""


@post(
    ["/v2/models/{model:str}/infer", "/v2/models/{model:str}/versions/{version:int}/infer"],
    status_code=200,
    accepts=("application/octet-stream", ""),  # tritonclient names no type
    encodings=("gzip", "deflate"),
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def infer(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model: str, version: int | None = None
) -> Response[bytes]:
    """Run a model on tensors, or on the features of entities."""
    headers = request.headers
    asked = Asked(
        await request.body(),
        headers.get(wire.HEADER),
        headers.get("content-encoding", "identity"),
        headers.get("accept-encoding", ""),
    )
    most = box.settings.max_body
    body, given = await box.call(answer_of, box.models, asked, model, version, principal.name, most_bytes=most)
    kind = "application/octet-stream" if wire.HEADER in given else "application/json"
    return Response(body, media_type=kind, headers=given)


def answer_of(
    models: ModelServer, asked: Asked, model: str, version: int | None, caller: str, *, most_bytes: int
) -> tuple[bytes, dict[str, str]]:
    """From body to body and headers, all of it off the loop: a large request takes milliseconds to read alone."""
    request, tensors = wire.decode(_plain(asked, most_bytes), asked.head, lambda: models.inputs(model, version))
    found = dataplane.infer(models, model, version, request, tensors, caller)
    body, length = wire.encode(request, model, found.version, found.outputs, found.parameters)
    headers = {} if length is None else {wire.HEADER: str(length)}
    return _packed(body, asked.accepts, headers)


# -- compression --------------------------------------------------------------------------------------------------------------


def _plain(asked: Asked, most: int) -> bytes:
    """The body as it was before it was compressed; raises TooLarge past the size that a body may have, before it is unpacked."""
    if asked.encoding == "identity":
        return asked.body
    unpack = zlib.decompressobj(wbits=31 if asked.encoding == "gzip" else 15)
    try:
        found = unpack.decompress(asked.body, most + 1)
    except zlib.error as err:
        raise InvalidInput(
            f"The body is no {asked.encoding}: {err}.", hint="Send it as it is.", field="content-encoding"
        ) from err
    if len(found) > most:
        raise TooLarge(
            f"The body unpacks to more than {most:,} bytes.",
            hint="Send less, or raise the setting max_body.",
            field="max_body",
        )
    if not unpack.eof:
        raise InvalidInput(f"The {asked.encoding} of the body is cut off.", hint="Send all of it.", field="body")
    return found


def _packed(body: bytes, accepts: str, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """Compressed only for who asks for exactly one way, as tritonclient does; browsers and httpx name several."""
    wanted = accepts.strip().lower()
    if wanted == "gzip":
        return gzip.compress(body, compresslevel=1, mtime=0), {**headers, "content-encoding": "gzip"}
    if wanted == "deflate":
        return zlib.compress(body, 1), {**headers, "content-encoding": "deflate"}
    return body, headers


handlers: list[Any] = [infer]
