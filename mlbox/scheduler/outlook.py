"""What the policy would say of one job: where it would start, what it waits for, who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from mlbox.records import Job, JobPlan, Outlook
from mlbox.scheduler.policy import State, decide, explain, waiting_for
from mlbox.store.jobs import ACTIVE, WAITING


def plan_of(job: Job, state: State, now: datetime) -> JobPlan:
    """What would come of a job that waits in a state."""
    told = explain(state, job.id, now)
    start = next((start for start in decide(state, now).starts if start.job_id == job.id), None)
    indices = {device.id: device.index for device in state.box.devices}
    return JobPlan(
        spec=job.spec,
        starts_now=start is not None,
        gpus=tuple(indices[device] for device in start.devices) if start else (),
        expected_at=told.expected_at,
        words=told.words,
    )


def outlook_of(job: Job, state: State, now: datetime, visible: Callable[[Collection[str]], set[str]]) -> Outlook:
    """What a waiting job waits for, or who waits for a running one: of those that may be known."""
    if job.state in WAITING and any(other.id == job.id for other in state.waiting):
        told = explain(state, job.id, now)
        return Outlook(words=told.words, expected_at=told.expected_at)
    if job.state in ACTIVE and any(other.id == job.id for other in state.running):
        waits = waiting_for(state, job.id, now)
        seen = visible(waits)
        return Outlook(held_up=tuple(other for other in waits if other in seen), held_up_in_all=len(waits))
    return Outlook()
