"""Answers that are remembered: of each model as many bytes as its configuration says, the longest unused first forgotten.

A version's answer to the same inputs is the same as long as the model draws no random numbers, which only its owner knows: so
nothing is remembered by default. What is taken from here is logged like any other prediction.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.work import Ran

if TYPE_CHECKING:
    import numpy as np

ENTRY_BYTES = 512
"""What an entry takes beside its arrays."""


class Answers:
    """The answers of all models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[bytes, tuple[Ran, int]]] = {}
        self._sizes: dict[str, int] = {}

    def get(self, model: str, key: bytes) -> Ran | None:
        """What was remembered."""
        with self._lock:
            kept = self._kept.get(model)
            found = kept.get(key) if kept else None
            if kept is None or found is None:
                return None
            kept.move_to_end(key)
            return found[0]

    def put(self, model: str, key: bytes, ran: Ran, *, most: int) -> None:
        """Remember an answer, and forget others until they take no more than `most` bytes together."""
        arrays = [*ran.outputs, *([] if ran.scores is None else [ran.scores])]
        size = ENTRY_BYTES + sum(_size(array) for array in arrays)
        if size > most:
            return
        own = Ran(None if ran.scores is None else ran.scores.copy(), [array.copy() for array in ran.outputs])
        with self._lock:
            kept = self._kept.setdefault(model, OrderedDict())
            self._drop(model, kept, key)
            kept[key] = own, size
            self._sizes[model] = self._sizes.get(model, 0) + size
            self._shrink(model, kept, most)

    def shrink(self, model: str, most: int) -> None:
        """Forget until a model's answers take no more than `most` bytes."""
        with self._lock:
            kept = self._kept.get(model)
            if kept is not None:
                self._shrink(model, kept, most)

    def size(self, model: str) -> int:
        """Bytes of a model's answers."""
        with self._lock:
            return self._sizes.get(model, 0)

    def _shrink(self, model: str, kept: OrderedDict[bytes, tuple[Ran, int]], most: int) -> None:
        while kept and self._sizes[model] > most:
            self._drop(model, kept, next(iter(kept)))

    def _drop(self, model: str, kept: OrderedDict[bytes, tuple[Ran, int]], key: bytes) -> None:
        found = kept.pop(key, None)
        if found is not None:
            self._sizes[model] -= found[1]


def key_of(version: str, tensors: Sequence[Tensor], wanted: Sequence[str]) -> bytes:
    """What an answer depends on: the version by its artifact, the inputs to the last bit, and the outputs that are wanted."""
    digest = hashlib.blake2b(digest_size=32)
    for part in (version, *wanted):
        digest.update(b"%d:%s" % (len(part), part.encode()))
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(repr((tensor.name, tensor.dtype, tensor.data.shape)).encode())
        if tensor.dtype == "BYTES":
            for text in tensor.data.reshape(-1).tolist():
                content = str(text).encode()
                digest.update(b"%d:%s" % (len(content), content))
        else:
            digest.update(tensor.data.tobytes())
    return digest.digest()


def _size(array: np.ndarray) -> int:
    if array.dtype != object:
        return array.nbytes
    return array.nbytes + sum(len(str(text)) + 49 for text in array.reshape(-1).tolist())
