"""Why a job waits, and who waits for one that runs: asked for one job at a time, apart from the decision."""

from __future__ import annotations

from datetime import datetime

from mlbox.scheduler.policy.capacity import Capacity
from mlbox.scheduler.policy.decision import decide
from mlbox.scheduler.policy.types import Explanation, Reason, State


def explain(state: State, job_id: str, now: datetime) -> Explanation:
    """What a waiting job waits for; raises KeyError where it does not wait."""
    job = next((job for job in state.waiting if job.id == job_id), None)
    if job is None:
        raise KeyError(job_id)
    if any(start.job_id == job_id for start in decide(state, now).starts):
        return Explanation(job_id, (), now, "starts now")
    if job.not_before is not None and job.not_before > now:
        words = f"tried again at {job.not_before:%H:%M:%S}"
        return Explanation(job_id, (Reason("time", words, until=job.not_before),), None, words)
    free = Capacity(state.box, state.running)
    words = "waits for its turn" if free.place(job.need) is not None else "waits for what others hold"
    return Explanation(job_id, (Reason("ahead", words),), None, words)


def waiting_for(state: State, job_id: str, now: datetime) -> tuple[str, ...]:
    """The jobs that wait for what a running one holds, first in line first."""
    job = next(job for job in state.running if job.id == job_id)
    free = Capacity(state.box, state.running)
    waits = []
    for other in state.waiting:
        if free.place(other.need) is None and (not other.need.wants_gpu or job.need.wants_gpu):
            waits.append(other.id)
    return tuple(waits)
