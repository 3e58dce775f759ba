"""Who gives way: as little work as can be, only for a job that then starts, and never a job twice before it got further.

Borrowed GPUs go before a victim of priority, and what fills a gap before both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.types import RANKS, Need, PreemptionCause, Running

_ORDER: tuple[PreemptionCause, ...] = ("filling", "quota", "turn", "priority")


@dataclass(frozen=True, slots=True)
class Victim:
    """A job that may be stopped, and why."""

    job: Running
    cause: PreemptionCause


def may_stop(job: Running) -> bool:
    """Whether a job may be preempted at all: it agreed, is not ending, and got further since it last had to give way."""
    return job.preemptible and job.progressed and not job.stopping


def lost_seconds(job: Running, now: datetime) -> float:
    """The work that stopping a job throws away: what came after its last checkpoint."""
    kept = job.started_at if job.checkpoint_at is None else max(job.checkpoint_at, job.started_at)
    return max(0.0, (now - kept).total_seconds())


def victims(
    running: Iterable[Running], cause: Callable[[Running], PreemptionCause | None], now: datetime
) -> list[Victim]:
    """Those that may be stopped, the mildest cause first, then the least loss (in minutes), low priority, the youngest."""
    found = [Victim(job, why) for job in running if may_stop(job) and (why := cause(job)) is not None]
    return sorted(
        found,
        key=lambda one: (
            _ORDER.index(one.cause),
            lost_seconds(one.job, now) // 60,
            RANKS[one.job.priority],
            -one.job.started_at.timestamp(),
            one.job.need.gpus,
            one.job.id,
        ),
    )


def choose(need: Need, base: Capacity, candidates: Sequence[Victim]) -> list[Victim]:
    """The fewest of the candidates, in their order, without any of which the job would not fit; empty where all are too few."""
    chosen: list[Victim] = []
    room = base.copy()
    for one in candidates:
        if room.place(need) is not None:
            break
        room.give(one.job.need, one.job.devices)
        chosen.append(one)
    if room.place(need) is None:
        return []
    for one in reversed(chosen.copy()):  # the dearest first: it may not be needed any more
        room.take(one.job.need, one.job.devices)
        if room.place(need) is None:
            room.give(one.job.need, one.job.devices)
        else:
            chosen.remove(one)
    return chosen
