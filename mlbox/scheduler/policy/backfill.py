"""Who waits at the head keeps what it needs: what starts past it must not delay it.

A job behind may start if whoever waits still has enough of all that it takes; or if it has ended, by its time limit, before the
waiting one can start by the time limits of those that run; or if it leaves enough at that moment. Where the ends are not known,
only the first holds. A job that checkpoints may start all the same when it yields: it is stopped once the head can start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.types import EPSILON, RANKS, Need, Running, Waiting

PROTECTED = 8
"""So many different needs of jobs at the head are kept; those behind them come to the head later."""
YIELDS = 32
"""A job that fills a gap yields to so many."""


@dataclass(slots=True)
class Head:
    """A job that waits for what others hold."""

    job: Waiting
    firm: Capacity
    """What is free, or yields to it."""
    at: datetime | None
    """When it fits by the time limits; None where they do not say."""
    then: Capacity | None
    """What is free at that moment."""


class Heads:
    """The jobs at the head of the line that could not start."""

    def __init__(self, running: Sequence[Running], now: datetime) -> None:
        self._running = running
        self._now = now
        self._heads: list[Head] = []
        self._needs: set[Need] = set()
        self.jobs: list[Waiting] = []
        """The first of them."""
        self.ids: tuple[str, ...] = ()
        self.rank = -1
        """The highest priority among them."""
        self.queues: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.ids)

    def before(self, job_id: str) -> tuple[str, ...]:
        """Those of the first that go before a job which is one of them, or else all."""
        return self.ids[: self.ids.index(job_id)] if job_id in self.ids else self.ids

    def add(self, job: Waiting, free: Capacity) -> None:
        """One more that waits."""
        rank = RANKS[job.priority]
        if rank > self.rank:
            self.rank = rank
        self.queues.add(job.queue)
        if len(self.ids) < YIELDS:
            self.ids = (*self.ids, job.id)
        if len(self.jobs) < PROTECTED:
            self.jobs.append(job)
        if len(self._heads) >= PROTECTED or job.need in self._needs:
            return
        self._needs.add(job.need)
        firm = free.copy()
        for other in self._running:
            if _gives_way(other, job):
                firm.give(other.need, other.devices)
        self._heads.append(Head(job, firm, *reservation(job.need, firm, self._ends(job), self._now)))

    def _ends(self, job: Waiting) -> Iterable[tuple[datetime, Running]]:
        for other in self._running:
            ends = ends_by(other, self._now)
            if ends is not None and not _gives_way(other, job):
                yield ends, other

    def delayed_by(self, job: Waiting, devices: Sequence[str]) -> str | None:
        """Which of them a job would delay by starting; None where it would delay nobody."""
        ends = None if job.limit_seconds is None else self._now + timedelta(seconds=job.limit_seconds)
        for head in self._heads:
            if self._delays(job.need, devices, head, ends):
                return head.job.id
        return None

    def _delays(self, need: Need, devices: Sequence[str], head: Head, ends: datetime | None) -> bool:
        left = head.firm.copy()
        left.take(need, devices)
        if not _short(head.job.need, need, left):
            return False
        if head.at is None or head.then is None:
            return True
        if ends is not None and ends <= head.at:
            return False
        left = head.then.copy()
        left.take(need, devices)
        return left.place(head.job.need) is None

    def started(self, job: Waiting, devices: Sequence[str]) -> None:
        """A job that does not yield took its part."""
        for head in self._heads:
            head.firm.take(job.need, devices)
            ends = None if job.limit_seconds is None else self._now + timedelta(seconds=job.limit_seconds)
            if head.then is not None and (ends is None or head.at is None or ends > head.at):
                head.then.take(job.need, devices)


def yields(running: Running, job: Waiting) -> bool:
    """Whether a running job fills a gap that the waiting one may close."""
    if not running.yields_to or not running.preemptible:
        return False
    return job.id in running.yields_to or RANKS[job.priority] > RANKS[running.priority]


def _gives_way(running: Running, job: Waiting) -> bool:
    """Whether what a job holds is as good as free: it yields, and may be stopped now, as one that has not progressed may not."""
    return yields(running, job) and running.progressed and not running.stopping


def ends_by(running: Running, now: datetime) -> datetime | None:
    """When a running job has given back its part at the latest, where that is known."""
    if running.stopping:
        return running.stop_by or now + timedelta(seconds=running.grace_seconds)
    return None if running.expected_end is None else max(running.expected_end, now)


def reservation(
    need: Need, free: Capacity, ends: Iterable[tuple[datetime, Running]], now: datetime
) -> tuple[datetime | None, Capacity | None]:
    """When a job fits at the latest, and what is free then."""
    then = free.copy()
    for moment, other in sorted(ends, key=lambda end: (end[0], end[1].id)):
        then.give(other.need, other.devices)
        if then.place(need) is not None:
            return max(moment, now), then
    return None, None


def _short(head: Need, taken: Need, left: Capacity) -> bool:
    """Whether a job takes something that whoever waits has too little of."""
    if taken.wants_gpu and head.wants_gpu and left.gpus(head) is None:
        return True
    cpus = taken.cpus > 0 and head.cpus > left.cpus + EPSILON
    return cpus or (taken.memory_gb > 0 and head.memory_gb > left.memory_gb + EPSILON)
