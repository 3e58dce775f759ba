"""The scheduler: takes jobs, starts what the policy says, hears of every end, and finds its jobs again after a restart.

Invariants
- An attempt is a row before it is given to the executor, which runs it at most once: after any crash it is run once or not yet.
- The server may die at any time: attempts go on, and the executor of the next server knows them again.
- One thread decides and writes what follows; whatever it is in doubt of, it reads again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace as dataclass_replace
from datetime import datetime, timedelta

from msgspec.structs import replace

from mlbox.clock import Clock
from mlbox.errors import NotFound
from mlbox.ids import new_id
from mlbox.loop import Loop
from mlbox.outcomes import each, only
from mlbox.records import (
    DEFAULT_EXPERIMENT,
    WAITS,
    Gpu,
    Job,
    JobPlan,
    JobSpec,
    JobState,
    Outlook,
    QueueEntry,
    StopCause,
)
from mlbox.scheduler.accounts import Accounts
from mlbox.scheduler.asked import check, check_size, settle
from mlbox.scheduler.attempts import Attempts
from mlbox.scheduler.builds import Builds
from mlbox.scheduler.executors import Executor, Ref
from mlbox.scheduler.launcher import Launcher, ref_of
from mlbox.scheduler.machine import differences
from mlbox.scheduler.outlook import outlook_of, plan_of, with_reasons
from mlbox.scheduler.policy import Explainer, Rules, Running, State, Waiting
from mlbox.scheduler.roster import Roster
from mlbox.scheduler.rulebook import Rulebook
from mlbox.scheduler.views import entry, waiting, with_holders
from mlbox.store.access.access import Access
from mlbox.store.access.teams import EVERYONE
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.jobs.states import ACTIVE, WAITING
from mlbox.store.tracking.runs import NewRun
from mlbox.store.tracking.tracking import Tracker

AGAIN_SECONDS = 1.0
"""After a step that failed, as one does when a store is down."""
LOOK_SECONDS = 30.0
"""A look at everything that often, whatever was or was not heard."""
ENDING_SECONDS = 0.2
"""And that often while a job is to end: it may not have been there yet to be told."""
LONG_SECONDS = 0.002
REST_SECONDS, MOST_REST_SECONDS = 0.01, 0.05
"""A step that takes longer is followed by a rest of the same length in these bounds, unless a person waits for the next step."""
TAKEN_SECONDS = 2.0
"""And that often while a job waits and someone else uses a GPU."""
RULES = Rules()
_log = logging.getLogger(__name__)


def default_experiment(team: str) -> str:
    """Where the runs of a team's jobs go when nothing else is said."""
    return DEFAULT_EXPERIMENT if team == EVERYONE else f"{team}.default"


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
        self._artifacts = artifacts
        self._clock = clock
        self._executor = executor
        self._launcher = launcher
        self._rules = rules
        box = executor.capacity().box
        self._roster = Roster(jobs, box)
        self._builds = Builds(launcher, executor)
        self._attempts = Attempts(
            jobs, tracker, access, clock, executor, launcher, self._roster, retries=retries, heard=self._heard
        )
        self._rulebook = Rulebook(sharing, self._shared_otherwise)
        self._accounts = Accounts(sharing, box, timedelta(seconds=rules.half_life_seconds))
        self._last = Explainer(State(box), clock.real())
        """The last decision."""
        self._look_due = 0.0
        self._loop = Loop(
            self._step, name="mlbox-scheduler", failed="The scheduler could not do its work", again=AGAIN_SECONDS
        )

    # -- asking -----------------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, *, user: str, job_id: str | None = None) -> Job:
        """Queue a job, with a run of its own; raises InvalidInput for what this box can never run."""
        return only(self.submit_each([spec], user=user, job_id=job_id))

    def submit_each(
        self, specs: Sequence[JobSpec | Exception], *, user: str, job_id: str | None = None
    ) -> list[Job | Exception]:
        """As `submit`, of many with one fsync of each store: each job, or why it is not queued. A `job_id` is the first one's."""
        now, ids = self._clock.real(), iter([job_id] if job_id else ())

        def make(spec: JobSpec) -> Job:
            spec = self.check(spec)
            self._jobs.check_name(spec)
            id = next(ids, None) or new_id()
            return Job(id=id, user=user, spec=spec, state="queued", created_at=now, reason=WAITS)

        made = each(make, specs)
        runs = self._tracker.begin_runs(each(_run_of, made))
        jobs = self._jobs.add_each(
            [
                job if isinstance(job, Exception) else run if isinstance(run, Exception) else replace(job, run_id=run)
                for job, run in zip(made, runs, strict=True)
            ]
        )
        self._told([job for job in jobs if isinstance(job, Job)])
        without = [
            run for run, job in zip(runs, jobs, strict=True) if isinstance(run, str) and isinstance(job, Exception)
        ]
        if without:
            self._tracker.set_statuses(dict.fromkeys(without, "KILLED"))
        return jobs

    def plan(self, spec: JobSpec, *, user: str) -> JobPlan:
        """What would come of submitting a job now; raises as `submit` does, and changes nothing."""
        spec = self.check(spec)
        self._jobs.check_name(spec)
        now = self._clock.real()
        job = Job(id=new_id(), user=user, spec=spec, state="queued", created_at=now)
        return plan_of(job, _with(self._last.state, job), now, self._jobs)

    def why(self, job_id: str) -> Outlook:
        """What a job waits for, or who waits for it; raises NotFound."""
        job = self._jobs.get(job_id)
        if job_id in self._builds.waiting:
            return Outlook(words=self._builds.waiting[job_id])
        last = self._last
        state = _with(last.state, job)
        return outlook_of(job, last if state is last.state else Explainer(state, self._clock.real()), self._jobs)

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

    def queue(self, *, limit: int = 100, after: int = 0) -> list[QueueEntry]:
        """What waits or runs, oldest first, of every team; of other teams' no more than what it takes to plan."""
        with asking(None):
            places = self._jobs.open_jobs(limit=limit, after=after)
        jobs = list(places.values())
        seen = self._jobs.visible_jobs([job.id for job in jobs])
        told = {job.id: job for job in self.with_reasons([job for job in jobs if job.id in seen])}
        return [entry(told.get(job.id, job), place=place, known=job.id in seen) for place, job in places.items()]

    def others(self, *, limit: int) -> tuple[int, list[QueueEntry]]:
        """How many jobs wait or run of which whoever asks may not know, as of the last decision, and the first of them."""
        state = self._last.state
        jobs: list[Running | Waiting] = [*state.running, *state.waiting]
        known = self._jobs.visible_teams({job.team for job in jobs})
        hidden = [job.id for job in jobs if job.team not in known]
        with asking(None):
            found = self._jobs.some(hidden[:limit])
        return len(hidden), [entry(job, known=False) for job in found if job.ended_at is None]

    def visible_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that whoever asks may know of."""
        return self._jobs.visible_jobs(job_ids)

    def stop(self, job_id: str, *, actor: str, cause: StopCause = "user", reason: str = "") -> Job:
        """Take a job off the queue, or end it; raises Conflict for one that has ended."""
        job = self._jobs.ask_to_stop(job_id, actor=actor, cause=cause, reason=reason)
        if job.state == "stopped":
            self._attempts.end_runs({job.id: "stopped"}, [job])
        elif job.state == "stopping":  # here and now, so that it starts no more if it has not
            self._executor.stop(ref_of(job))
        self._told([job], hurry=True)
        return job

    def diverged(self, job_id: str, rule: int, words: str) -> None:
        """Note that a running job's metrics broke one of its rules; raises Conflict where it has ended."""
        self._jobs.diverged(job_id, rule, words)
        self._told([self._jobs.get(job_id)])

    def retry(self, job_id: str, *, actor: str) -> Job:
        """Queue an ended job again, as a new attempt with a new run; raises Conflict for one that has not ended."""
        run_id = only(self._tracker.begin_runs([_run_of(self._jobs.get(job_id))]))
        job = self._jobs.queue_again(job_id, actor=actor, run_id=run_id)
        self._told([job])
        return job

    def differences(self, job: Job) -> list[str]:
        """What is not now as it was when a job last ran."""
        supply = self._executor.capacity()
        return differences(job, supply.machine, supply.gpus, self._launcher.is_built)

    def log(self, job_id: str, attempt: int | None = None, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """What an attempt, or the last one, printed, from an offset in bytes; raises NotFound for an unknown one."""
        return self._executor.log(self._attempt(job_id, attempt), offset, limit)

    def log_start(
        self, job_id: str, attempt: int | None = None, *, lines: int | None = None, since: datetime | None = None
    ) -> int:
        """The offset where the last lines of a log begin, or what was printed since a moment; raises NotFound."""
        return self._executor.log_start(self._attempt(job_id, attempt), lines=lines, since=since)

    def _attempt(self, job_id: str, number: int | None) -> Ref:
        """An attempt of a job, or its last one: the first, too, where it has had none yet; raises NotFound."""
        last = max(1, len(self._jobs.get(job_id).attempts))
        if number is not None and number > last:
            raise NotFound(
                f"The job has no attempt {number}.",
                hint=f"The last is {last}: `mlbox show` lists them.",
                field="attempt",
            )
        return Ref(job_id, number or last)

    def gpus(self) -> list[Gpu]:
        """The GPUs of the box, what they do and who has them."""
        return with_holders(self._attempts.supply().gpus, list(self._roster.active.values()), self._jobs.visible_jobs)

    def with_reasons(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs with what each of them waits for, as far as it waits."""
        built = self._builds.waiting
        any_wait = any(job.state in WAITING for job in jobs)
        return [
            replace(job, reason=built[job.id]) if job.id in built else job
            for job in (with_reasons(jobs, self._last, self._jobs) if any_wait else jobs)
        ]

    def line(self, *, limit: int = 50) -> list[Job]:
        """The jobs that are due, first first, with what each waits for: those that whoever asks may know of."""
        ids = [*(job.id for job in self._last.first[:limit]), *self._builds.waiting][:limit]
        seen = self._jobs.visible_jobs(ids)
        known = {job.id: job for job in self.with_reasons(self._jobs.some(seen))}
        return [known[id] for id in ids if id in known and known[id].state in WAITING]

    def active(self) -> list[Job]:
        """The jobs that hold something of the box."""
        return list(self._roster.active.values())

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return self._jobs.counts()

    def _told(self, jobs: Sequence[Job], *, hurry: bool = False) -> None:
        """Jobs that were written: the loop is to know."""
        for job in jobs:
            self._roster.job_changed(job.id)
        if jobs:
            self._loop.wake(hurry=hurry or any(job.spec.priority == "urgent" for job in jobs))

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
        self._launcher.open(self._job_heard, self._environments_in_use)
        self._loop.start()

    def _shared_otherwise(self) -> None:
        self._loop.wake()

    def _environments_in_use(self) -> set[str]:
        with asking(None):
            return {job.spec.environment for job in self._jobs.in_states((*WAITING, *ACTIVE)) if job.spec.environment}

    def _job_heard(self, job_id: str) -> None:
        self._roster.job_changed(job_id)
        self._loop.wake()

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
        began = time.monotonic()
        if time.monotonic() >= self._look_due:
            self._look_due = time.monotonic() + LOOK_SECONDS
            self._roster.doubt()
        self._attempts.look_at(self._roster.read())
        self._attempts.refuse(self._builds.look(self._roster.builds))
        now = self._clock.real()
        state = self._state(now)
        self._last = Explainer(state, now)
        decision = self._last.decision
        self._attempts.begin(decision.starts, state)
        self._attempts.preempt(decision.preemptions)
        self._accounts.hold(self._attempts.running())
        took = time.monotonic() - began
        if (
            took > LONG_SECONDS
        ):  # many jobs: whoever submits more of them has every other moment, and they are taken together
            self._loop.rest(min(max(took, REST_SECONDS), MOST_REST_SECONDS))
        look_at = (decision.look_at - now).total_seconds() if decision.look_at else LOOK_SECONDS
        ending = any(job.state == "stopping" for job in self._roster.active.values())
        taken = bool(state.waiting) and any(device.taken for device in state.box.devices)
        return min(
            LOOK_SECONDS, max(0.05, look_at), ENDING_SECONDS if ending else TAKEN_SECONDS if taken else LOOK_SECONDS
        )

    def _state(self, now: datetime) -> State:
        self._rulebook.refresh()
        teams, queued = self._accounts.usage(now)
        return self._rules_of(
            State(
                self._attempts.supply().box,
                waiting=tuple(job for job in self._roster.waiting.values() if job.id not in self._builds.waiting),
                running=tuple(self._attempts.running()),
                teams=teams,
                queued=queued,
            )
        )

    def _rules_of(self, state: State) -> State:
        book = self._rulebook
        return dataclass_replace(state, queues=book.queues, quotas=book.quotas, shares=book.shares, rules=self._rules)

    def close(self) -> None:
        """Stop scheduling; running jobs go on."""
        self._loop.close()
        self._executor.close()


def _run_of(job: Job) -> NewRun:
    spec = job.spec
    return NewRun(
        experiment=spec.experiment or default_experiment(spec.team),
        user=job.user,
        name=spec.name,
        job_id=job.id,
        datasets=tuple(dict.fromkeys(spec.datasets)),
        git_commit=spec.git_commit,
        params=spec.hyperparameters,
        tags=spec.tags,
        status="SCHEDULED",
    )


def _with(state: State, job: Job) -> State:
    """What a decision was taken on, and a job that may be newer."""
    if job.state not in WAITING or any(other.id == job.id for other in state.waiting):
        return state
    return dataclass_replace(state, waiting=(*state.waiting, waiting(job, state.box)))
