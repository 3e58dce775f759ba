"""Which job starts next: a pure function of what waits, what runs and what the box has.

Jobs are taken by priority and, within one, in the order of submission. A job that does not fit keeps its place: one behind it may
start only if that leaves the waiting one what it needs of everything that it was not short of, so that small jobs never push a
large one back for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from mlbox.records import Priority

RANKS: dict[Priority, int] = {"urgent": 3, "high": 2, "normal": 1, "low": 0}
EPSILON = 1e-9


@dataclass(frozen=True)
class Resources:
    """What is free, or what the whole box has; `gpus` is the free share of each GPU by index."""

    gpus: Mapping[int, float]
    cpus: float
    memory_gb: float

    def without(self, need: Need, chosen: Sequence[int]) -> Resources:
        """What is left once a job took its part."""
        share = min(need.gpus, 1.0) if chosen else 0.0
        gpus = {index: free - (share if index in chosen else 0.0) for index, free in self.gpus.items()}
        return replace(self, gpus=gpus, cpus=self.cpus - need.cpus, memory_gb=self.memory_gb - need.memory_gb)


@dataclass(frozen=True)
class Need:
    """What a job takes: part of one GPU, or whole ones."""

    gpus: float
    cpus: float
    memory_gb: float


@dataclass(frozen=True)
class Waiting:
    """A queued job."""

    id: str
    priority: Priority
    need: Need
    not_before: datetime | None = None


@dataclass(frozen=True)
class Start:
    """Start this job on these GPUs."""

    job_id: str
    gpus: tuple[int, ...]


def decide(waiting: Sequence[Waiting], free: Resources, now: datetime) -> list[Start]:
    """What to start now; `waiting` is in the order of submission."""
    ready = [job for job in waiting if job.not_before is None or job.not_before <= now]
    ordered = sorted(ready, key=lambda job: -RANKS[job.priority])  # stable: order of submission within a rank
    starts: list[Start] = []
    blocked: list[Need] = []
    for job in ordered:
        gpus = place(job.need, free)
        if gpus is None or any(_would_delay(job.need, gpus, head, free) for head in blocked):
            blocked.append(job.need)
            continue
        starts.append(Start(job.id, gpus))
        free = free.without(job.need, gpus)
    return starts


def place(need: Need, free: Resources) -> tuple[int, ...] | None:
    """The GPUs to run on (none for a job without), or None where it does not fit now."""
    if need.cpus > free.cpus + EPSILON or need.memory_gb > free.memory_gb + EPSILON:
        return None
    if need.gpus <= 0:
        return ()
    if need.gpus < 1:
        # The fullest GPU that still has room, so that whole ones stay whole.
        fitting = [(share, index) for index, share in free.gpus.items() if share + EPSILON >= need.gpus]
        return (min(fitting)[1],) if fitting else None
    whole = sorted(index for index, share in free.gpus.items() if share + EPSILON >= 1)
    count = round(need.gpus)
    return tuple(whole[:count]) if len(whole) >= count else None


def _would_delay(need: Need, gpus: Sequence[int], head: Need, free: Resources) -> bool:
    """Whether starting a job takes from a waiting one a resource that the waiting one has enough of, or waits for."""
    left = free.without(need, gpus)
    wants_gpus = need.gpus > 0 and head.gpus > 0 and place(Need(head.gpus, 0, 0), left) is None
    return (
        wants_gpus
        or (need.cpus > 0 and head.cpus > left.cpus + EPSILON)
        or (need.memory_gb > 0 and head.memory_gb > left.memory_gb + EPSILON)
    )
