"""Jobs on disk: what was asked for, in which state it is, and each attempt at it.

An attempt's row is written before its process is started, so that a crash in between leaves something to find.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from mlbox.clock import to_us
from mlbox.errors import Conflict, NotFound
from mlbox.outcomes import each, only
from mlbox.records import Attempt, Job, JobState, StopCause
from mlbox.store.db import Tx
from mlbox.store.jobs import notices as job_notices
from mlbox.store.jobs.reader import JobReader, check_free
from mlbox.store.jobs.rows import JOB_SQL, job_of, to_json
from mlbox.store.jobs.states import ACTIVE, ENDED, MOVES, WAITING, outcome_of

_DIVERGES = "diverges: "
"""Begins the reason of a running job whose metrics broke a rule."""


class Grant(NamedTuple):
    """What a new attempt is given."""

    gpus: Sequence[int] = ()
    """The driver's numbers of its devices, for people."""
    devices: Sequence[str] = ()
    """Their UUIDs."""
    gpu_count: float = 0.0
    """What it is charged for."""
    yields_to: Sequence[str] = ()
    """For whom it is to give way again."""
    ran_on: Mapping[str, str] = {}
    """The machine, in words."""
    epoch: str = ""
    """The executor's, in which it was started."""


class End(NamedTuple):
    """How an attempt ended, and when the job is tried again, if it is."""

    state: JobState
    exit_code: int | None
    reason: str
    retry_at: datetime | None = None


class Jobs(JobReader):
    """All jobs, and each move from state to state: written in one transaction with its cause."""

    def add(self, job: Job) -> Job:
        """A new job, queued; raises AlreadyExists for a name that another of its team's has."""
        return only(self.add_each([job]))

    def add_each(self, jobs: Sequence[Job | Exception]) -> list[Job | Exception]:
        """As `add`, of many with one fsync: each job, or why it is not queued."""
        return self._db.write_each(each(self._adding, jobs))

    def _adding(self, job: Job) -> Callable[[Tx], Job]:
        def write(tx: Tx) -> Job:
            check_free(tx.one, job.spec)
            tx.run(
                "INSERT INTO job (id, user, team, spec, state, created_us, run_id, reason) VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(job.id, job.user, job.spec.team, job.spec.to_json().decode()),
                    *(job.state, tx.now_us, job.run_id, job.reason),
                ),
            )
            tx.emit("job.submitted", f"job:{job.id}", job.user, name=job.spec.name, run=job.run_id)
            return replace(job, created_at=tx.now)

        return write

    def begin_attempts(self, starts: Mapping[str, Grant]) -> list[Job]:
        """queued or preempted -> starting, with the row of a new attempt and what it is charged for; those that could.

        As the other moves of many jobs, they share one fsync; a job that is in another state by now, or gone, is left out.
        """

        def write(tx: Tx, job_id: str) -> Job:
            job, grant = _load(tx, job_id, *WAITING), starts[job_id]
            attempt = Attempt(
                number=len(job.attempts) + 1,
                started_at=tx.now,
                gpus=tuple(grant.gpus),
                devices=tuple(grant.devices),
                gpu_count=grant.gpu_count,
                yields_to=tuple(grant.yields_to),
                ran_on=dict(grant.ran_on),
            )
            tx.run(
                "INSERT INTO attempt"
                " (job_id, number, started_us, gpus, devices, gpu_count, cpu_count, yields_to, ran_on, epoch)"
                " VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    *(
                        job_id,
                        attempt.number,
                        tx.now_us,
                        to_json(attempt.gpus),
                        to_json(attempt.devices),
                        attempt.gpu_count,
                    ),
                    *(job.spec.cpus or 0.0, to_json(attempt.yields_to), to_json(attempt.ran_on), grant.epoch),
                ),
            )
            kept = {"promised": 0} if job.promised else {}
            changed = replace(job, promised=False, attempts=(*job.attempts, attempt))
            return _move(tx, changed, "starting", "mlbox", f"attempt {attempt.number} starts", **kept)

        return self._each(starts, write)

    def started(self, numbers: Mapping[str, int | None], seen: Collection[Job] = ()) -> list[Job]:
        """starting -> running; their attempts have these process ids. Any other state stays as it is. `seen` as below."""
        return self.follow(numbers, {}, seen)

    def end_attempts(self, ends: Mapping[str, End], seen: Collection[Job] = ()) -> list[Job]:
        """End the present attempts; each job ends with its own, or is queued for another try at a moment. `seen` as below.

        A job that was asked to stop in the meantime is stopped, however its attempt ended. One that gives way to another is
        preempted, and waits to go on, unless it came to its own good end first.
        """
        return self.follow({}, ends, seen)

    def follow(
        self, numbers: Mapping[str, int | None], ends: Mapping[str, End], seen: Collection[Job] = ()
    ) -> list[Job]:
        """What attempts have come to: some have `started`, with these process ids, and others ended (`end_attempts`).

        What was `seen` of these jobs is not read again, unless they have changed since.
        """

        def write(tx: Tx, job: Job) -> Job:
            return _end(tx, job, ends[job.id]) if job.id in ends else _start(tx, job, numbers[job.id])

        # Of one that did not start just now nothing changes that would tell of more.
        known = {job.id: job for job in seen if job.id in ends or job.state == "starting"}
        return self._each_seen(
            [*numbers, *ends], known, write, lambda job_id: ACTIVE if job_id in ends else tuple(MOVES)
        )

    def _each_seen(
        self,
        job_ids: Collection[str],
        known: Mapping[str, Job],
        write: Callable[[Tx, Job], Job],
        expected: Callable[[str], Collection[JobState]],
    ) -> list[Job]:
        def as_seen(tx: Tx, job_id: str) -> Job:
            return write(tx, known.get(job_id) or _load(tx, job_id, *expected(job_id)))

        def as_it_is(tx: Tx, job_id: str) -> Job:
            return write(tx, _load(tx, job_id, *expected(job_id)))

        moved = self._each(job_ids, as_seen)
        changed = known.keys() - {job.id for job in moved}
        return moved + self._each(changed, as_it_is) if changed else moved

    def _each(self, job_ids: Collection[str], write: Callable[[Tx, str], Job]) -> list[Job]:
        def of(job_id: str) -> Callable[[Tx], Job]:
            return lambda tx: write(tx, job_id)

        moved = []
        for done in self._db.write_each([of(job_id) for job_id in job_ids]):
            if isinstance(done, Job):
                moved.append(done)
            elif not isinstance(done, Conflict | NotFound):
                raise done
        return moved

    def ask_to_stop(
        self, job_id: str, *, actor: str, cause: StopCause = "user", reason: str = "", for_job: str | None = None
    ) -> Job:
        """queued or preempted -> stopped; starting or running -> stopping. Raises Conflict for a job that has ended.

        A user's wish stands above the scheduler's: a job that was about to give way to another is stopped for good. `for_job` is
        whom it gives way to, and that is promised what it held.
        """

        def write(tx: Tx) -> None:
            job = _load(tx, job_id, *WAITING, *ACTIVE)
            said = reason or f"stopped by {actor}"
            if job.state in WAITING and cause != "preempted":
                said = reason or f"stopped by {actor} before it started"
                _move(tx, job, "stopped", actor, said, ended_us=tx.now_us, stop_cause=cause)
            elif job.state in ("starting", "running"):
                tx.run("UPDATE job SET promised = 1 WHERE id = ? AND state IN ('queued', 'preempted')", (for_job,))
                _move(tx, job, "stopping", actor, said, stop_cause=cause, stopping_us=tx.now_us)
            elif job.state == "stopping" and job.stop_cause == "preempted" and cause != "preempted":
                tx.run("UPDATE job SET stop_cause = ?, reason = ? WHERE id = ?", (cause, said, job_id))
                tx.emit("job.stopping", f"job:{job.id}", actor, name=job.spec.name, reason=said)

        self._db.write(write)
        return self.get(job_id)

    def diverged(self, job_id: str, rule: int, words: str) -> None:
        """Note that a running job's metrics broke one of its rules; once for each run. Raises Conflict where it has ended."""

        def write(tx: Tx) -> None:
            job = _load(tx, job_id, *ACTIVE)
            told = tx.one(
                "SELECT 1 FROM event WHERE subject = ? AND type = 'job.diverged' AND data ->> 'rule' = ? AND data ->> 'run' = ?",
                (f"job:{job_id}", rule, job.run_id),
            )
            if told is None:
                tx.run("UPDATE job SET reason = ? WHERE id = ?", (f"{_DIVERGES}{words}", job_id))
                given = {"name": job.spec.name, "reason": words, "rule": rule, "run": job.run_id}
                tx.emit("job.diverged", f"job:{job_id}", "mlbox", **given)
                job_notices.tell(tx, job, "diverged", words, cause=f"rule {rule}")

        self._db.write(write)

    def note_idle(self, job: Job, *, gpu: int, minutes: int) -> None:
        """Record that a job has left a GPU idle for so long."""
        self._db.write(
            lambda tx: tx.emit("job.gpu_idle", f"job:{job.id}", "mlbox", name=job.spec.name, gpu=gpu, minutes=minutes)
        )

    def queue_again(self, job_id: str, *, actor: str, run_id: str) -> Job:
        """An ended job -> queued, with a new run for its next attempt."""

        def write(tx: Tx) -> None:
            job = _load(tx, job_id, *ENDED)
            check_free(tx.one, job.spec)
            anew = dict.fromkeys(("ended_us", "exit_code", "not_before_us", "stop_cause"))
            _move(tx, job, "queued", actor, f"retried by {actor}", **anew, run_id=run_id, left_over="all")

        self._db.write(write)
        return self.get(job_id)


def _load(tx: Tx, job_id: str, *expected: JobState) -> Job:
    row = tx.one(f"{JOB_SQL} WHERE job.id = ?", (job_id,))
    if row is None:
        raise NotFound(f"There is no job {job_id[:80]!r}.", hint="`mlbox ps` lists them.", field="job")
    job = job_of(row)
    if job.state not in expected and job.state in ENDED:
        raise Conflict(f"The job has ended: it {job_notices.WORDS[job.state]}.", hint="`mlbox retry` runs it again.")
    if job.state not in expected:
        raise Conflict(f"The job is {job.state}, and this takes {' or '.join(expected)}.", hint="`mlbox ps` shows it.")
    return job


def _start(tx: Tx, job: Job, pid: int | None) -> Job:
    """starting -> running; any other state stays as it is."""
    job = _with_attempt(tx, job, pid=pid)
    return _move(tx, job, "running", "mlbox", "") if job.state == "starting" else job


def _end(tx: Tx, job: Job, end: End) -> Job:
    """End the present attempt, and the job with it, unless that is tried once more or goes on later."""
    outcome = outcome_of(job, end.state)
    now = tx.now
    said = f"{job.reason} ({end.reason})" if outcome == "preempted" else end.reason
    job = _with_attempt(tx, job, ended_at=now, exit_code=end.exit_code, reason=said, outcome=outcome)
    if outcome == "preempted":
        return replace(_move(tx, job, "preempted", "mlbox", job.reason, stop_cause=None), stop_cause=None)
    if outcome != "stopped" and end.retry_at is not None:
        again = replace(job, not_before=end.retry_at)
        return _move(tx, again, "queued", "mlbox", f"{end.reason}; tried again", not_before_us=to_us(end.retry_at))
    job = replace(job, ended_at=now, exit_code=end.exit_code)
    reason = job.reason if outcome == "stopped" else end.reason
    if outcome != "stopped" and job.reason.startswith(_DIVERGES):  # a good exit status must not hide it
        reason = f"{end.reason}; {job.reason}"
    return _move(tx, job, outcome, "mlbox", reason, ended_us=tx.now_us, exit_code=end.exit_code)


def _move(tx: Tx, job: Job, state: JobState, actor: str, reason: str, **columns: Any) -> Job:
    """Take a job to another state, with what else changes of its row; as it is then, but for these columns.

    Raises Conflict where it is not as it was seen: in another state, or with another cause to stop.
    """
    assert state in MOVES[job.state], (job.state, state)
    waits = state in WAITING
    if waits:
        columns["queued_us"] = tx.now_us
    moved = tx.run(_update(tuple(columns)), (state, reason, *columns.values(), job.id, job.state, job.stop_cause))
    if not moved.rowcount:
        raise _changed()
    tx.emit(f"job.{state}", f"job:{job.id}", actor, name=job.spec.name, reason=reason)
    job_notices.tell(tx, job, state, reason)
    return replace(job, state=state, reason=reason, queued_at=tx.now if waits else job.queued_at)


@cache
def _update(columns: tuple[str, ...]) -> str:
    changes = "".join(f", {name} = ?" for name in columns)
    return f"UPDATE job SET state = ?, reason = ?{changes} WHERE id = ? AND state = ? AND stop_cause IS ?"


def _with_attempt(tx: Tx, job: Job, **changes: Any) -> Job:
    """Change the present attempt of a job, which has not ended; the job with it. Raises Conflict where it has another one."""
    values = (to_us(value) if isinstance(value, datetime) else value for value in changes.values())
    if not tx.run(_update_attempt(tuple(changes)), (*values, job.id, len(job.attempts))).rowcount:
        raise _changed()
    return replace(job, attempts=(*job.attempts[:-1], replace(job.attempts[-1], **changes)))


@cache
def _update_attempt(fields: tuple[str, ...]) -> str:
    columns = ", ".join(f"{name.replace('_at', '_us')} = ?" for name in fields)
    return f"UPDATE attempt SET {columns} WHERE job_id = ? AND number = ? AND ended_us IS NULL"


def _changed() -> Conflict:
    return Conflict("The job has changed in the meantime.", hint="`mlbox ps` shows it.")
