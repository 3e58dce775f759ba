"""Jobs as others see them: the policy, and whoever looks at the queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from mlbox.records import Attempt, Gpu, Job, QueueEntry
from mlbox.scheduler.asked import need
from mlbox.scheduler.policy import DEFAULT_QUEUE, Box, Running, Waiting, cost
from mlbox.store.jobs.states import WAITING


def entry(job: Job, *, known: bool, place: int = 0) -> QueueEntry:
    """A job in the queue, to somebody who may know of it or not."""
    limit = job.spec.timeout_seconds
    began = job.attempts[-1].started_at if job.attempts and job.state not in WAITING else None
    told = QueueEntry(
        place=place,
        team=job.spec.team,
        state=job.state,
        gpus=job.spec.gpus or 0.0,
        expected_end=began + timedelta(seconds=limit) if began and limit else None,
    )
    if not known:
        return told
    return msgspec.structs.replace(told, id=job.id, user=job.user, name=job.spec.name, reason=job.reason)


def waiting(job: Job, box: Box) -> Waiting:
    """A job that waits, as the policy sees it."""
    return Waiting(
        id=job.id,
        need=need(job.spec),
        submitted_at=job.created_at,
        priority=job.spec.priority,
        team=job.spec.team,
        user=job.user,
        queue=job.spec.queue or DEFAULT_QUEUE,
        queued_at=job.queued_at,
        not_before=job.not_before,
        front=job.state == "preempted",
        promised=job.promised,
        attained=_attained(job, job.attempts, box),
        limit_seconds=job.spec.timeout_seconds,
        checkpoints=job.spec.checkpoints,
    )


def running(job: Job, box: Box, *, grace_seconds: float, checkpoint_at: datetime | None = None) -> Running:
    """A job that holds part of the box, as the policy sees it."""
    *earlier, attempt = job.attempts
    limit = job.spec.timeout_seconds
    saved = checkpoint_at if checkpoint_at and checkpoint_at >= attempt.started_at else None
    grace = grace_seconds if job.spec.grace_seconds is None else job.spec.grace_seconds
    stopping = job.state == "stopping"
    resumed = bool(earlier) and earlier[-1].outcome == "preempted"
    return Running(
        id=job.id,
        need=need(job.spec),
        started_at=attempt.started_at,
        devices=attempt.devices,
        priority=job.spec.priority,
        team=job.spec.team,
        user=job.user,
        queue=job.spec.queue or DEFAULT_QUEUE,
        checkpoint_at=saved,
        attained=_attained(job, earlier, box),
        grace_seconds=grace,
        expected_end=attempt.started_at + timedelta(seconds=limit) if limit else None,
        checkpoints=job.spec.checkpoints,
        progressed=saved is not None or not resumed,
        yields_to=attempt.yields_to,
        stopping=stopping,
        stop_by=job.stopping_at + timedelta(seconds=grace) if stopping and job.stopping_at else None,
    )


def with_holders(
    gpus: Sequence[Gpu], active: Sequence[Job], visible: Callable[[Collection[str]], set[str]]
) -> list[Gpu]:
    """GPUs with how much of each is held, and by which of the jobs that whoever asks may know of."""
    seen = visible([job.id for job in active])
    found = []
    for gpu in gpus:
        holders = [job for job in active if gpu.uuid in job.attempts[-1].devices]
        held = sum(min(1.0, job.attempts[-1].gpu_count) for job in holders)
        jobs = tuple(job.id for job in holders if job.id in seen)
        found.append(msgspec.structs.replace(gpu, held=min(1.0, held), jobs=jobs))
    return found


def _attained(job: Job, attempts: Sequence[Attempt], box: Box) -> float:
    """The GPU-seconds of attempts that have ended."""
    spans = ((each.ended_at - each.started_at).total_seconds() for each in attempts if each.ended_at)
    seconds = sum(max(0.0, span) for span in spans)  # one in which the clock was set back counts as nothing
    return seconds * cost(need(job.spec), box) if seconds else 0.0
