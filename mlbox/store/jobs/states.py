"""The states of a job: `MOVES` is the whole state machine."""

from __future__ import annotations

from mlbox.records import Job, JobState

MOVES: dict[JobState, tuple[JobState, ...]] = {
    "queued": ("starting", "stopped"),
    "preempted": ("starting", "stopped"),
    "starting": ("running", "stopping", "succeeded", "failed", "timed_out", "lost", "queued"),
    "running": ("stopping", "succeeded", "failed", "timed_out", "lost", "queued"),
    "stopping": ("stopped", "preempted", "succeeded"),
    "succeeded": ("queued",),
    "failed": ("queued",),
    "stopped": ("queued",),
    "timed_out": ("queued",),
    "lost": ("queued",),
}
"""From each state, where a job may go; an ended job is queued again only when someone retries it."""
WAITING: tuple[JobState, ...] = ("queued", "preempted")
ACTIVE: tuple[JobState, ...] = ("starting", "running", "stopping")
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "stopped", "timed_out", "lost")


def outcome_of(job: Job, state: JobState) -> JobState:
    """What an attempt that ended as `state` comes to, given what was asked of the job in the meantime."""
    if job.state != "stopping":
        return state
    if job.stop_cause != "preempted":
        return "stopped"
    return state if state == "succeeded" else "preempted"
