"""What the policy would say of one job: where it would start, what it waits for, who waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property

import msgspec

from mlbox.errors import NotFound
from mlbox.records import Job, JobPlan, Outlook
from mlbox.scheduler.policy import Explainer, State
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.states import ACTIVE, WAITING

MOST_EXPLAINED = 50
"""Of a list, so many jobs are explained one by one."""
MOST_NAMED = 1000


def plan_of(job: Job, state: State, now: datetime, jobs: Jobs) -> JobPlan:
    """What would come of a job that waits in a state."""
    explainer = Explainer(state, now)
    told = explainer.explain(job.id, names=_Names(state, jobs))
    start = next((start for start in explainer.decision.starts if start.job_id == job.id), None)
    indices = {device.id: device.index for device in state.box.devices}
    return JobPlan(
        spec=job.spec,
        starts_now=start is not None,
        gpus=tuple(indices[device] for device in start.devices) if start else (),
        expected_at=told.expected_at,
        words=told.words,
    )


def outlook_of(job: Job, explainer: Explainer, jobs: Jobs) -> Outlook:
    """What a waiting job waits for, or who waits for a running one: of those that may be known."""
    state = explainer.state
    if job.state in WAITING:
        told = explainer.explain(job.id, names=_Names(state, jobs))
        return Outlook(words=told.words, expected_at=told.expected_at)
    if job.state in ACTIVE and any(other.id == job.id for other in state.running):
        waits = explainer.waiting_for(job.id)
        seen = jobs.visible_names(waits[:MOST_NAMED])
        return Outlook(
            held_up=tuple(other for other in waits if other in seen),
            names={other: name for other, name in seen.items() if name},
            held_up_in_all=len(waits),
        )
    return Outlook()


def with_reasons(jobs: Sequence[Job], explainer: Explainer, store: Jobs) -> list[Job]:
    """Jobs with their reasons: what the first of those that wait wait for, and that the others come after them."""
    wait = sorted(job.id for job in jobs if job.id in explainer.waiting)
    names = _Names(explainer.state, store)
    words = {job_id: explainer.explain(job_id, names=names).words for job_id in wait[:MOST_EXPLAINED]}
    words |= dict.fromkeys(wait[MOST_EXPLAINED:], f"{MOST_EXPLAINED} jobs before it wait, too")
    return [msgspec.structs.replace(job, reason=words.get(job.id, job.reason)) for job in jobs]


class _Names(Mapping[str, str]):
    """What to call jobs that stand in the way; of another team's it is told that there is one."""

    def __init__(self, state: State, jobs: Jobs) -> None:
        self._state = state
        self._jobs = jobs
        self._asked: dict[str, str] = {}

    @cached_property
    def _teams(self) -> dict[str, str]:
        waiting = {job.id: job.team for job in self._state.waiting}
        return waiting | {job.id: job.team for job in self._state.running}

    def __getitem__(self, job_id: str) -> str:
        if job_id not in self._asked:
            self._asked[job_id] = self._look_up(job_id)
        return self._asked[job_id]

    def _look_up(self, job_id: str) -> str:
        try:
            return self._jobs.get(job_id).spec.name or job_id[-8:]
        except NotFound:
            return f"one of {self._teams[job_id]}'s"

    def __iter__(self) -> Iterator[str]:
        return iter(self._teams)

    def __len__(self) -> int:
        return len(self._teams)
