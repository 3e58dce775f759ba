"""Jobs as lines for people: short ids, what they hold, how long, and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mlbox.records import Job, JobSpec

SHORT_ID = 8
"""Digits at the end of an id, where those of one day differ."""
COLUMNS = ("job", "name", "command", "state", "user", "team", "asks", "for", "reason")
MOST_COMMAND = 30


def rows(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What `mlbox ps` shows of each."""
    now = datetime.now(UTC)
    return [
        {
            "job": job.id[-SHORT_ID:],
            "name": job.spec.name,
            "command": _cut(shlex.join(job.spec.command)),
            "state": job.state if job.spec.priority == "normal" else f"{job.state} ({job.spec.priority})",
            "user": job.user,
            "team": job.spec.team,
            "asks": asks(job.spec),
            "for": span(_since(job, now)),
            "reason": job.reason,
        }
        for job in jobs
    ]


def called(job: Job) -> str:
    """Its name, or its short id."""
    return job.spec.name or job.id[-SHORT_ID:]


def asks(spec: JobSpec) -> str:
    """What of the box a job takes, in words."""
    memory = f"{spec.gpu_memory_gb:g} GiB" if spec.gpu_memory_gb else ""
    if spec.gpus:
        gpus = f"{spec.gpus:g} GPU with {memory}" if memory else f"{spec.gpus:g} GPU"
    else:
        gpus = f"{memory} of a GPU" if memory else ""
    return ", ".join(filter(None, (gpus, f"{spec.cpus or 0:g} CPU", f"{spec.memory_gb or 0:g} GiB")))


def _cut(command: str) -> str:
    return command if len(command) <= MOST_COMMAND else command[: MOST_COMMAND - 1] + "…"


def _since(job: Job, now: datetime) -> timedelta:
    """How long it has waited, runs, or ran."""
    if job.phase == "pending" or not job.attempts:
        return (job.ended_at or now) - job.created_at
    last = job.attempts[-1]
    return (last.ended_at or now) - last.started_at


def span(time: timedelta) -> str:
    """A duration in its two largest units."""
    seconds = max(0, int(time.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
