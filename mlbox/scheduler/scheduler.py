"""The scheduler: takes jobs, starts what the policy says, hears of every end, and finds its jobs again after a restart.

Invariants
- An attempt is a row before it is a process, and a shim claims it before it runs: after any crash it is run once or not yet.
- The server may die at any time: shims go on, and the next server reads their claims and statuses.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import subprocess
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import psutil

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, NotFound
from mlbox.ids import new_id
from mlbox.records import DatasetVersion, Job, JobSpec, JobState, QueueEntry, RunStatus
from mlbox.scheduler.asked import check, need, settle
from mlbox.scheduler.attempts import Ended, Folder, Mount, environment
from mlbox.scheduler.gpus import Gpu, Inventory
from mlbox.scheduler.isolation import NOT_ISOLATED, Isolation
from mlbox.scheduler.policy import Box, Device, Running, State, Waiting, decide, impossible
from mlbox.store.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.asking import asking
from mlbox.store.jobs import ACTIVE, WAITING, Jobs, outcome_of
from mlbox.store.secrets import Given, Secrets
from mlbox.store.teams import EVERYONE
from mlbox.store.tracking import Tracker

BACKOFF_SECONDS = 2.0
TOKEN_DAYS = 30
LOOK_SECONDS = 30.0
"""A look at everything that often, whatever was or was not heard."""
ENDING_SECONDS = 0.2
"""And that often while a job is to end: its shim may not have been there yet to be told."""
_RUN_STATUS: dict[JobState, RunStatus] = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "timed_out": "FAILED",
    "stopped": "KILLED",
    "lost": "FAILED",
}
_log = logging.getLogger(__name__)


def default_experiment(team: str) -> str:
    """Where the runs of a team's jobs go when nothing else is said."""
    return "default" if team == EVERYONE else f"{team}.default"


def _entry(job: Job, known: bool) -> QueueEntry:
    limit = job.spec.timeout_seconds
    began = job.attempts[-1].started_at if job.attempts and job.state not in WAITING else None
    entry = QueueEntry(
        team=job.spec.team,
        state=job.state,
        gpus=job.spec.gpus or 0.0,
        expected_end=began + timedelta(seconds=limit) if began and limit else None,
    )
    if not known:
        return entry
    return msgspec.structs.replace(entry, id=job.id, user=job.user, name=job.spec.name, reason=job.reason)


class Scheduler:
    """All jobs of one box."""

    def __init__(
        self,
        jobs: Jobs,
        tracker: Tracker,
        access: Access,
        artifacts: Artifacts,
        clock: Clock,
        inventory: Inventory,
        root: Path,
        *,
        url: str,
        cpus: float = 0,
        memory_gb: float = 0,
        retries: int = 0,
        grace_seconds: float = 10,
        secrets: Secrets | None = None,
        isolation: Isolation = NOT_ISOLATED,
        datasets: Callable[[str], DatasetVersion] | None = None,
    ) -> None:
        self.isolation = isolation
        self._jobs = jobs
        self._tracker = tracker
        self._access = access
        self._artifacts = artifacts
        self._clock = clock
        self._inventory = inventory
        self._gpus = inventory.gpus()
        self._root = root
        self._url = url
        self._box = Box(
            devices=tuple(Device(str(gpu.index), gpu.index, gpu.memory_gb) for gpu in self._gpus),
            cpus=cpus or float(os.cpu_count() or 1),
            memory_gb=memory_gb or psutil.virtual_memory().total / 2**30,
        )
        self._retries = retries
        self._grace = grace_seconds
        self._secrets = secrets
        self._datasets = datasets
        self._watched: dict[str, int] = {}
        """The pidfd of each active job's shim."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="mlbox-scheduler", daemon=True)

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
        added = self._jobs.add(job)
        self._wake()
        return added

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
        return [_entry(job, job.id in seen) for job in jobs]

    def visible_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that whoever asks may know of."""
        return self._jobs.visible_jobs(job_ids)

    def stop(self, job_id: str, *, actor: str) -> Job:
        """Take a job off the queue, or end it; raises Conflict for one that has ended."""
        job = self._jobs.ask_to_stop(job_id, actor=actor)
        if job.state == "stopped":
            self._end_run(job, "stopped")
        self._wake()
        return job

    def retry(self, job_id: str, *, actor: str) -> Job:
        """Queue an ended job again, as a new attempt with a new run; raises Conflict for one that has not ended."""
        job = self._jobs.get(job_id)
        again = self._jobs.queue_again(job_id, actor=actor, run_id=self._start_run(job.spec, job.user, job_id))
        self._wake()
        return again

    def log_path(self, job_id: str, attempt: int | None = None) -> Path:
        """The file that an attempt, or the last one, prints to; it may not be there yet."""
        job = self._jobs.get(job_id)
        return Folder(self._root, job.id, attempt or max(1, len(job.attempts))).log

    def gpus(self) -> list[Gpu]:
        """The GPUs of the box."""
        return self._gpus

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        return self._jobs.counts()

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
        settled = settle(spec, self._box)
        for artifact in filter(None, (spec.snapshot, spec.git_diff, spec.environment)):
            self._artifacts.path(artifact)
        self._check_size(settled)
        return settled

    def _check_size(self, spec: JobSpec) -> None:
        if impossible(need(spec), State(self._box)) is None:
            return
        if need(spec).wants_gpu and not self._gpus:
            missing = getattr(self._inventory, "missing", "")
            raise InvalidInput(
                f"The job asks for {need(spec).count} GPUs and this box has none{f' ({missing})' if missing else ''}.",
                hint="Submit without --gpus, or install NVIDIA's driver and restart the server.",
                field="gpus",
            )
        for field, has in (
            ("gpus", len(self._gpus)),
            ("cpus", self._box.cpus),
            ("memory_gb", self._box.memory_gb),
        ):
            if getattr(spec, field) > has:
                raise InvalidInput(
                    f"The job asks for {getattr(spec, field):g} {field} and this box has {has:.4g}.",
                    hint="Ask for less.",
                    field=field,
                )

    # -- the loop ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find the jobs of a former server again, and begin to schedule."""
        self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")

    def _loop(self) -> None:
        while not self._stopping:
            try:
                delay = self._step()
            except MlboxError as err:  # a store that is down: look again later
                _log.warning("The scheduler could not do its work: %s", err)
                delay = 1.0
            except Exception:  # a fault of ours: say so, and go on scheduling
                _log.exception("The scheduler failed.")
                delay = 1.0
            self._listen(delay)

    def _listen(self, seconds: float) -> None:
        """Wait for a submission, a stop, the end of a shim, or the time that a retry is due."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)

    def _step(self) -> float:
        """Look at every active job and at the queue; after how many seconds to look again at the latest."""
        active = self._jobs.in_states(ACTIVE)
        for job in active:
            self._look_at(job)
        queued = self._jobs.in_states(WAITING)
        now = self._clock.real()
        state = State(
            self._box,
            waiting=tuple(_waiting(job) for job in queued),
            running=tuple(_running(job) for job in self._jobs.in_states(ACTIVE)),
        )
        for start in decide(state, now).starts:
            self._begin(self._jobs.begin_attempt(start.job_id, [int(device) for device in start.devices]))
        due = [(job.not_before - now).total_seconds() for job in queued if job.not_before and job.not_before > now]
        ending = [ENDING_SECONDS for job in active if job.state == "stopping"]
        return min([LOOK_SECONDS, *ending, *(max(0.05, seconds) for seconds in due)])

    def _folder(self, job: Job) -> Folder:
        return Folder(self._root, job.id, job.attempts[-1].number)

    def _begin(self, job: Job) -> None:
        """Start the shim of an attempt that has its row."""
        folder = self._folder(job)
        spec = job.spec
        try:
            own = {
                "MLBOX_URL": self._url,
                "MLBOX_JOB_ID": job.id,
                "MLBOX_RUN_ID": job.run_id or "",
                "MLFLOW_TRACKING_URI": self._url,  # an mlflow in the job logs to the job's run
                "MLFLOW_RUN_ID": job.run_id or "",
                "MLBOX_SEED": str(spec.seed or 0),
            }
            env = environment(spec.env, own, job.attempts[-1].gpus)
            snapshot = self._artifacts.path(spec.snapshot) if spec.snapshot else None
            limits = {"timeout_seconds": spec.timeout_seconds, "grace_seconds": self._grace}
            given = self._secrets.of_job(job) if self._secrets else Given()
            folder.prepare(spec.command, env, snapshot, limits, self.isolation, self._mounts(spec))
            token = self._token(job)
            process = folder.start(
                {**given.env, "MLBOX_TOKEN": token, "MLFLOW_TRACKING_TOKEN": token}, given.masking(token)
            )
        except Exception as err:  # whatever is wrong with one job must not hold up the others
            _log.exception("The job %s could not be started.", job.id)
            with contextlib.suppress(OSError):  # the disk that holds it may be what is wrong
                folder.say(f"The job could not be started: {err}")
            self._finish(job, Ended(exit_code=None, error=f"could not be started: {err}"))
            return
        self._children[process.pid] = process
        self._watch(job, process.pid)
        self._jobs.started(job.id, process.pid)
        with contextlib.suppress(MlboxError):
            self._tracker.set_status(job.run_id or "", "RUNNING")

    def _mounts(self, spec: JobSpec) -> list[Mount]:
        """The datasets that a job named, kept from removal until its shim has its own names for their files."""
        if self._datasets is None:
            return []
        found = []
        for version in map(self._datasets, dict.fromkeys(spec.datasets)):
            try:
                self._artifacts.keep(file.sha256 for file in version.files)
                sources = tuple(self._artifacts.path(file.sha256) for file in version.files)
            except NotFound as err:
                raise NotFound(
                    f"A file of {version.ref} is missing: {err.message}", hint="Restore it from a backup."
                ) from err
            found.append(Mount(version, sources))
        return found

    def _token(self, job: Job) -> str:
        _, secret = self._access.create_token(
            job.user, f"job {job.id}", actor="mlbox", life=timedelta(days=TOKEN_DAYS), job_id=job.id
        )
        return secret

    def _look_at(self, job: Job) -> None:
        """Bring one active job up to date with its folder and its process."""
        folder = self._folder(job)
        ended = folder.ended()
        if ended is not None:
            self._finish(job, ended)
        elif folder.claimed():
            self._look_at_shim(job, folder)
        elif job.id not in self._watched:  # a row, and no shim: a former server died in between
            if job.state == "stopping":
                self._finish(job, Ended(exit_code=None, stopped=True, error="stopped before it started"))
            else:
                self._begin(job)
        elif _is_over(self._watched[job.id]) and not folder.claimed():
            self._finish(job, Ended(exit_code=None, error=f"its shim could not start, see {folder.path}/shim.log"))

    def _look_at_shim(self, job: Job, folder: Folder) -> None:
        pid = folder.shim_pid()
        if pid is None:
            ended = folder.ended() or Ended(exit_code=None, lost=True)  # it may have ended between the two looks
            self._finish(job, ended)
            return
        self._watch(job, pid)
        if job.state == "starting":
            self._jobs.started(job.id, pid)
        if job.state == "stopping":
            folder.stop()

    def _finish(self, job: Job, ended: Ended) -> None:
        """Write down how the attempt ended, and queue the job again where it may be tried once more."""
        self._unwatch(job.id)
        self._folder(job).clear()
        state = _state_after(ended)
        outcome = outcome_of(self._jobs.get(job.id), state)
        retry_at = self._retry_at(job, ended) if outcome == "failed" else None
        if retry_at is None and outcome != "preempted":
            self._end_run(job, outcome)  # first the run: whoever sees the job ended finds it ended
        self._access.revoke_job_tokens(job.id)
        after = self._jobs.end_attempt(job.id, state, exit_code=ended.exit_code, reason=ended.reason, retry_at=retry_at)
        if after.ended_at is not None and after.state != outcome:  # someone asked for its end in between
            self._end_run(job, after.state)

    def _retry_at(self, job: Job, ended: Ended) -> datetime | None:
        """When a job whose attempt failed is tried again; None where it is not."""
        if ended.error:  # it never ran, and would not the next time
            return None
        if job.spec.retry_exit_codes and ended.exit_code not in job.spec.retry_exit_codes:
            return None
        failed = 1 + sum(attempt.outcome == "failed" for attempt in job.attempts)
        retries = self._retries if job.spec.retries is None else job.spec.retries
        if failed > retries:
            return None
        return self._clock.real() + timedelta(seconds=BACKOFF_SECONDS**failed)

    def _end_run(self, job: Job, state: JobState) -> None:
        with contextlib.suppress(MlboxError):  # the run may have been ended by hand
            self._tracker.end_run(job.run_id or "", _RUN_STATUS[state])

    # -- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, job: Job, pid: int) -> None:
        """Hear of a shim's end, whoever started it."""
        if job.id in self._watched:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._wake()
            return
        self._watched[job.id] = fd
        self._selector.register(fd, selectors.EVENT_READ, job.id)

    def _unwatch(self, job_id: str) -> None:
        fd = self._watched.pop(job_id, None)
        if fd is not None:
            self._selector.unregister(fd)
            os.close(fd)
        for pid, process in list(self._children.items()):
            if process.poll() is not None:
                del self._children[pid]

    def close(self) -> None:
        """Stop scheduling; running jobs go on under their shims."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        for job_id in list(self._watched):
            self._unwatch(job_id)
        for process in self._children.values():
            process.returncode = 0  # it goes on without us, and is no leak
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _waiting(job: Job) -> Waiting:
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


def _running(job: Job) -> Running:
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


def _state_after(ended: Ended) -> JobState:
    """What an attempt's end means for a job that nobody asked to stop."""
    if ended.timed_out:
        return "timed_out"
    if ended.lost:
        return "lost"
    return "succeeded" if ended.exit_code == 0 else "failed"


def _is_over(pidfd: int) -> bool:
    """Whether the process has ended."""
    return bool(select.select([pidfd], [], [], 0)[0])
