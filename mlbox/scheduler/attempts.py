"""Attempts: started as the policy says, followed until they end, and written down, each step before or after it as is safe.

One thread works here, the scheduler's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from mlbox.clock import Clock
from mlbox.errors import Conflict, NotFound
from mlbox.records import Job, JobState, RunStatus
from mlbox.scheduler.environments import NotBuilt
from mlbox.scheduler.executors import Ended, Executor, Observed, Ref, Supply
from mlbox.scheduler.launcher import Launcher, ref_of
from mlbox.scheduler.machine import with_gpus
from mlbox.scheduler.policy import Box, Preemption, PreemptionCause, Running, Start, State
from mlbox.scheduler.policy import gpus as count_gpus
from mlbox.scheduler.policy.types import MOST_DELAY_SECONDS
from mlbox.scheduler.roster import Roster
from mlbox.scheduler.views import running
from mlbox.store.access.access import Access
from mlbox.store.jobs.jobs import End, Grant, Jobs
from mlbox.store.jobs.states import outcome_of
from mlbox.store.tracking.tracking import Tracker

BACKOFF_SECONDS = 2.0
"""Before the first retry; each further one doubles it, up to `MOST_DELAY_SECONDS`."""
CAUSES: dict[PreemptionCause, str] = {
    "priority": "that one is urgent",
    "quota": "its team holds more than its quota, and others wait",
    "filling": "it filled a gap until that one could start",
    "turn": "its turn is over",
}
RESTARTED = "the machine was restarted when it had just been started: nobody knows how far it came"
_RUN_STATUS: dict[JobState, RunStatus] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "timed_out": "FAILED",
    "stopped": "KILLED",
    "lost": "FAILED",
}
_log = logging.getLogger(__name__)


class Attempts:
    """Of all jobs of one box."""

    def __init__(
        self,
        jobs: Jobs,
        tracker: Tracker,
        access: Access,
        clock: Clock,
        executor: Executor,
        launcher: Launcher,
        roster: Roster,
        *,
        retries: int,
        heard: Callable[[Ref], None],
    ) -> None:
        self._jobs = jobs
        self._tracker = tracker
        self._access = access
        self._clock = clock
        self._executor = executor
        self._launcher = launcher
        self._roster = roster
        self._retries = retries
        self._heard = heard
        self._running: dict[str, tuple[Job, Running]] = {}
        """The active jobs as the policy saw them last."""

    def supply(self) -> Supply:
        return self._executor.capacity(
            [device for job in self._roster.active.values() for device in job.attempts[-1].devices]
        )

    def running(self) -> list[Running]:
        """What is active, as the policy sees it."""
        known, jobs = self._running, self._roster.active.values()
        self._running = {
            job.id: found if (found := known.get(job.id)) and found[0] is job else (job, self._as_running(job))
            for job in jobs
        }
        return [self._as_running(job) if job.spec.checkpoints else self._running[job.id][1] for job in jobs]

    def _as_running(self, job: Job) -> Running:
        saved = None
        if job.spec.checkpoints:
            seen = self._executor.state(ref_of(job))
            saved = seen.checkpoint_at
            if seen.ended is not None:  # who asks may be the first to see it, and then nobody else is told
                self._heard(ref_of(job))
        return running(job, self._roster.box, grace_seconds=self._launcher.grace_seconds, checkpoint_at=saved)

    def begin(self, starts: Sequence[Start], state: State) -> None:
        if starts:
            supply = self._executor.capacity()
            grants = {start.job_id: self._grant(start, state.box, supply) for start in starts}
            jobs = self._jobs.begin_attempts(grants)
            self._roster.put(jobs)
            self._launch(jobs)

    def refuse(self, job_ids: Sequence[str]) -> None:
        """Attempts of jobs whose environment could not be built: they hold nothing, and end with the reason."""
        if job_ids:
            grant = Grant(ran_on=self._executor.capacity().machine, epoch=self._executor.epoch)
            jobs = self._jobs.begin_attempts(dict.fromkeys(job_ids, grant))
            self._roster.put(jobs)
            self._launch(jobs)

    def _grant(self, start: Start, box: Box, supply: Supply) -> Grant:
        gpus = [gpu for gpu in supply.gpus if gpu.uuid in start.devices]
        return Grant(
            gpus=[gpu.index for gpu in gpus],
            devices=start.devices,
            gpu_count=count_gpus(self._roster.waiting[start.job_id].need, box),
            yields_to=start.yields_to,
            ran_on=with_gpus(supply.machine, gpus),
            epoch=self._executor.epoch,
        )

    def preempt(self, preemptions: Sequence[Preemption]) -> None:
        """Have jobs give way: their end is heard of as any other's, and then they wait to go on."""
        for each in preemptions:
            reason = f"gives way to another job: {CAUSES[each.cause]}"
            try:
                job = self._jobs.ask_to_stop(
                    each.job_id, actor="mlbox", cause="preempted", reason=reason, for_job=each.for_job
                )
            except (Conflict, NotFound):  # it has ended in the meantime
                self._roster.job_changed(each.job_id)
                continue
            self._roster.put([job])
            self._roster.job_changed(each.for_job)  # which is promised what it held
            if job.state == "stopping":
                self._executor.stop(ref_of(job))

    def _launch(self, jobs: Sequence[Job]) -> None:
        """Give attempts that have their rows to the executor."""
        if not jobs:
            return
        ends: dict[str, Ended] = {}
        for job, launch in self._launcher.prepare(jobs):
            try:
                if isinstance(launch, Exception):
                    raise launch
                self._executor.start(launch)
            except NotBuilt as err:  # what its user asked for, and no fault of ours
                ends[job.id] = Ended(exit_code=None, error=err.message.rstrip("."))
                self._executor.say(ref_of(job), f"{err.message}\n{err.hint}")
            except Exception as err:  # whatever is wrong with one job must not hold up the others
                _log.exception("The job %s could not be started.", job.id)
                ends[job.id] = Ended(exit_code=None, error=f"could not be started: {err}")
                self._executor.say(ref_of(job), f"The job could not be started: {err}")
        self._write_down({}, ends)

    def look_at(self, jobs: Sequence[Job]) -> None:
        """Bring active jobs up to date with what the executor sees."""
        absent: list[Job] = []
        began: dict[str, int | None] = {}
        ends: dict[str, Ended] = {}
        for job in jobs:
            seen = self._executor.state(ref_of(job))
            if seen.ended is not None:
                ends[job.id] = seen.ended
            elif job.state == "stopping":
                self._end(job, seen, ends)
            elif seen.phase == "absent" and job.state == "starting":  # a former server died in between
                absent.append(job)
            elif seen.phase == "absent":  # it ran, so it is not to run again under the same number
                ends[job.id] = Ended(exit_code=None, lost=True)
            elif job.state == "starting" and seen.phase == "running":
                began[job.id] = seen.number
        ends |= self._never_to_start(absent)
        self._write_down(began, ends)
        self._launch([job for job in absent if job.id not in ends])

    def _never_to_start(self, jobs: Sequence[Job]) -> dict[str, Ended]:
        """Those of these jobs, which have left no trace of their attempts, that are not started again under the same number."""
        lost = self._jobs.of_another_epoch(jobs, self._executor.epoch) if jobs else set()
        ends = {id: Ended(exit_code=None, lost=True, error=RESTARTED) for id in lost}
        for job in jobs:
            if job.id not in lost and job.spec.environment and not self._launcher.is_built(job.spec.environment):
                ends[job.id] = Ended(exit_code=None, lost=True, error="the server died before it could start")
        return ends

    def _end(self, job: Job, seen: Observed, ends: dict[str, Ended]) -> None:
        if seen.phase == "absent":
            ends[job.id] = Ended(exit_code=None, stopped=True, error="stopped before it started")
        else:
            self._executor.stop(ref_of(job))

    def _write_down(self, began: Mapping[str, int | None], ends: Mapping[str, Ended]) -> None:
        """Write down which attempts run by now, and how others ended; queue the jobs of those again that may be tried once more.

        Each store is written to once for all of them, and the runs first: whoever sees a job ended finds its run ended.
        """
        if not began and not ends:
            return
        jobs = [self._roster.active[id] for id in ends]  # whoever asked one to stop meanwhile is heard in the end
        for job in jobs:
            self._executor.clear(ref_of(job))
        outcomes = {job.id: outcome_of(job, _state_after(ends[job.id])) for job in jobs}
        retries = {job.id: self._retry_at(job, outcomes[job.id], ends[job.id]) for job in jobs}
        over = {id: outcome for id, outcome in outcomes.items() if outcome != "preempted" and retries[id] is None}
        jobs += [self._roster.active[id] for id in began]
        self._set_runs(
            {**dict.fromkeys(began, "RUNNING"), **{id: _RUN_STATUS[state] for id, state in over.items()}}, jobs
        )
        if ends:
            self._access.revoke_job_tokens(ends)
        after = self._jobs.follow(
            began,
            {id: End(_state_after(end), end.exit_code, end.reason, retries[id]) for id, end in ends.items()},
            jobs,
        )
        self._roster.put(after)
        self.end_runs({job.id: job.state for job in after if job.ended_at and job.state != outcomes.get(job.id)}, after)

    def _retry_at(self, job: Job, outcome: JobState, ended: Ended) -> datetime | None:
        """When a job whose attempt failed is tried again; None where it is not."""
        if outcome not in ("failed", "lost"):
            return None
        codes = job.spec.retry_exit_codes
        if outcome == "failed" and (ended.error or ended.disk_full or (codes and ended.exit_code not in codes)):
            return None  # with an error it never ran, and would not the next time; what fills the disk does so again
        failed = 1 + sum(attempt.outcome in ("failed", "lost") for attempt in job.attempts)
        retries = self._retries if job.spec.retries is None else job.spec.retries
        if failed > retries:
            return None
        return self._clock.real() + timedelta(
            seconds=min(MOST_DELAY_SECONDS, BACKOFF_SECONDS * 2 ** min(failed - 1, 20))
        )

    def end_runs(self, states: Mapping[str, JobState], jobs: Sequence[Job]) -> None:
        """End the runs of jobs that have ended so."""
        self._set_runs({id: _RUN_STATUS[state] for id, state in states.items()}, jobs)

    def _set_runs(self, statuses: Mapping[str, RunStatus], jobs: Sequence[Job]) -> None:
        if statuses:
            runs = {job.id: job.run_id or "" for job in jobs}
            self._tracker.set_statuses({runs[id]: status for id, status in statuses.items()})


def _state_after(ended: Ended) -> JobState:
    """What an attempt's end means for a job that nobody asked to stop."""
    if ended.timed_out:
        return "timed_out"
    if ended.lost:
        return "lost"
    return "succeeded" if ended.exit_code == 0 else "failed"
