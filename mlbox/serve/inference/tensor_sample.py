"""Some of the requests that models of tensors are asked, in memory: the log keeps no tensors, and a replay wants requests.

Those of a model lie evenly over the time since the server started. When they are too many, every second one goes, and from then
on half as many are kept: so they are bounded, however much a model is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlbox.clock import Clock, to_us
from mlbox.serve.inference.check_replay import lay_tensors
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import RECORDED_BYTES, Feeds
from mlbox.serve.predictions.batches import Given

if TYPE_CHECKING:
    import numpy as np

    from mlbox.records import ModelVersion

MOST = 256
MOST_BYTES = 8 << 20
"""Of a model."""
HANDED_BYTES = 1 << 20
"""Of what a gate's command is given: it is JSON there, which is several times as long."""


class Kept(NamedTuple):
    """A request."""

    tensors: Sequence[Tensor]
    rows: int
    domain_us: int


class TensorRows(NamedTuple):
    """Requests of tensors to be asked again, oldest first; as `logged.Rows` for what a replay looks at."""

    requests: Sequence[Kept]
    source: str
    note: str
    by: np.ndarray | None = None
    scores: np.ndarray | None = None
    computed: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many."""
        return len(self.requests)

    @property
    def domain_us(self) -> Sequence[int]:
        """When each was asked."""
        return [one.domain_us for one in self.requests]

    def lay(self, folder: Path, version: ModelVersion) -> None:
        """Make a sheet of them; whether the version takes them is seen when it is asked."""
        lay_tensors(folder, [(one.tensors, one.rows) for one in self.requests])

    def givens(self) -> Callable[[int], Given]:
        """What each request was made of, by its place, as far as segments go by it."""
        return lambda place: Given(self.requests[place].rows)


class _Model:
    __slots__ = ("kept", "seen", "size", "stride")

    def __init__(self) -> None:
        self.seen, self.stride, self.size = 0, 1, 0
        self.kept: list[Kept] = []


class TensorSample:
    """The samples of all models of one server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._models: dict[str, _Model] = {}
        self.settle: Callable[[], None] = lambda: None
        """Has all that was asked be here, before somebody reads."""

    def note(self, model: str, tensors: Sequence[Tensor], rows: int) -> None:
        """A model was asked a request of so many rows."""
        found = self._models.get(model) or self._models.setdefault(model, _Model())
        found.seen += 1
        if found.seen % found.stride == 0:
            self._keep(found, tensors, rows)

    def note_each(self, model: str, tensors: Sequence[Tensor], rows: int) -> None:
        """A model was asked so many requests of a row each, whose tensors came together."""
        found = self._models.get(model) or self._models.setdefault(model, _Model())
        before, found.seen = found.seen, found.seen + rows
        number = before + found.stride - before % found.stride
        while number <= before + rows:
            place = number - before - 1
            self._keep(found, [tensor._replace(data=tensor.data[place : place + 1]) for tensor in tensors], 1)
            number += found.stride - number % found.stride

    def _keep(self, found: _Model, tensors: Sequence[Tensor], rows: int) -> None:
        size = sum(map(_size, tensors))
        if size > RECORDED_BYTES:
            return
        copied = [
            tensor._replace(data=tensor.data.copy()) for tensor in tensors
        ]  # the request's own memory is gone soon
        with self._lock:
            found.kept.append(Kept(copied, rows, to_us(self._clock.now())))
            found.size += size
            while len(found.kept) > MOST or found.size > MOST_BYTES:
                found.stride *= 2
                found.kept = found.kept[1::2]
                found.size = sum(_size(tensor) for one in found.kept for tensor in one.tensors)

    def of(self, model: str, *, last: int, since: datetime | None = None) -> TensorRows:
        """The newest of a model's, from some moment on."""
        self.settle()
        found = self._models.get(model) or _Model()
        with self._lock:
            every, seen = list(found.kept), found.seen
        least = to_us(since) if since is not None else None
        recent = [one for one in every if least is None or one.domain_us >= least]
        note = f"of {seen:,} requests since the server started {len(every):,} are kept, spread evenly over that time"
        return TensorRows(recent[-last:], "the model's requests that are kept in memory", note)

    def feeds(self, model: str) -> list[Feeds]:
        """Some of the newest, for a command to send."""
        found: list[Feeds] = []
        size = 0
        for one in reversed(self.of(model, last=MOST).requests):
            size += sum(map(_size, one.tensors))
            if found and size > HANDED_BYTES:
                break
            found.append({tensor.name: tensor.data for tensor in one.tensors})
        return found[::-1]

    def forget(self, model: str) -> None:
        """A model is gone, or has another name."""
        self._models.pop(model, None)


def _size(tensor: Tensor) -> int:
    """Bytes that a tensor takes, of texts their letters, too."""
    texts = sum(map(len, tensor.data.flat)) if tensor.dtype == "BYTES" else 0
    return int(tensor.data.nbytes) + texts
