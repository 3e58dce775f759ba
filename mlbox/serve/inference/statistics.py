"""What each version did since the server started, in the words of Triton's statistics extension."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime

from mlbox.clock import Clock, from_us, to_us

_MINUTE_US = 60_000_000
_MINUTES = 30 * 24 * 60
"""With failures, that are remembered of a version."""


@dataclass
class Duration:
    """How often something happened, and how long it took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """One more, or several that took so long together."""
        self.count += count
        self.ns += ns


@dataclass
class Totals:
    """One version's figures. A request has rows; an execution is one run of the model, for one request or several."""

    rows: int = 0
    executions: int = 0
    last_ms: int = 0
    """Of the last request, milliseconds since 1970."""
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    reasons: dict[str, int] = field(default_factory=dict)
    """What failed, by why: model, timeout, queue_timeout, queue_full, rate_limit, cancelled, crash."""
    queue: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)
    """Executions by their rows."""

    def merge(self, other: Totals) -> None:
        """Take another's figures into these."""
        self.rows += other.rows
        self.executions += other.executions
        self.last_ms = max(self.last_ms, other.last_ms)
        for name in ("success", "fail", "queue", "infer", "cache_hit", "cache_miss"):
            getattr(self, name).add(getattr(other, name).ns, getattr(other, name).count)
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        for rows, took in other.batches.items():
            self.batches.setdefault(rows, Duration()).add(took.ns, took.count)


class Statistics:
    """The figures of all versions. With a clock, failures are counted by the minute of domain time as well."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._lock = threading.Lock()
        self.settle: Callable[[], None] = lambda: None
        """Has all that was answered be here, before somebody reads."""
        self._clock = clock
        self._failures: dict[tuple[str, int], deque[tuple[int, int]]] = {}
        """By version, minutes since 1970 and how many requests failed in each, oldest first."""
        self._totals: dict[tuple[str, int], Totals] = {}

    def executed(
        self, model: str, version: int, *, rows: int, infer_ns: int, requests: int = 1, queue_ns: int = 0
    ) -> None:
        """A run of the model answered so many requests with so many rows together."""
        with self._lock:
            totals = self._known(model, version)
            totals.rows += rows
            totals.executions += 1
            totals.last_ms = time.time_ns() // 1_000_000
            totals.success.add(infer_ns * requests + queue_ns, requests)
            totals.queue.add(queue_ns, requests)
            totals.infer.add(infer_ns * requests, requests)
            if rows not in totals.batches:
                totals.batches[rows] = Duration()
            totals.batches[rows].add(infer_ns)

    def answered_rows(self, model: str, version: int, runs: Sequence[tuple[int, int]]) -> None:
        """Runs of so many rows and nanoseconds answered requests of a row each, which waited for nothing."""
        with self._lock:
            totals = self._known(model, version)
            totals.executions += len(runs)
            totals.last_ms = time.time_ns() // 1_000_000
            requests = spent = 0
            for rows, ns in runs:
                requests += rows
                spent += ns * rows
                if rows not in totals.batches:
                    totals.batches[rows] = Duration()
                totals.batches[rows].add(ns)
            totals.rows += requests
            totals.success.add(spent, requests)
            totals.queue.add(0, requests)
            totals.infer.add(spent, requests)

    def _known(self, model: str, version: int) -> Totals:
        """One version's figures, to add to: made when they are not there, since making them costs as much as a run."""
        totals = self._totals.get((model, version))
        if totals is None:
            totals = self._totals[model, version] = Totals()
        return totals

    def failed(self, model: str, version: int, *, reason: str, ns: int = 0) -> None:
        """A request was not answered."""
        with self._lock:
            totals = self._known(model, version)
            totals.last_ms = time.time_ns() // 1_000_000
            totals.fail.add(ns)
            totals.reasons[reason] = totals.reasons.get(reason, 0) + 1
            if self._clock is not None:
                self._count(self._failures.setdefault((model, version), deque(maxlen=_MINUTES)), self._clock.now())

    @staticmethod
    def _count(minutes: deque[tuple[int, int]], now: datetime) -> None:
        minute = to_us(now) // _MINUTE_US
        counted = minutes.pop()[1] if minutes and minutes[-1][0] == minute else 0
        minutes.append((minute, counted + 1))

    def failures(self, model: str) -> dict[int, Counter[datetime]]:
        """A model's failed requests since the server started: by version, how many in each minute of domain time."""
        self.settle()
        with self._lock:
            found = {version: list(minutes) for (name, version), minutes in self._failures.items() if name == model}
        return {
            version: Counter({from_us(minute * _MINUTE_US): count for minute, count in minutes})
            for version, minutes in found.items()
        }

    def cached(self, model: str, version: int, *, hit: bool, rows: int, ns: int) -> None:
        """A request was looked for among the answers that are remembered; a hit answered it."""
        with self._lock:
            totals = self._totals.setdefault((model, version), Totals())
            (totals.cache_hit if hit else totals.cache_miss).add(ns)
            if hit:
                totals.rows += rows
                totals.last_ms = time.time_ns() // 1_000_000
                totals.success.add(ns)

    def of(self, model: str, version: int) -> Totals:
        """One version's figures: zeros where it did nothing."""
        self.settle()
        with self._lock:
            return self._totals.get((model, version), Totals())

    def all(self) -> dict[tuple[str, int], Totals]:
        """A copy of every version's figures."""
        self.settle()
        with self._lock:
            return {name: deepcopy(totals) for name, totals in self._totals.items()}
