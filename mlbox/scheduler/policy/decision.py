"""Which jobs start now: a pure function of what waits, what runs and what the box has.

Jobs are taken by priority and, within one, in the order of submission. A job that does not fit keeps its place: one behind it may
start only if that leaves the waiting one what it needs of everything that it was not short of, so that small jobs never push a
large one back for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.types import EPSILON, RANKS, Decision, Need, Start, State


def decide(state: State, now: datetime) -> Decision:
    """What to start and what to stop now."""
    ready = [job for job in state.waiting if job.not_before is None or job.not_before <= now]
    ordered = sorted(ready, key=lambda job: (-RANKS[job.priority], not job.front, job.submitted_at, job.id))
    free = Capacity(state.box, state.running)
    starts: list[Start] = []
    blocked: list[Need] = []
    for job in ordered:
        devices = free.place(job.need)
        if devices is None or any(_would_delay(job.need, devices, head, free) for head in blocked):
            blocked.append(job.need)
            continue
        starts.append(Start(job.id, devices))
        free.take(job.need, devices)
    due = [job.not_before for job in state.waiting if job.not_before is not None and job.not_before > now]
    return Decision(starts=tuple(starts), look_at=min(due, default=None))


def _would_delay(need: Need, devices: Sequence[str], head: Need, free: Capacity) -> bool:
    """Whether starting a job takes from a waiting one a resource that the waiting one has enough of, or waits for."""
    left = free.copy()
    left.take(need, devices)
    only_gpus = Need(gpus=head.gpus, gpu_memory_gb=head.gpu_memory_gb)
    wants_gpus = need.wants_gpu and head.wants_gpu and left.place(only_gpus) is None
    return (
        wants_gpus
        or (need.cpus > 0 and head.cpus > left.cpus + EPSILON)
        or (need.memory_gb > 0 and head.memory_gb > left.memory_gb + EPSILON)
    )
