"""Jobs as others see them: the policy, and whoever looks at the queue."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from mlbox.records import Job, QueueEntry
from mlbox.scheduler.asked import need
from mlbox.scheduler.policy import Running, Waiting
from mlbox.store.jobs import WAITING


def entry(job: Job, *, known: bool) -> QueueEntry:
    """A job in the queue, to somebody who may know of it or not."""
    limit = job.spec.timeout_seconds
    began = job.attempts[-1].started_at if job.attempts and job.state not in WAITING else None
    told = QueueEntry(
        team=job.spec.team,
        state=job.state,
        gpus=job.spec.gpus or 0.0,
        expected_end=began + timedelta(seconds=limit) if began and limit else None,
    )
    if not known:
        return told
    return msgspec.structs.replace(told, id=job.id, user=job.user, name=job.spec.name, reason=job.reason)


def waiting(job: Job) -> Waiting:
    """A job that waits, as the policy sees it."""
    return Waiting(
        id=job.id,
        need=need(job.spec),
        submitted_at=job.created_at,
        priority=job.spec.priority,
        team=job.spec.team,
        user=job.user,
        not_before=job.not_before,
        limit_seconds=job.spec.timeout_seconds,
    )


def running(job: Job) -> Running:
    """A job that holds part of the box, as the policy sees it."""
    attempt = job.attempts[-1]
    limit = job.spec.timeout_seconds
    return Running(
        id=job.id,
        need=need(job.spec),
        started_at=attempt.started_at,
        devices=tuple(map(str, attempt.gpus)),
        priority=job.spec.priority,
        team=job.spec.team,
        user=job.user,
        expected_end=attempt.started_at + timedelta(seconds=limit) if limit else None,
        preemptible=False,
        stopping=job.state == "stopping",
    )
