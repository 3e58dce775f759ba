"""A version runs before it is asked: on requests of its model that were recorded, or on generated ones; and is timed on them."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.records import TensorSpec
from mlbox.serve.inference.check_values import Known
from mlbox.serve.inference.runtime import LONGEST_SECONDS, Session
from mlbox.serve.inference.tensors import NUMPY, Tensor

if TYPE_CHECKING:
    import numpy as np

FREE_SIZES = (1, 8, 64, 224)
"""Tried for dimensions that a model leaves free, beside that of rows: an image of one pixel is too small for most models."""
RUNS = 15
MOST_SECONDS = 0.5
"""For timing one size, so that a slow model is not held up by its own timing."""
MANY_ROWS = 32
ZERO = "0"
"""A text that a model may read as a number, as some do."""
RECORDED = 4
RECORDED_BYTES = 1 << 20
"""The largest request that is kept for a warm-up."""
_log = logging.getLogger(__name__)
Feeds = Mapping[str, "np.ndarray"]


class Speed(NamedTuple):
    """What a run costs: a fixed part with the first row, and each further row."""

    first: float
    """Seconds."""
    row: float

    def of(self, rows: int) -> float:
        """Seconds that a run of so many rows is expected to take."""
        return self.first + (rows - 1) * self.row


class Recent:
    """A few of the latest requests of each model that were answered, in memory: what its next version is warmed with.

    One that a version hangs on, or dies of, would hold up every load after it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, deque[Sequence[Tensor]]] = {}
        self._last: dict[str, tuple[tuple[int, ...], ...]] = {}
        """The shapes of the latest request of each model, which are most often those of the next."""

    def note(self, model: str, tensors: Sequence[Tensor]) -> None:
        """Keep a request, unless it is large; each shape once."""
        shape = tuple([tensor.data.shape for tensor in tensors])
        if self._last.get(model) == shape:
            return
        self._last[model] = shape
        kept = self._kept.setdefault(model, deque(maxlen=RECORDED))
        if any(
            tuple([tensor.data.shape for tensor in other]) == shape for other in list(kept)
        ):  # others note at the same time
            return
        if sum(tensor.data.nbytes for tensor in tensors) <= RECORDED_BYTES:
            kept.append([tensor._replace(data=tensor.data.copy()) for tensor in tensors])

    def of(self, model: str) -> list[Feeds]:
        """Those that were kept."""
        return [{tensor.name: tensor.data for tensor in tensors} for tensors in list(self._kept.get(model, ()))]


def generated(
    inputs: Sequence[TensorSpec], rows: int, size: int = 1, *, known: Sequence[Known] = ()
) -> dict[str, np.ndarray]:
    """Zeros, and texts of zero, or what is `known` to be taken, in the shape of a model's inputs.

    `size` stands for free dimensions other than that of rows.
    """
    import numpy as np

    feeds = {}
    for spec in inputs:
        free = [rows if place == 0 else size for place in range(len(spec.shape))]
        shape = [free[place] if wanted == -1 else wanted for place, wanted in enumerate(spec.shape)]
        feeds[spec.name] = np.full(shape, ZERO, object) if spec.dtype == "BYTES" else np.zeros(shape, NUMPY[spec.dtype])
    for name, column, value in known:
        if name in feeds:
            _put(feeds[name], column, value)
    return feeds


def _put(data: np.ndarray, column: int, value: str | int) -> None:
    """Write a value into a column, where there is one, and it is of such values."""
    if not data.size or data.ndim not in (1, 2) or (data.dtype == object) != isinstance(value, str):
        return
    rows = data.reshape(len(data), -1)
    if -rows.shape[1] <= column < rows.shape[1]:
        with contextlib.suppress(OverflowError):  # a number that this type has not is no category of this column
            rows[:, column] = value


def warm(
    session: Session,
    inputs: Sequence[TensorSpec],
    recorded: Sequence[Feeds] = (),
    *,
    known: Sequence[Known] = (),
    seconds: float = LONGEST_SECONDS,
) -> Speed | None:
    """Run a session until it is as quick as it gets; its speed, where that depends on nothing but rows.

    `inputs` are what the version takes, which may be narrower than what the file does, and `known` values for them. `seconds` is
    what it may take in another process for a request that was recorded. What fails here fails when it is asked.
    """
    for feeds in recorded:
        _runs(session, feeds, session.options(seconds))
    if not recorded:
        any(_runs(session, generated(inputs, 1, size, known=known)) for size in FREE_SIZES)  # the first that it takes
    if any(-1 in spec.shape[1:] for spec in inputs) or (not session.batched and _free(inputs)):
        return None
    try:
        first = _seconds(session, generated(inputs, 1, known=known))
        many = _seconds(session, generated(inputs, MANY_ROWS, known=known)) if session.batched else first
    except Exception as err:
        _log.debug("A version could not be timed.", exc_info=err)
        return None
    return Speed(first, max(0.0, (many - first) / (MANY_ROWS - 1)))


def _free(inputs: Sequence[TensorSpec]) -> bool:
    return any(-1 in spec.shape for spec in inputs)


def _runs(session: Session, feeds: Feeds, options: Any = None) -> bool:
    try:
        session.run(feeds, options=options)
    except Exception as err:
        _log.debug("A run to warm up failed.", exc_info=err)
        return False
    return True


def _seconds(session: Session, feeds: Feeds) -> float:
    return statistics.median(times(lambda: session.run(feeds), runs=RUNS, most_seconds=MOST_SECONDS))


def times(run: Callable[[], object], *, runs: int, most_seconds: float) -> list[float]:
    """How long each of some runs took in seconds, after two that do not count; fewer where they take too long together."""
    return list(_times(run, runs, most_seconds))


def _times(run: Callable[[], object], runs: int, most_seconds: float) -> Iterator[float]:
    began = time.perf_counter()
    for number in range(runs + 2):
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        if number >= 2 or end - began > most_seconds:
            yield end - start
        if end - began > most_seconds:
            return
