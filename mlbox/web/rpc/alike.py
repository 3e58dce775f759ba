"""Calls that say the same as one before but for their row: answered without reading and writing their messages field by field.

Most clients send one row of the one tensor that a model takes, raw, behind a message that is the same each time. Such a message
is read once, and known again by its bytes, as is that of its answer. Anything else, and anything wrong, goes the way of all other
calls. Calls are not joined, as requests by REST are: grpc.aio takes them in one after the other, so hardly two meet in a turn of
the loop.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

from mlbox.errors import MlboxError
from mlbox.records import Principal
from mlbox.serve.inference.answers import Inferred
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.singles import Singles
from mlbox.serve.inference.targets import Target
from mlbox.serve.inference.tensors import NUMPY, fits
from mlbox.web.crowd import Crowd
from mlbox.web.rpc import wire
from mlbox.web.v2.dataplane import Answer
from mlbox.web.v2.wire import ITEM, Request, to_bytes

MOST_KNOWN, MOST_ALIKE, MOST_BEFORE = 256, 8, 4096
"""How many messages are known, how many of them of one length, and how much there may be before the tensor of one."""
RAW_INPUT, RAW_OUTPUT = 7, 6
"""The fields of a request and of an answer that hold raw tensors, each the last of its message."""
DELIMITED = 2
"""Protobuf's wire type of what has its length before it."""


class Known:
    """What a request of one row says beside its row, and the bytes that say it."""

    def __init__(self, before: bytes, length: int, asked: Any) -> None:
        given = asked.inputs[0]
        self.before = before
        self.length = length
        """Of the whole message."""
        self.model: str = asked.model_name
        self.name: str = given.name
        self.dtype: str = given.datatype
        self.shape = tuple(given.shape)
        self.outputs = [output.name for output in asked.outputs]


class Row(Crowd[bytes]):
    """A call for a row of the one tensor that a model takes, and its answer."""

    def __init__(self, models: ModelServer, target: Target, caller: str, known: Known) -> None:
        super().__init__(models, target, caller)
        self._known = known
        self._fits = _fits(known, target)
        self._singles: Singles | None = None
        self._template: Template | None = None

    def answer(self, content: bytes) -> bytes | None:
        """What a call is answered with; None, and nothing has happened, where something is wrong with it."""
        if not self._fits:
            return None
        try:
            return self._filled(self._ran(content))
        except MlboxError:
            return None

    def _ran(self, content: bytes) -> Inferred:
        import numpy as np

        known = self._known
        if self._singles is None:
            self._singles = Singles(self._target, self._caller, known.name, known.dtype, known.outputs)
        data = np.ndarray(known.shape, NUMPY[known.dtype], content, len(known.before))
        return self._models.answer_rows(self._singles, data)

    def _filled(self, found: Inferred) -> bytes:
        shapes = [tensor.data.shape for tensor in found.outputs]
        if self._template is None or self._template.shapes != shapes:
            self._template = Template.of(self._target.model, found)
        return self._template.filled(found)


class Template(NamedTuple):
    """The message of an answer, but for the id of its prediction, which is of one length, and its tensors, which come last."""

    shapes: list[tuple[int, ...]]
    before: bytes
    after: bytes
    heads: list[bytes]
    """Before each tensor."""

    @classmethod
    def of(cls, model: str, found: Inferred) -> Template:
        """Of answers like this one."""
        own, version = found.ids[0], str(found.versions[0])
        parameters = {"model_version": version, "role": found.roles[0], "prediction_id": own}
        message = wire.encode(Request([]), model, Answer(version, found.outputs, parameters))
        sizes = [len(content) for content in message.raw_output_contents]
        del message.raw_output_contents[:]
        before, _, after = message.SerializeToString(deterministic=True).rpartition(own.encode())
        tag = bytes([RAW_OUTPUT << 3 | DELIMITED])
        return cls([tensor.data.shape for tensor in found.outputs], before, after, [tag + varint(n) for n in sizes])

    def filled(self, found: Inferred) -> bytes:
        """The message of an answer."""
        parts = [self.before, found.ids[0].encode(), self.after]
        for head, tensor in zip(self.heads, found.outputs, strict=True):
            parts += (head, to_bytes(tensor))
        return b"".join(parts)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


class Alike:
    """Answers calls of which it knows all but the row."""

    def __init__(self, models: ModelServer) -> None:
        self._models = models
        self._count = 0
        self._by_length: dict[int, list[Known]] = {}

    def note(self, asked: Any, content: bytes) -> None:
        """Know a message again that was answered, where it is of the usual form."""
        if not _is_usual(asked):
            return
        start = _begin_of_raw(content)
        if start is None or start > MOST_BEFORE:
            return
        if self._count >= MOST_KNOWN:
            self._by_length.clear()
            self._count = 0
        some = self._by_length.setdefault(len(content), [])
        if self.find(content) is None and len(some) < MOST_ALIKE:
            some.append(Known(content[:start], len(content), asked))
            self._count += 1

    def find(self, content: bytes) -> Known | None:
        """What is known of a message, if its like came before."""
        for known in self._by_length.get(len(content), ()):
            if content.startswith(known.before):
                return known
        return None

    def answer(self, content: bytes, principal: Principal) -> bytes | None:
        """What a call of who may ask is answered with; None, and nothing has happened, where it goes the way of all others."""
        known, models = self.find(content), self._models
        if known is None:
            return None
        try:
            target = models.crowd(known.model)
            if target is None:
                return None
        except MlboxError:  # which the answer will tell of
            return None
        lead, caller = (known, principal.name), principal.name
        return Row.of(models, target, lead, lambda: Row(models, target, caller, known)).answer(content)


def _is_usual(asked: Any) -> bool:
    """Whether a request is of one row of one raw tensor of numbers, and says nothing that is its own."""
    if len(asked.inputs) != 1 or len(asked.raw_input_contents) != 1:
        return False
    if asked.id or asked.model_version or asked.parameters or any(output.parameters for output in asked.outputs):
        return False
    given = asked.inputs[0]
    if given.parameters or given.HasField("contents") or given.datatype not in ITEM or given.shape[:1] != [1]:
        return False
    size = math.prod(given.shape) * ITEM[given.datatype]
    return bool(min(given.shape) > 0 and len(asked.raw_input_contents[0]) == size)


def _fits(known: Known, target: Target) -> bool:
    """Whether a version takes this, and each row of what it answers has as many bytes."""
    assert target.alone is not None
    loaded = target.alone[1]
    own = [(spec.name, spec.dtype) for spec in loaded.inputs] == [(known.name, known.dtype)]
    return (
        own and fits(loaded.inputs[0].shape, known.shape) and ITEM.keys() >= set(loaded.session.output_types.values())
    )


def _begin_of_raw(content: bytes) -> int | None:
    """Where the raw tensor of a request begins, if it is one that comes once, and last."""
    at = 0
    with contextlib.suppress(IndexError):
        while True:
            tag, at = _varint(content, at)
            size, at = _varint(content, at)
            if tag & 7 != DELIMITED:
                return None
            if tag >> 3 == RAW_INPUT:
                return at if at + size == len(content) else None
            at += size
    return None


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends; raises IndexError where the content does."""
    found = shift = 0
    while True:
        byte = content[at]
        found |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return found, at
