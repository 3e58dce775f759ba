"""Inference over the Open Inference Protocol.

A request is the model's own tensors, or the entities' ids: one [N] tensor for each join key, and the server looks the features
up; the answer then is the tensor `score`, FP64 [N]. The request's parameter `key` (or `keys`, one for each row) decides which
version answers.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from litestar import Request, Response, post

from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import Principal, TensorSpec
from mlbox.serve.answers import SCORE, Inferred
from mlbox.serve.server import ModelServer, PredictRow
from mlbox.serve.tensors import Tensor
from mlbox.web.api.predict import default_key
from mlbox.web.box import Box
from mlbox.web.v2 import wire
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
    request, tensors = wire.decode(_plain(asked, most_bytes), asked.head)
    keys = _keys(request)
    specs = models.inputs(model, version)
    if {spec.name for spec in specs}.isdisjoint(tensor.name for tensor in tensors):
        found = _by_ids(models, model, version, request, tensors, keys, caller, specs)
    else:
        outputs = [output.name for output in request.outputs]
        found = models.infer(model, tensors, caller=caller, version=version, outputs=outputs, keys=keys)
    body, length = wire.encode(request, model, str(found.versions[0]), found.outputs, _parameters(found))
    headers = {} if length is None else {wire.HEADER: str(length)}
    return _packed(body, asked.accepts, headers)


def _by_ids(
    models: ModelServer,
    model: str,
    version: int | None,
    asked: wire.Request,
    tensors: Sequence[Tensor],
    keys: Sequence[str],
    caller: str,
    specs: Sequence[TensorSpec],
) -> Inferred:
    import numpy as np

    if any(output.name != SCORE for output in asked.outputs):
        raise InvalidInput("By ids the output is `score`.", hint=f"Name {SCORE}, or none.", field="outputs")
    rows = _rows_of_ids(model, tensors, keys, specs)
    found = models.predict(model, rows=rows, caller=caller, version=version)
    scores = np.array([np.nan if one.score is None else one.score for one in found])
    return Inferred(
        [Tensor(SCORE, "FP64", scores)],
        [one.id for one in found],
        [one.version for one in found],
        [one.role for one in found],
    )


def _rows_of_ids(
    model: str, tensors: Sequence[Tensor], keys: Sequence[str], specs: Sequence[TensorSpec]
) -> list[PredictRow]:
    count = tensors[0].data.shape[0]
    own = ", ".join(f"{spec.name!r} [{','.join(map(str, spec.shape))}]" for spec in specs)
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.data.shape not in ((count,), (count, 1)) or tensor.name in seen:
            raise InvalidInput(
                f"unexpected shape for input {tensor.name!r:.80} for model {model!r}. Expected [{count}],"
                f" got {list(tensor.data.shape)!s:.80}"
                if tensor.name not in seen
                else f"The input {tensor.name!r:.80} is named twice.",
                hint=f"Send {own}, or one id for each row and join key.",
                field=tensor.name[:200],
            )
        seen.add(tensor.name)
    columns = {tensor.name: tensor.data.reshape(-1).tolist() for tensor in tensors}
    if len(keys) > 1 and len(keys) != count:
        raise InvalidInput(f"{len(keys)} keys for {count} rows.", hint="Send one for each row.", field="keys")
    given = list(keys) * count if len(keys) == 1 else list(keys)
    rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
    return [PredictRow(key=given[n] if given else default_key(row), entity=row) for n, row in enumerate(rows)]


def _keys(asked: wire.Request) -> list[str]:
    key, keys = asked.parameters.get("key"), asked.parameters.get("keys")
    if key is not None:
        keys = [key]
    if keys is None:
        return []
    if not isinstance(keys, list) or not keys:
        raise InvalidInput("The parameter keys is not a list of one for each row.", hint="Send a list.", field="keys")
    if any(isinstance(one, list | dict) for one in keys):
        raise InvalidInput("A key is a text or a number.", hint="Send what stays with the caller.", field="key")
    return [str(one) for one in keys]


def _parameters(found: Inferred) -> dict[str, Any]:
    """Who answered: one value, or where rows differ one for each, joined by commas."""
    parameters = {"model_version": _joined([str(one) for one in found.versions]), "role": _joined(found.roles)}
    if len(found.ids) == 1:
        parameters["prediction_id"] = found.ids[0]
    return parameters


def _joined(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else ",".join(values)


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
