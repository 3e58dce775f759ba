"""Requests of a turn of the loop that are alike but for their row: read, run and answered as one of many rows.

Of the usual form is what most clients send: one row of the model's own FP32 tensor, in JSON or in binary, or one entity's ids,
and no more than that. Anything else, and anything wrong, is each request's own, and goes the way of all others.
"""

from __future__ import annotations

import math
import re
from math import hypot
from typing import Any

import msgspec

from mlbox.serve.inference.answers import Inferred
from mlbox.serve.inference.loading import Loaded
from mlbox.serve.inference.server import ModelServer, PredictRow
from mlbox.serve.inference.singles import Singles
from mlbox.serve.inference.targets import Target
from mlbox.serve.inference.tensors import NUMPY, fits
from mlbox.web.api.predict import default_key
from mlbox.web.box import Box
from mlbox.web.crowd import Crowd
from mlbox.web.fast.routes import Alike, Call, Reply
from mlbox.web.v2 import wire

MOST_AT_HAND = 16 * 1024
"""Bytes of JSON, or of texts, that are read on the loop. Of binary numbers it is any that the fast path takes."""
PACKINGS = ("gzip", "deflate")
"""What an answer is packed with for who accepts exactly one way."""
MOST_TEXTS = 1024
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
INT64 = range(-(2**63), 2**63)
_ID_TYPES: dict[str, type] = {"BYTES": str, "INT64": int}


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row of numbers."""

    name: str
    datatype: str
    shape: tuple[int, int]
    data: list[float]


class Id(msgspec.Struct, forbid_unknown_fields=True):
    """One of an entity's ids."""

    name: str
    datatype: str
    shape: tuple[int]
    data: tuple[str | int]


class RowRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request of a row."""

    inputs: tuple[Row]


class IdRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request of an entity."""

    inputs: list[Id]


_decode_row = msgspec.json.Decoder(RowRequest).decode
_decode_ids = msgspec.json.Decoder(IdRequest).decode
_encode = msgspec.json.Encoder().encode
_PLAIN = wire.Request([])


def alike(box: Box, call: Call) -> Alike | None:
    """What takes requests like this one; None where they are not all answered by one run of one version."""
    if "version" in call.parameters or call.headers.get("accept-encoding", "").strip().lower() in PACKINGS:
        return None
    models, model = box.models, call.parameters["model"]
    target = models.crowd(model)
    if target is None or target.alone is None:
        return None
    length, caller, loaded = call.headers.get(wire.HEADER), call.principal.name, target.alone[1]
    if length is not None:
        if not re.fullmatch("[0-9]{1,5}", length):
            return None
        return _Binary.of(
            models, target, call.lead, lambda: _Binary(models, target, caller, call.body[: int(length)]), call.body
        )
    if any(loaded.session.output_types[name] not in wire.IN_JSON for name in loaded.outputs):
        return None
    if b'"FP32"' in call.body:
        return _Rows.of(models, target, call.lead, lambda: _Rows(models, target, caller)) if _is_row(loaded) else None
    if not models.targets.is_at_hand(model, 1, ()):
        return None
    return _Ids.of(models, target, call.lead, lambda: _Ids(models, target, caller))


def _is_row(loaded: Loaded) -> bool:
    specs = loaded.inputs
    return len(specs) == 1 and specs[0].dtype == "FP32" and len(specs[0].shape) == 2


class _Rows(Crowd[Reply]):
    """In JSON: rows of the one tensor that the model takes."""

    def __init__(self, models: ModelServer, target: Target, caller: str) -> None:
        super().__init__(models, target, caller)
        (spec,) = self._loaded.inputs
        self._name = spec.name
        self._size = spec.shape[1]
        self._singles = Singles(target, caller, spec.name, "FP32")

    def take(self, body: bytes) -> bool:
        """Read a row."""
        try:
            (given,) = _decode_row(body).inputs
        except UNREADABLE:
            return False
        data, size = given.data, len(given.data)
        wanted = len(self._rows[0]) if self._size == -1 and self._rows else self._size
        if given.name != self._name or given.datatype != "FP32" or given.shape != (1, size) or wanted not in (-1, size):
            return False
        if len(body) > MOST_AT_HAND or not hypot(*data) < wire.SAFE:
            return False
        self._rows.append(data)
        return True

    def _inferred(self, rows: list[Any]) -> Inferred:
        import numpy as np

        return self._models.answer_rows(self._singles, np.array(rows, np.float64).astype(np.float32))

    def _written(self, found: Inferred) -> list[Reply | None]:
        return written(_PLAIN, self._target.model, found)


class _Ids(Crowd[Reply]):
    """In JSON: the ids of an entity, whose features are looked up."""

    def __init__(self, models: ModelServer, target: Target, caller: str) -> None:
        super().__init__(models, target, caller)
        form = models.form(target.model)
        self._names = {column.name for column in form.keys} - form.columns.places.keys() - self._loaded.takes

    def take(self, body: bytes) -> bool:
        """Read an entity."""
        try:
            given = _decode_ids(body).inputs
        except UNREADABLE:
            return False
        entity: dict[str, Any] = {}
        for one in given:
            (value,) = one.data
            kind = _ID_TYPES.get(one.datatype)
            if kind is not type(value) or one.name not in self._names or one.shape != (1,):
                return False
            if kind is int and value not in INT64:
                return False
            entity[one.name] = value
        if not entity or len(entity) < len(given) or len(body) > MOST_AT_HAND:
            return False
        self._rows.append(PredictRow(key=default_key(entity), entity=entity))
        return True

    def _inferred(self, rows: list[Any]) -> Inferred:
        return self._models.answer_singles(self._models.singles(self._target, rows, self._caller))

    def _written(self, found: Inferred) -> list[Reply | None]:
        return written(_PLAIN, self._target.model, found)


class _Binary(Crowd[Reply]):
    """In binary: the bytes of the one tensor that the model takes, behind JSON that is the same for all."""

    def __init__(self, models: ModelServer, target: Target, caller: str, text: bytes) -> None:
        super().__init__(models, target, caller)
        self._text = text
        known = _read(text)
        self._asked_for = known if known is not None and _fits(known, self._loaded) else None
        self._singles: Singles | None = None
        self._length = len(text) + (known.inputs[0].parameters["binary_data_size"] if known is not None else 0)

    def _takes(self, body: bytes) -> bool:
        return len(body) == self._length and body.startswith(self._text)

    def take(self, body: bytes) -> bool:
        """Read a row."""
        if self._asked_for is None or not self._takes(body):
            return False
        self._rows.append(body)
        return True

    def _inferred(self, rows: list[Any]) -> Inferred:
        import numpy as np

        assert self._asked_for is not None
        given, start = self._asked_for.inputs[0], len(self._text)
        if self._singles is None:
            outputs = [output.name for output in self._asked_for.outputs]
            self._singles = Singles(self._target, self._caller, given.name, given.datatype, outputs)
        content = memoryview(rows[0])[start:] if len(rows) == 1 else b"".join([memoryview(row)[start:] for row in rows])
        data = np.frombuffer(content, NUMPY[given.datatype]).reshape(len(rows), *given.shape[1:])
        return self._models.answer_rows(self._singles, data)

    def _written(self, found: Inferred) -> list[Reply | None]:
        assert self._asked_for is not None
        return written(self._asked_for, self._target.model, found)


_known: dict[bytes, wire.Request | None] = {}
"""What JSON before binary data says, where it is of the usual form; the same clients send the same."""


def _read(text: bytes) -> wire.Request | None:
    """A request of one binary tensor of one row, that says nothing which is its own."""
    if text not in _known:
        if len(_known) >= MOST_TEXTS:
            _known.clear()
        _known[text] = _usual(text)
    return _known[text]


def _usual(text: bytes) -> wire.Request | None:
    try:
        asked = wire.read(text)
    except UNREADABLE:
        return None
    plain = asked.id is None and len(asked.inputs) == 1 and asked.parameters.keys() <= {"binary_data_output"}
    if not plain or any(output.parameters.keys() - {"binary_data"} for output in asked.outputs):
        return None
    given = asked.inputs[0]
    size = given.parameters.get("binary_data_size")
    whole = given.datatype in wire.ITEM and given.shape[:1] == (1,) and min(given.shape) > 0
    if not whole or type(size) is not int or size != math.prod(given.shape) * wire.ITEM[given.datatype]:
        return None
    return asked


def _fits(asked: wire.Request, loaded: Loaded) -> bool:
    """Whether a version takes this, and its answer can be written however it is asked for."""
    given, specs, types = asked.inputs[0], loaded.inputs, loaded.session.output_types.values()
    own = len(specs) == 1 and (given.name, given.datatype) == (specs[0].name, specs[0].dtype)
    return (
        own and fits(specs[0].shape, given.shape) and all(dtype in wire.IN_JSON and dtype != "BYTES" for dtype in types)
    )


# -- answers ------------------------------------------------------------------------------------------------------------------


def written(asked: wire.Request, model: str, found: Inferred) -> list[Reply | None]:
    """As `wire.encode`, each row as the answer to a request of its own."""
    every = bool(asked.parameters.get("binary_data_output", False))
    wanted = {output.name: bool(output.parameters.get("binary_data", every)) for output in asked.outputs}
    count, outputs, values, parts = len(found.ids), [], [], []
    for tensor in found.outputs:
        name, dtype, data = tensor
        shown = wire.ShownTensor(name, dtype, (1, *data.shape[1:]))
        if wanted.get(name, every):
            content = wire.to_bytes(tensor)
            size = len(content) // count
            shown.parameters = {"binary_data_size": size}
            parts.append([content[size * n : size * (n + 1)] for n in range(count)])
        else:
            values.append((shown, data.reshape(count, -1).tolist()))
        outputs.append(shown)
    parameters = {"model_version": str(found.versions[0]), "role": found.roles[0], "prediction_id": ""}
    answer = wire.Shown(
        id=msgspec.UNSET,
        model_name=model,
        model_version=parameters["model_version"],
        parameters=parameters,
        outputs=outputs,
    )
    replies: list[Reply | None] = []
    for place, own in enumerate(found.ids):
        parameters["prediction_id"] = own
        for shown, rows in values:
            shown.data = rows[place]
        head = _encode(answer)
        if parts:
            body = b"".join([head, *[part[place] for part in parts]])
            replies.append(Reply(body, "application/octet-stream", {wire.HEADER: str(len(head))}))
        else:
            replies.append(Reply(head))
    return replies
