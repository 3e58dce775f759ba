"""Queues in which jobs take turns: who had least goes first, after at least a quantum (least attained service).

As in Tiresias (Gu et al., NSDI'19): service is GPUs times time, and counts in tiers that double, so that two long jobs change
places ever more rarely. Within a tier the order is that of submission.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from mlbox.scheduler.policy.capacity import cost
from mlbox.scheduler.policy.types import Queue, Running, State


def tier(attained: float, quantum: float) -> int:
    """0 below a quantum, 1 below two, 2 below four, and so on."""
    return int(attained / quantum).bit_length()


def attained(job: Running, state: State, now: datetime) -> float:
    """The service that a running job has had by now."""
    return job.attained + cost(job.need, state.box) * max(0.0, (now - job.started_at).total_seconds())


def quantum(state: State, queue: str) -> float | None:
    """The quantum of a queue in which jobs take turns."""
    found: Queue | None = state.queues.get(queue)
    return None if found is None else found.quantum_seconds


def had_its_turn(job: Running, state: State, now: datetime) -> bool:
    """Whether it has run for a quantum, and goes on from its checkpoint when it is stopped."""
    length = quantum(state, job.queue)
    return length is not None and job.checkpoints and (now - job.started_at).total_seconds() >= length


def next_turn(state: State, queues: Iterable[str], now: datetime) -> datetime | None:
    """When a running job of these queues next comes to the end of its turn, or into a higher tier."""
    wanted = set(queues)
    moments = []
    for job in state.running:
        length = quantum(state, job.queue)
        if length is None or job.queue not in wanted or job.stopping or not job.checkpoints:
            continue
        ends = job.started_at + timedelta(seconds=length)
        if ends > now:
            moments.append(ends)
            continue
        rate = cost(job.need, state.box)
        had = attained(job, state, now)
        if rate > 0:
            bound = length * 2 ** max(0, tier(had, length))
            moments.append(now + timedelta(seconds=max(1.0, (bound - had) / rate)))
    return min(moments, default=None)
