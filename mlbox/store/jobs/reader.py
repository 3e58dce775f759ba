"""Jobs, looked up: one by whatever names it, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from mlbox.errors import AlreadyExists, Conflict, NotFound, suggest
from mlbox.records import Job, JobSpec, JobState
from mlbox.store.db import Database, Row
from mlbox.store.jobs.rows import JOB_SQL, job_of, to_json
from mlbox.store.jobs.states import ACTIVE, MOVES, WAITING

ID_LENGTH = 32
_PART = re.compile(r"[0-9a-f]{4,}")
_PARTS = ("id LIKE :word || '%'", "id LIKE '%' || :word")
_VISIBLE = "visible('team', team)"
"""Only a team knows its jobs; others see in the queue that there is one."""


class JobReader:
    """What is asked of jobs; nothing is written."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, job_id: str) -> Job:
        """One job; raises NotFound."""
        row = self._db.one(f"{JOB_SQL} WHERE job.id = ? AND {_VISIBLE}", (job_id,))
        if row is None:
            raise NotFound(f"There is no job {job_id[:80]!r}.", hint="`mlbox ps` lists them.", field="job")
        return job_of(row)

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
        raise self._no_job(word)

    def _no_job(self, word: str) -> NotFound:
        """Its hint names the newest jobs whose names come close."""
        rows = self._db.all(f"SELECT name FROM job WHERE {_VISIBLE} ORDER BY id DESC LIMIT 1000")
        hint = suggest(word, {row["name"] for row in rows if row["name"]}, otherwise="`mlbox ps --all` lists them.")
        return NotFound(f"There is no job {word[:80]!r}.", hint=hint, field="job")

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
            f"{JOB_SQL} WHERE job.id < :after {among} AND (:user IS NULL OR user = :user)"
            f" AND (:team IS NULL OR team = :team) AND {_VISIBLE} ORDER BY job.id DESC LIMIT :limit",
            {"after": after or "~", "user": user, "team": team, "limit": limit}
            | {f"s{at}": each for at, each in enumerate(states)},
        )
        return [job_of(row) for row in rows]

    def in_states(self, states: Sequence[JobState]) -> list[Job]:
        """All jobs in these states, oldest first."""
        places = ",".join("?" * len(states))
        return [job_of(row) for row in self._db.all(f"{JOB_SQL} WHERE state IN ({places}) ORDER BY job.id", states)]

    def open_jobs(self, *, limit: int, after: int = 0) -> dict[int, Job]:
        """Jobs that have not ended, oldest first, by their place, from behind the place `after`."""
        states = ",".join(f"'{state}'" for state in (*WAITING, *ACTIVE))
        rows = self._db.all(
            f"SELECT rowid, id FROM job INDEXED BY job_state WHERE state IN ({states}) AND rowid > ? ORDER BY rowid LIMIT ?",
            (after, limit),
        )
        jobs = {job.id: job for job in self.some([row["id"] for row in rows])}
        return {row["rowid"]: jobs[row["id"]] for row in rows if row["id"] in jobs}

    def visible_teams(self, teams: Collection[str]) -> set[str]:
        """Those of these teams whose jobs whoever asks may know of."""
        rows = self._db.all("SELECT value FROM json_each(?) WHERE visible('team', value)", (to_json(sorted(teams)),))
        return {row["value"] for row in rows}

    def some(self, job_ids: Collection[str]) -> list[Job]:
        """Those of these jobs that there are."""
        rows = self._db.all(f"{JOB_SQL} WHERE job.id IN (SELECT value FROM json_each(?))", (to_json(sorted(job_ids)),))
        return [job_of(row) for row in rows]

    def of_another_epoch(self, jobs: Collection[Job], epoch: str) -> set[str]:
        """Those of these jobs, by id, whose last attempt was started in another epoch of the executor than this."""
        wanted = to_json([[job.id, len(job.attempts)] for job in jobs])
        rows = self._db.all(
            "SELECT job_id FROM attempt WHERE epoch NOT IN ('', ?) AND (job_id, number) IN"
            " (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            (epoch, wanted),
        )
        return {row["job_id"] for row in rows}

    def without_logs(self, *, limit: int = 100) -> list[Job]:
        """The jobs whose logs were removed because they ended long ago, the last to end first."""
        rows = self._db.all(
            f"{JOB_SQL} WHERE left_over = 'nothing' AND ended_us IS NOT NULL AND {_VISIBLE} ORDER BY ended_us DESC LIMIT ?",
            (limit,),
        )
        return [job_of(row) for row in rows]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        rows = self._db.all(f"SELECT state, count(*) AS n FROM job WHERE {_VISIBLE} GROUP BY state")
        return dict.fromkeys(MOVES, 0) | {row["state"]: row["n"] for row in rows}

    def visible_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Those of these jobs that whoever asks may know of."""
        return set(self.visible_names(job_ids))

    def visible_names(self, job_ids: Collection[str]) -> dict[str, str]:
        """The names, empty where there is none, of those of these jobs that whoever asks may know of."""
        wanted = to_json(sorted(job_ids))  # in one value: there may be more of them than an SQL statement takes
        rows = self._db.all(
            f"SELECT id, name FROM job WHERE id IN (SELECT value FROM json_each(?)) AND {_VISIBLE}", (wanted,)
        )
        return {row["id"]: row["name"] or "" for row in rows}

    def check_name(self, spec: JobSpec) -> None:
        """Raises AlreadyExists where another of the team's jobs has the name and has not ended."""
        check_free(self._db.one, spec)


def check_free(one: Callable[..., Row | None], spec: JobSpec) -> None:
    """Raises AlreadyExists where another of the team's jobs has the name and has not ended."""
    if not spec.name:
        return
    found = one("SELECT id, state FROM job WHERE team = ? AND name = ? AND ended_us IS NULL", (spec.team, spec.name))
    if found is not None:
        raise AlreadyExists(
            f"The job {found['id']} of {spec.team} is called {spec.name!r} and is {found['state']}.",
            hint="Give another name, or stop that one.",
            field="name",
        )
