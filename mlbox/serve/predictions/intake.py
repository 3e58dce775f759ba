"""What the prediction log is given: rows that wait to be written, who is told of them, and what each role of a version did.

Everything is counted and told of, also what a model's sampling leaves out and what finds no room. Taking rows never blocks: the
lock is held for microseconds.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mlbox.records import ServeRole
from mlbox.serve.predictions.batches import NOTHING, Batch, Given
from mlbox.serve.predictions.routing import Traffic
from mlbox.serve.predictions.sampling import EVERY, Sampling, parted
from mlbox.serve.predictions.unkept import Unkept

Role = tuple[str, int, ServeRole]
Observer = Callable[[Batch], None]
ErrorObserver = Callable[[str, int, ServeRole, Given], None]
LATENCIES = 1000


@dataclass
class Count:
    """What one role of one version did since the server started."""

    rows: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))


class Intake:
    """Rows from the request path, until they are taken to be written."""

    def __init__(self, *, queue_limit: int, remembered: int) -> None:
        self._limit = queue_limit
        self._lock = threading.Lock()
        self._waiting: list[Batch] = []
        self._held = 0
        """How many rows wait."""
        self._counts: dict[Role, Count] = {}
        self._samplings: Mapping[str, Sampling] = {}
        self.settle: Callable[[], None] = lambda: None
        """Has all that was answered be here, before somebody reads; not to be called with a lock held."""
        self.dropped = 0
        """Rows that are not in the log: they found the queue full, or could not be written as Parquet."""
        self._left_out: Counter[str] = Counter()
        self._unkept = Unkept(remembered)
        self._observers: list[Observer] = []
        self._error_observers: list[ErrorObserver] = []

    # -- taking rows ------------------------------------------------------------------------------------------------

    def put(self, batches: Sequence[Batch]) -> None:
        """Take rows; past the queue's limit they are dropped and counted."""
        with self._lock:
            for batch in batches:
                count = self._count((batch.model, batch.version, batch.role))
                count.rows += len(batch.ids)
                count.latencies.extend(batch.latencies[:LATENCIES])
                self._hold(batch)
        for batch in batches:
            for observer in self._observers:
                observer(batch)

    def _count(self, role: Role) -> Count:
        count = self._counts.get(role)
        if count is None:
            count = self._counts[role] = Count()
        return count

    def _hold(self, batch: Batch) -> None:
        if self._held + len(batch.ids) > self._limit:
            self.dropped += len(batch.ids)
        else:
            self._held += len(batch.ids)
            self._waiting.append(batch)

    def record_error(self, model: str, version: int, role: ServeRole, *, rows: int = 1, given: Given = NOTHING) -> None:
        """A version failed on this many rows; they count like those that it answered, or large requests would hide."""
        with self._lock:
            self._count((model, version, role)).errors += rows
        for observer in self._error_observers:
            observer(model, version, role, given)

    def on_prediction(self, observer: Observer) -> None:
        """Have a function told of all rows, in the thread that put them; it must return at once."""
        self._observers.append(observer)

    def on_error(self, observer: ErrorObserver) -> None:
        """Have a function told of each run that failed: model, version, role and its rows; it must return at once."""
        self._error_observers.append(observer)

    # -- sampling ---------------------------------------------------------------------------------------------------

    def sample(self, samplings: Mapping[str, Sampling]) -> None:
        """Keep of these models what their sampling says, from now on, and of all others everything."""
        self._samplings = dict(samplings)

    def samples(self, model: str) -> bool:
        """Whether not every prediction of a model is kept."""
        return model in self._samplings

    def sampling(self, model: str) -> Sampling:
        """What of a model is kept."""
        return self._samplings.get(model, EVERY)

    def left_out(self) -> dict[str, int]:
        """Rows of each model that its sampling left out since the server started."""
        self.settle()
        with self._lock:
            return dict(self._left_out)

    # -- figures ----------------------------------------------------------------------------------------------------

    def traffic(self, model: str, version: int, role: ServeRole) -> Traffic:
        """What a role of a version did since the server started; p95 over its last 1,000."""
        self.settle()
        with self._lock:
            count = self._counts.get((model, version, role))
            if count is None:
                return Traffic()
            rows, errors, latencies = count.rows, count.errors, list(count.latencies)
        return Traffic(count=rows, errors=errors, p95_ms=_p95(latencies))

    def counters(self) -> dict[Role, tuple[int, int]]:
        """Rows and errors of every role since the server started."""
        self.settle()
        with self._lock:
            return {role: (count.rows, count.errors) for role, count in self._counts.items()}

    def forget(self, model: str) -> None:
        """Count a model anew: another one has its name."""
        self.settle()
        with self._lock:
            self._counts = {role: count for role, count in self._counts.items() if role[0] != model}
            self._left_out.pop(model, None)
        self._unkept.forget(model)

    # -- giving them on ---------------------------------------------------------------------------------------------

    def _take(self) -> list[Batch]:
        """All that waits, but for what is not to be kept."""
        self.settle()
        with self._lock:
            batches, self._waiting, self._held = self._waiting, [], 0
        found: list[Batch] = []
        for batch in batches:
            sampling = self._samplings.get(batch.model)
            kept = batch if sampling is None else self._sampled(batch, sampling)
            if kept.ids:
                found.append(kept)
        return found

    def _sampled(self, batch: Batch, sampling: Sampling) -> Batch:
        """What is kept of a batch; the rest is counted, and remembered for a while."""
        kept, left = parted(batch, sampling)
        self._unkept.add(batch, left)
        if left.ids:
            with self._lock:
                self._left_out[batch.model] += len(left.ids)
        return kept

    def _keep(self, batches: list[Batch]) -> None:
        """What could not be written waits on, before what came since, as far as there is room."""
        with self._lock:
            found, self._waiting, self._held = [*batches, *self._waiting], [], 0
            for batch in found:
                self._hold(batch)

    def _drop(self, rows: int) -> None:
        with self._lock:
            self.dropped += rows


def _p95(latencies: Sequence[float]) -> float | None:
    if not latencies:
        return None
    return sorted(latencies)[min(len(latencies) - 1, int(0.95 * len(latencies)))]
