"""The scheduler: takes jobs, starts what the policy says, hears of every end, and finds its jobs again after a restart.

Invariants
- An attempt is a row before it is given to the executor, which runs it at most once: after any crash it is run once or not yet.
- The server may die at any time: attempts go on, and the executor of the next server knows them again.
- One thread decides and writes what follows; whatever it is in doubt of, it reads again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mlbox.clock import Clock
from mlbox.errors import Conflict, NotFound
from mlbox.ids import new_id
from mlbox.loop import Loop
from mlbox.records import Gpu, Job, JobPlan, JobSpec, JobState, Outlook, QueueEntry, RunStatus, StopCause
from mlbox.scheduler.accounts import Accounts
from mlbox.scheduler.asked import check, check_size, settle
from mlbox.scheduler.environments import NotBuilt
from mlbox.scheduler.executors import Ended, Executor, Observed, Ref, Supply
from mlbox.scheduler.launcher import Launcher, ref_of
from mlbox.scheduler.machine import differences, with_gpus
from mlbox.scheduler.outlook import in_line, outlook_of, plan_of, with_reasons
from mlbox.scheduler.policy import Box, Preemption, PreemptionCause, Rules, Running, Start, State, decide
from mlbox.scheduler.policy import gpus as count_gpus
from mlbox.scheduler.roster import Roster
from mlbox.scheduler.rulebook import Rulebook
from mlbox.scheduler.views import entry, running, waiting, with_holders
from mlbox.store.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking
from mlbox.store.jobs import ACTIVE, WAITING, End, Grant, Jobs, outcome_of
from mlbox.store.sharing import Sharing
from mlbox.store.teams import EVERYONE
from mlbox.store.tracking import Tracker

BACKOFF_SECONDS = 2.0
"""Before the first retry; each further one doubles it, up to the most."""
MOST_BACKOFF_SECONDS = 3600.0
AGAIN_SECONDS = 1.0
"""After a step that failed, as one does when a store is down."""
LOOK_SECONDS = 30.0
"""A look at everything that often, whatever was or was not heard."""
ENDING_SECONDS = 0.2
"""And that often while a job is to end: it may not have been there yet to be told."""
TAKEN_SECONDS = 2.0
"""And that often while a job waits and someone else uses a GPU."""
CAUSES: dict[PreemptionCause, str] = {
    "priority": "that one is urgent",
    "quota": "its team holds more than its quota, and others wait",
    "filling": "it filled a gap until that one could start",
    "turn": "its turn is over",
}
_RUN_STATUS: dict[JobState, RunStatus] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "timed_out": "FAILED",
    "stopped": "KILLED",
    "lost": "FAILED",
}
RULES = Rules()
_log = logging.getLogger(__name__)


def default_experiment(team: str) -> str:
    """Where the runs of a team's jobs go when nothing else is said."""
    return "default" if team == EVERYONE else f"{team}.default"


class Scheduler:
    """All jobs of one box."""

    def __init__(
        self,
        jobs: Jobs,
        tracker: Tracker,
        access: Access,
        artifacts: Artifacts,
        clock: Clock,
        executor: Executor,
        launcher: Launcher,
        sharing: Sharing,
        *,
        retries: int = 0,
        rules: Rules = RULES,
    ) -> None:
        self._jobs = jobs
        self._tracker = tracker
        self._access = access
        self._artifacts = artifacts
        self._clock = clock
        self._executor = executor
        self._launcher = launcher
        self._retries = retries
        self._rules = rules
        box = executor.capacity().box
        self._roster = Roster(jobs, box)
        self._rulebook = Rulebook(sharing, self._shared_otherwise)
        self._accounts = Accounts(sharing, box, timedelta(seconds=rules.half_life_seconds))
        self._seen = State(box)
        """What the last decision was taken on."""
        self._look_due = 0.0
        self._loop = Loop(
            self._step, name="mlbox-scheduler", failed="The scheduler could not do its work", again=AGAIN_SECONDS
        )

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, *, user: str, job_id: str | None = None) -> Job:
        """Queue a job, with a run of its own; raises InvalidInput for what this box can never run."""
        spec = self.check(spec)
        self._jobs.check_name(spec)
        job_id = job_id or new_id()
        run = self._start_run(spec, user, job_id)
        job = Job(
            id=job_id, user=user, spec=spec, state="queued", created_at=self._clock.real(), run_id=run, reason="waits"
        )
        return self._told(self._jobs.add(job))

    def plan(self, spec: JobSpec, *, user: str) -> JobPlan:
        """What would come of submitting a job now; raises as `submit` does, and changes nothing."""
        spec = self.check(spec)
        self._jobs.check_name(spec)
        now = self._clock.real()
        job = Job(id=new_id(), user=user, spec=spec, state="queued", created_at=now)
        return plan_of(job, self._seen_with(job), now)

    def why(self, job_id: str) -> Outlook:
        """What a job waits for, or who waits for it; raises NotFound."""
        job = self._jobs.get(job_id)
        return outlook_of(job, self._seen_with(job), self._clock.real(), self._jobs)

    def job(self, job_id: str) -> Job:
        """One job by its id; raises NotFound."""
        return self._jobs.get(job_id)

    def find(self, word: str) -> Job:
        """One job by its id, its name, or what begins or ends its id alone; raises NotFound, or Conflict for several."""
        return self._jobs.find(word)

    def jobs(
        self,
        *,
        state: JobState | None = None,
        user: str | None = None,
        team: str | None = None,
        open_only: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first; those that have not ended where `open_only` is said."""
        return self._jobs.page(state=state, user=user, team=team, open_only=open_only, limit=limit, after=after)

    def queue(self) -> list[QueueEntry]:
        """What waits or runs, oldest first, of every team; of other teams' no more than what it takes to plan."""
        with asking(None):
            jobs = self._jobs.in_states((*WAITING, *ACTIVE))
        seen = self._jobs.visible_jobs([job.id for job in jobs])
        told = {job.id: job for job in self.with_reasons([job for job in jobs if job.id in seen])}
        return [entry(told.get(job.id, job), known=job.id in seen) for job in jobs]

    def visible_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that whoever asks may know of."""
        return self._jobs.visible_jobs(job_ids)

    def stop(self, job_id: str, *, actor: str, cause: StopCause = "user", reason: str = "") -> Job:
        """Take a job off the queue, or end it; raises Conflict for one that has ended."""
        job = self._jobs.ask_to_stop(job_id, actor=actor, cause=cause, reason=reason)
        if job.state == "stopped":
            self._end_runs({job.id: "stopped"}, [job])
        return self._told(job)

    def retry(self, job_id: str, *, actor: str) -> Job:
        """Queue an ended job again, as a new attempt with a new run; raises Conflict for one that has not ended."""
        job = self._jobs.get(job_id)
        run_id = self._start_run(job.spec, job.user, job_id)
        return self._told(self._jobs.queue_again(job_id, actor=actor, run_id=run_id))

    def differences(self, job: Job) -> list[str]:
        """What is not now as it was when a job last ran."""
        supply = self._executor.capacity()
        return differences(job, supply.machine, supply.gpus, self._launcher.is_built)

    def log(self, job_id: str, attempt: int | None = None, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """What an attempt, or the last one, printed, from an offset in bytes; raises NotFound for an unknown job."""
        job = self._jobs.get(job_id)
        return self._executor.log(Ref(job.id, attempt or max(1, len(job.attempts))), offset, limit)

    def log_start(
        self, job_id: str, attempt: int | None = None, *, lines: int | None = None, since: datetime | None = None
    ) -> int:
        """The offset where the last lines of a log begin, or what was printed since a moment; raises NotFound."""
        job = self._jobs.get(job_id)
        return self._executor.log_start(Ref(job.id, attempt or max(1, len(job.attempts))), lines=lines, since=since)

    def gpus(self) -> list[Gpu]:
        """The GPUs of the box, what they do and who has them."""
        return with_holders(self._supply().gpus, list(self._roster.active.values()), self._jobs.visible_jobs)

    def with_reasons(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs with what each of them waits for, as far as it waits."""
        return with_reasons(jobs, self._seen, self._clock.real(), self._jobs)

    def line(self, *, limit: int = 50) -> list[Job]:
        """The jobs that are due, first first, with what each waits for: those that whoever asks may know of."""
        ids = in_line(self._seen, self._clock.real(), limit)
        seen = self._jobs.visible_jobs(ids)
        known = {job.id: job for job in self.with_reasons(self._jobs.some(seen))}
        return [known[id] for id in ids if id in known and known[id].state in WAITING]

    def active(self) -> list[Job]:
        """The jobs that hold something of the box."""
        return list(self._roster.active.values())

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return self._jobs.counts()

    def _told(self, job: Job) -> Job:
        """A job that was written: the loop is to know."""
        self._roster.job_changed(job.id)
        self._loop.wake()
        return job

    def _start_run(self, spec: JobSpec, user: str, job_id: str) -> str:
        return self._tracker.start_run(
            experiment=spec.experiment or default_experiment(spec.team),
            user=user,
            name=spec.name,
            job_id=job_id,
            dataset=spec.datasets[0] if spec.datasets else None,
            git_commit=spec.git_commit,
            params=spec.hyperparameters,
            tags=spec.tags,
            status="SCHEDULED",
        ).id

    def check(self, spec: JobSpec) -> JobSpec:
        """The spec with nothing left open; raises InvalidInput for what this box can never run."""
        check(spec)
        supply = self._executor.capacity()
        settled = settle(spec, supply.box)
        for artifact in filter(None, (spec.snapshot, spec.git_diff, spec.environment)):
            self._artifacts.path(artifact)
        self._rulebook.refresh()
        check_size(settled, supply, self._rules_of(State(supply.box)))
        self._executor.check(settled)
        return settled

    # -- the loop ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the jobs of a former server again, and begin to schedule."""
        self._executor.open(self._heard)
        self._launcher.open(self._heard, self._environments_in_use)
        self._loop.start()

    def _shared_otherwise(self) -> None:
        self._loop.wake()

    def _environments_in_use(self) -> set[str]:
        with asking(None):
            return {job.spec.environment for job in self._jobs.in_states((*WAITING, *ACTIVE)) if job.spec.environment}

    def _heard(self, ref: Ref) -> None:
        self._roster.attempt_changed(ref)
        self._loop.wake()

    def _step(self) -> float:
        """Bring what has changed up to date, and decide; after how many seconds to look again at the latest."""
        try:
            return self._follow()
        except Exception:
            self._roster.doubt()
            raise

    def _follow(self) -> float:
        if time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + LOOK_SECONDS
            self._roster.doubt()
        self._look_at(self._roster.read())
        now = self._clock.real()
        self._seen = state = self._state(now)
        decision = decide(state, now)
        self._begin(decision.starts, state)
        self._preempt(decision.preemptions)
        self._accounts.hold([self._running(job) for job in self._roster.active.values()])
        look_at = (decision.look_at - now).total_seconds() if decision.look_at else LOOK_SECONDS
        ending = any(job.state == "stopping" for job in self._roster.active.values())
        taken = bool(state.waiting) and any(device.taken for device in state.box.devices)
        return min(
            LOOK_SECONDS, max(0.05, look_at), ENDING_SECONDS if ending else TAKEN_SECONDS if taken else LOOK_SECONDS
        )

    def _supply(self) -> Supply:
        return self._executor.capacity(
            [device for job in self._roster.active.values() for device in job.attempts[-1].devices]
        )

    def _state(self, now: datetime) -> State:
        self._rulebook.refresh()
        teams, queued = self._accounts.usage(now)
        return self._rules_of(
            State(
                self._supply().box,
                waiting=tuple(self._roster.waiting.values()),
                running=tuple(map(self._running, self._roster.active.values())),
                teams=teams,
                queued=queued,
            )
        )

    def _seen_with(self, job: Job) -> State:
        """What the last decision was taken on, and a job that may be newer."""
        state = self._seen
        if job.state not in WAITING or any(other.id == job.id for other in state.waiting):
            return state
        return replace(state, waiting=(*state.waiting, waiting(job, state.box)))

    def _rules_of(self, state: State) -> State:
        book = self._rulebook
        return replace(state, queues=book.queues, quotas=book.quotas, shares=book.shares, rules=self._rules)

    def _running(self, job: Job) -> Running:
        saved = None
        if job.spec.checkpoints:
            seen = self._executor.state(ref_of(job))
            saved = seen.checkpoint_at
            if seen.ended is not None:  # who asks may be the first to see it, and then nobody else is told
                self._heard(ref_of(job))
        return running(job, self._roster.box, grace_seconds=self._launcher.grace_seconds, checkpoint_at=saved)

    def _begin(self, starts: Sequence[Start], state: State) -> None:
        if starts:
            supply = self._executor.capacity()
            grants = {start.job_id: self._grant(start, state.box, supply) for start in starts}
            jobs = self._jobs.begin_attempts(grants)
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
        )

    def _preempt(self, preemptions: Sequence[Preemption]) -> None:
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
        ends: dict[str, Ended] = {}
        ready = [job for job in jobs if self._launcher.can_prepare(job)]
        for job, launch in self._launcher.prepare(ready):
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
        self._finish(ends)

    def _look_at(self, jobs: Sequence[Job]) -> None:
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
        if began:
            self._tracker.set_statuses({self._roster.active[id].run_id or "": "RUNNING" for id in began})
            self._roster.put(self._jobs.started(began))
        if absent:
            self._launch(absent)
        self._finish(ends)

    def _end(self, job: Job, seen: Observed, ends: dict[str, Ended]) -> None:
        if seen.phase == "absent":
            ends[job.id] = Ended(exit_code=None, stopped=True, error="stopped before it started")
        else:
            self._executor.stop(ref_of(job))

    def _finish(self, ends: Mapping[str, Ended]) -> None:
        """Write down how attempts ended, and queue those jobs again that may be tried once more."""
        if not ends:
            return
        jobs = self._jobs.some(ends)
        for job in jobs:
            self._executor.clear(ref_of(job))
        outcomes = {job.id: outcome_of(job, _state_after(ends[job.id])) for job in jobs}
        retries = {job.id: self._retry_at(job, outcomes[job.id], ends[job.id]) for job in jobs}
        over = {id: outcome for id, outcome in outcomes.items() if outcome != "preempted" and retries[id] is None}
        self._end_runs(over, jobs)  # first the runs: whoever sees a job ended finds its run ended
        self._access.revoke_job_tokens(ends)
        after = self._jobs.end_attempts(
            {id: End(_state_after(end), end.exit_code, end.reason, retries.get(id)) for id, end in ends.items()}
        )
        self._roster.put(after)
        self._end_runs({job.id: job.state for job in after if job.ended_at and job.state != outcomes[job.id]}, after)

    def _retry_at(self, job: Job, outcome: JobState, ended: Ended) -> datetime | None:
        """When a job whose attempt failed is tried again; None where it is not."""
        if outcome not in ("failed", "lost"):
            return None
        codes = job.spec.retry_exit_codes
        if outcome == "failed" and (ended.error or (codes and ended.exit_code not in codes)):
            return None  # with an error it never ran, and would not the next time
        failed = 1 + sum(attempt.outcome in ("failed", "lost") for attempt in job.attempts)
        retries = self._retries if job.spec.retries is None else job.spec.retries
        if failed > retries:
            return None
        return self._clock.real() + timedelta(
            seconds=min(MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(failed - 1, 20))
        )

    def _end_runs(self, states: Mapping[str, JobState], jobs: Sequence[Job]) -> None:
        if states:
            runs = {job.id: job.run_id for job in jobs}
            self._tracker.set_statuses({runs[id] or "": _RUN_STATUS[state] for id, state in states.items()})

    def close(self) -> None:
        """Stop scheduling; running jobs go on."""
        self._loop.close()
        self._executor.close()


def _state_after(ended: Ended) -> JobState:
    """What an attempt's end means for a job that nobody asked to stop."""
    if ended.timed_out:
        return "timed_out"
    if ended.lost:
        return "lost"
    return "succeeded" if ended.exit_code == 0 else "failed"
