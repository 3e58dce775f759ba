"""Jobs on disk: what was asked for, in which state it is, and each attempt at it.

`MOVES` is the whole state machine. An attempt's row is written before its process is started, so that a crash in between leaves
something to find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from mlbox.clock import from_us, to_us
from mlbox.errors import AlreadyExists, Conflict, NotFound
from mlbox.records import Attempt, Job, JobSpec, JobState, StopCause
from mlbox.store import job_notices
from mlbox.store.db import Database, Row, Tx

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

_JOB_SQL = """
SELECT job.*, (SELECT json_group_array(json_object('number', number, 'started_us', started_us, 'ended_us', ended_us,
    'exit_code', exit_code, 'pid', pid, 'gpus', json(gpus), 'devices', json(devices), 'gpu_count', gpu_count,
    'yields_to', json(yields_to), 'outcome', outcome, 'reason', reason, 'ran_on', json(ran_on)))
  FROM (SELECT * FROM attempt WHERE job_id = job.id ORDER BY number)) AS attempts
FROM job
"""
ID_LENGTH = 32
_PART = re.compile(r"[0-9a-f]{4,}")
_PARTS = ("id LIKE :word || '%'", "id LIKE '%' || :word")
_VISIBLE = "visible('team', team)"
"""Only a team knows its jobs; others see in the queue that there is one."""


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


class Jobs:
    """All jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """One job; raises NotFound."""
        row = self._db.one(f"{_JOB_SQL} WHERE job.id = ? AND {_VISIBLE}", (job_id,))
        if row is None:
            raise NotFound(f"There is no job {job_id[:80]!r}.", hint="`mlbox ps` lists them.", field="job")
        return _job(row)

    def find(self, word: str) -> Job:
        """One job by its id, its name (the one that has not ended, else the last), or what begins or ends its id alone.

        Raises NotFound, or Conflict where it means several.
        """
        if len(word) in (0, ID_LENGTH):
            return self.get(word)
        for where in ("name = :word AND ended_us IS NULL", "name = :word", *_PARTS * bool(_PART.fullmatch(word))):
            found = self._db.all(
                f"SELECT id, team FROM job WHERE {where} AND {_VISIBLE} ORDER BY id DESC LIMIT 3", {"word": word}
            )
            if len({row["team"] for row in found}) > 1 or (len(found) > 1 and where in _PARTS):
                raise Conflict(
                    f"{word[:80]!r} means several jobs: {', '.join(row['id'] for row in found)}.",
                    hint="Give the id of one.",
                    field="job",
                )
            if found:
                return self.get(found[0]["id"])
        return self.get(word)

    def page(
        self,
        *,
        state: JobState | None = None,
        user: str | None = None,
        team: str | None = None,
        open_only: bool = False,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first, from below the id `after`."""
        states = [state] if state else [*WAITING, *ACTIVE] if open_only else []
        among = f"AND state IN ({','.join(f':s{at}' for at in range(len(states)))})" if states else ""
        rows = self._db.all(
            f"{_JOB_SQL} WHERE job.id < :after {among} AND (:user IS NULL OR user = :user)"
            f" AND (:team IS NULL OR team = :team) AND {_VISIBLE} ORDER BY job.id DESC LIMIT :limit",
            {"after": after or "~", "user": user, "team": team, "limit": limit}
            | {f"s{at}": each for at, each in enumerate(states)},
        )
        return [_job(row) for row in rows]

    def in_states(self, states: Sequence[JobState]) -> list[Job]:
        """All jobs in these states, oldest first."""
        places = ",".join("?" * len(states))
        return [_job(row) for row in self._db.all(f"{_JOB_SQL} WHERE state IN ({places}) ORDER BY job.id", states)]

    def some(self, job_ids: Collection[str]) -> list[Job]:
        """Those of these jobs that there are."""
        wanted = msgspec.json.encode(sorted(job_ids)).decode()
        return [
            _job(row) for row in self._db.all(f"{_JOB_SQL} WHERE job.id IN (SELECT value FROM json_each(?))", (wanted,))
        ]

    def of_another_epoch(self, jobs: Collection[Job], epoch: str) -> set[str]:
        """Those of these jobs, by id, whose last attempt was started in another epoch of the executor than this."""
        wanted = _json([[job.id, len(job.attempts)] for job in jobs])
        rows = self._db.all(
            "SELECT job_id FROM attempt WHERE epoch NOT IN ('', ?) AND (job_id, number) IN"
            " (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            (epoch, wanted),
        )
        return {row["job_id"] for row in rows}

    def without_logs(self, *, limit: int = 100) -> list[Job]:
        """The jobs whose logs were removed because they ended long ago, the last to end first."""
        rows = self._db.all(
            f"{_JOB_SQL} WHERE left_over = 'nothing' AND ended_us IS NOT NULL AND {_VISIBLE} ORDER BY ended_us DESC LIMIT ?",
            (limit,),
        )
        return [_job(row) for row in rows]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        rows = self._db.all(f"SELECT state, count(*) AS n FROM job WHERE {_VISIBLE} GROUP BY state")
        return dict.fromkeys(MOVES, 0) | {row["state"]: row["n"] for row in rows}

    def visible_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that whoever asks may know of."""
        places = ",".join("?" * len(job_ids))
        return {
            row["id"]
            for row in self._db.all(f"SELECT id FROM job WHERE id IN ({places}) AND {_VISIBLE}", list(job_ids))
        }

    def check_name(self, spec: JobSpec) -> None:
        """Raises AlreadyExists where another of the team's jobs has the name and has not ended."""
        _check_name(self._db.one, spec)

    # -- moving -----------------------------------------------------------------------------------------------------

    def add(self, job: Job) -> Job:
        """A new job, queued."""

        def write(tx: Tx) -> int:
            _check_name(tx.one, job.spec)
            tx.run(
                "INSERT INTO job (id, user, team, spec, state, created_us, run_id, reason) VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(job.id, job.user, job.spec.team, job.spec.to_json().decode()),
                    *(job.state, tx.now_us, job.run_id, job.reason),
                ),
            )
            tx.emit("job.submitted", f"job:{job.id}", job.user, name=job.spec.name, run=job.run_id)
            return tx.now_us

        return replace(job, created_at=from_us(self._db.write(write)))

    def begin_attempts(self, starts: Mapping[str, Grant]) -> list[Job]:
        """queued or preempted -> starting, with the row of a new attempt and what it is charged for; those that could.

        As the other moves of many jobs, they share one fsync; a job that is in another state by now, or gone, is left out.
        """

        def write(tx: Tx, job_id: str) -> Job:
            job, grant = _load(tx, job_id, *WAITING), starts[job_id]
            attempt = Attempt(
                number=len(job.attempts) + 1,
                started_at=from_us(tx.now_us),
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
                        _json(attempt.gpus),
                        _json(attempt.devices),
                        attempt.gpu_count,
                    ),
                    *(job.spec.cpus or 0.0, _json(attempt.yields_to), _json(attempt.ran_on), grant.epoch),
                ),
            )
            if job.promised:
                tx.run("UPDATE job SET promised = 0 WHERE id = ?", (job_id,))
            changed = replace(job, promised=False, attempts=(*job.attempts, attempt))
            return _move(tx, changed, "starting", "mlbox", f"attempt {attempt.number} starts")

        return self._each(starts, write)

    def started(self, numbers: Mapping[str, int | None]) -> list[Job]:
        """starting -> running; their attempts have these process ids. Any other state stays as it is."""

        def write(tx: Tx, job_id: str) -> Job:
            job = _load(tx, job_id, *MOVES)
            tx.run(
                "UPDATE attempt SET pid = ? WHERE job_id = ? AND number = ?",
                (numbers[job_id], job_id, len(job.attempts)),
            )
            job = _with_attempt(job, pid=numbers[job_id])
            return _move(tx, job, "running", "mlbox", "") if job.state == "starting" else job

        return self._each(numbers, write)

    def end_attempts(self, ends: Mapping[str, End]) -> list[Job]:
        """End the present attempts; each job ends with its own, or is queued for another try at a moment.

        A job that was asked to stop in the meantime is stopped, however its attempt ended. One that gives way to another is
        preempted, and waits to go on, unless it came to its own good end first.
        """

        def write(tx: Tx, job_id: str) -> Job:
            job = _load(tx, job_id, *ACTIVE)
            end = ends[job_id]
            outcome = outcome_of(job, end.state)
            tx.run(
                "UPDATE attempt SET ended_us = ?, exit_code = ?, reason = ?, outcome = ? WHERE job_id = ? AND number = ?",
                (tx.now_us, end.exit_code, end.reason, outcome, job_id, len(job.attempts)),
            )
            now = from_us(tx.now_us)
            job = _with_attempt(job, ended_at=now, exit_code=end.exit_code, reason=end.reason, outcome=outcome)
            if outcome == "preempted":
                tx.run("UPDATE job SET stop_cause = NULL WHERE id = ?", (job_id,))
                return _move(tx, replace(job, stop_cause=None), "preempted", "mlbox", job.reason)
            if outcome != "stopped" and end.retry_at is not None:
                tx.run("UPDATE job SET not_before_us = ? WHERE id = ?", (to_us(end.retry_at), job_id))
                return _move(tx, replace(job, not_before=end.retry_at), "queued", "mlbox", f"{end.reason}; tried again")
            tx.run("UPDATE job SET ended_us = ?, exit_code = ? WHERE id = ?", (tx.now_us, end.exit_code, job_id))
            job = replace(job, ended_at=now, exit_code=end.exit_code)
            return _move(tx, job, outcome, "mlbox", job.reason if outcome == "stopped" else end.reason)

        return self._each(ends, write)

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
                tx.run("UPDATE job SET ended_us = ?, stop_cause = ? WHERE id = ?", (tx.now_us, cause, job_id))
                _move(tx, job, "stopped", actor, reason or f"stopped by {actor} before it started")
            elif job.state in ("starting", "running"):
                tx.run("UPDATE job SET stop_cause = ?, stopping_us = ? WHERE id = ?", (cause, tx.now_us, job_id))
                tx.run("UPDATE job SET promised = 1 WHERE id = ? AND state IN ('queued', 'preempted')", (for_job,))
                _move(tx, job, "stopping", actor, said)
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
                tx.run("UPDATE job SET reason = ? WHERE id = ?", (f"diverges: {words}", job_id))
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
            _check_name(tx.one, job.spec)
            tx.run(
                "UPDATE job SET ended_us = NULL, exit_code = NULL, not_before_us = NULL, stop_cause = NULL, run_id = ?,"
                " left_over = 'all'"
                " WHERE id = ?",
                (run_id, job_id),
            )
            _move(tx, job, "queued", actor, f"retried by {actor}")

        self._db.write(write)
        return self.get(job_id)


def outcome_of(job: Job, state: JobState) -> JobState:
    """What an attempt that ended as `state` comes to, given what was asked of the job in the meantime."""
    if job.state != "stopping":
        return state
    if job.stop_cause != "preempted":
        return "stopped"
    return state if state == "succeeded" else "preempted"


def _check_name(one: Callable[..., Row | None], spec: JobSpec) -> None:
    if not spec.name:
        return
    found = one("SELECT id, state FROM job WHERE team = ? AND name = ? AND ended_us IS NULL", (spec.team, spec.name))
    if found is not None:
        raise AlreadyExists(
            f"The job {found['id']} of {spec.team} is called {spec.name!r} and is {found['state']}.",
            hint="Give another name, or stop that one.",
            field="name",
        )


def _load(tx: Tx, job_id: str, *expected: JobState) -> Job:
    row = tx.one(f"{_JOB_SQL} WHERE job.id = ?", (job_id,))
    if row is None:
        raise NotFound(f"There is no job {job_id[:80]!r}.", hint="`mlbox ps` lists them.", field="job")
    job = _job(row)
    if job.state not in expected and job.state in ENDED:
        raise Conflict(f"The job has ended: it {job_notices.WORDS[job.state]}.", hint="`mlbox retry` runs it again.")
    if job.state not in expected:
        raise Conflict(f"The job is {job.state}, and this takes {' or '.join(expected)}.", hint="`mlbox ps` shows it.")
    return job


def _move(tx: Tx, job: Job, state: JobState, actor: str, reason: str) -> Job:
    """Take a job to another state; as it is then."""
    assert state in MOVES[job.state], (job.state, state)
    waits = state in WAITING
    tx.run(
        "UPDATE job SET state = ?, reason = ?, queued_us = iif(?, ?, queued_us) WHERE id = ?",
        (state, reason, waits, tx.now_us, job.id),
    )
    tx.emit(f"job.{state}", f"job:{job.id}", actor, name=job.spec.name, reason=reason)
    job_notices.tell(tx, job, state, reason)
    return replace(job, state=state, reason=reason, queued_at=from_us(tx.now_us) if waits else job.queued_at)


def _with_attempt(job: Job, **changes: Any) -> Job:
    """A job whose present attempt is another one."""
    return replace(job, attempts=(*job.attempts[:-1], replace(job.attempts[-1], **changes)))


def _job(row: Row) -> Job:
    return Job(
        id=row["id"],
        user=row["user"],
        spec=msgspec.json.decode(row["spec"], type=JobSpec),
        state=row["state"],
        created_at=from_us(row["created_us"]),
        run_id=row["run_id"],
        ended_at=_moment(row["ended_us"]),
        exit_code=row["exit_code"],
        reason=row["reason"],
        not_before=_moment(row["not_before_us"]),
        queued_at=_moment(row["queued_us"]),
        promised=bool(row["promised"]),
        stop_cause=row["stop_cause"],
        stopping_at=_moment(row["stopping_us"]),
        attempts=tuple(
            Attempt(
                number=a["number"],
                started_at=from_us(a["started_us"]),
                ended_at=_moment(a["ended_us"]),
                exit_code=a["exit_code"],
                pid=a["pid"],
                gpus=tuple(a["gpus"]),
                devices=tuple(a["devices"]),
                gpu_count=a["gpu_count"],
                yields_to=tuple(a["yields_to"]),
                outcome=a["outcome"],
                reason=a["reason"],
                ran_on=a["ran_on"],
            )
            for a in msgspec.json.decode(row["attempts"])
        ),
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _moment(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
