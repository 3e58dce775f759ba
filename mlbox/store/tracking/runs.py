"""Runs: in which experiment each is, who began it, what it reads, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, get_args

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.outcomes import each
from mlbox.records import (
    MAX_KEY,
    DatasetInput,
    Experiment,
    Run,
    RunStatus,
)
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database, Row, Tx
from mlbox.store.tracking import series
from mlbox.store.tracking.experiments import Experiments, check_experiment_name
from mlbox.store.tracking.run_inputs import versions_among, write_input

MAX_VALUE = 6000
MAX_TAG = 8000
RUN_ID = re.compile("[0-9a-f]{32}")
ENDED: tuple[RunStatus, ...] = ("FINISHED", "FAILED", "KILLED")

_RUN_SQL = """
SELECT run.*,
  (SELECT json_group_object(key, value) FROM param WHERE run_id = run.id) AS params,
  (SELECT json_group_object(key, value) FROM tag WHERE run_id = run.id) AS tags,
  (SELECT json_group_array(name) FROM run_dataset JOIN dataset ON dataset.id = run_dataset.dataset
    WHERE run_id = run.id) AS reads
FROM run
"""
_READING = (
    "SELECT id FROM run WHERE dataset = ? UNION SELECT run_id FROM run_dataset JOIN dataset"
    " ON dataset.id = run_dataset.dataset WHERE dataset.name = ?"
)
_EXPERIMENT = "(SELECT name FROM experiment WHERE experiment.id = run.experiment_id)"
_MOVE_RUN = (
    "UPDATE run SET status = ?, ended_us = ? WHERE id = ? AND status <> ?"
    f" AND status NOT IN ({', '.join(map(repr, ENDED))}) RETURNING user"
)
_VISIBLE = f"visible('experiment', {_EXPERIMENT})"
"""A run is as private as its experiment."""


class NewRun(NamedTuple):
    """A run that is to begin. With the id of a run of its user it is that run.

    Of the dataset versions that it reads the first is what its models are said to be trained on.
    """

    experiment: str
    user: str
    name: str = ""
    job_id: str | None = None
    datasets: Sequence[str] = ()
    git_commit: str | None = None
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    status: RunStatus = "RUNNING"
    run_id: str | None = None
    started: datetime | None = None


class Runs:
    """Runs and their states."""

    VISIBLE = _VISIBLE

    def __init__(self, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock
        self.groups = Experiments(db)
        self.input_of: Callable[[str], DatasetInput | None] = lambda ref: None
        """A dataset version as the data of a run."""

    # -- experiments ------------------------------------------------------------------------------------------------

    def experiment(self, name: str, *, actor: str) -> Experiment:
        """The experiment of this name, made if it is new."""
        return self.groups.get_or_create(name, actor=actor)

    def experiments(self) -> list[Experiment]:
        """All experiments that are not deleted, by name."""
        return self.groups.all()

    def experiment_of(self, run_id: str) -> str:
        """The name of a run's experiment, whose team owns the run; raises NotFound."""
        row = self._db.one(f"SELECT {_EXPERIMENT} AS name FROM run WHERE run.id = ? AND {_VISIBLE}", (run_id,))
        if row is None:
            raise _no_run(run_id)
        name: str = row["name"]
        return name

    def visible_runs(self, run_ids: Collection[str]) -> set[str]:
        """Those of these runs that whoever asks may know of."""
        places = ",".join("?" * len(run_ids))
        rows = self._db.all(f"SELECT id FROM run WHERE id IN ({places}) AND {_VISIBLE}", list(run_ids))
        return {row["id"] for row in rows}

    # -- runs -------------------------------------------------------------------------------------------------------

    def start_run(self, **given: Any) -> Run:
        """Begin a run in an experiment, which is made if it is new; as `NewRun`."""
        return self.run(self._db.write(self._beginning(NewRun(**given))))

    def begin_runs(self, runs: Sequence[NewRun | Exception]) -> list[str | Exception]:
        """The same of many runs with one fsync: the id of each, or why it was not begun."""
        return self._db.write_each(each(self._beginning, runs))

    def _beginning(self, new: NewRun) -> Callable[[Tx], str]:
        check_experiment_name(new.experiment)
        if new.datasets:
            parts = [("dataset", ref.partition("@")[0]) for ref in new.datasets]
            self._db.privacy.shelter("experiment", new.experiment, parts)
        read = [data for ref in new.datasets if (data := self.input_of(ref)) is not None]
        dataset = new.datasets[0] if new.datasets else None
        check_pairs(new.params, "params")
        check_pairs(new.tags, "tags", most=MAX_TAG)
        check_text(new.name, MAX_KEY, "name")
        check_text(new.git_commit or "", MAX_KEY, "git_commit")
        run_id = new_id() if new.run_id is None else _check_id(new.run_id)
        begun = None if new.started is None else to_us(new.started)

        def write(tx: Tx) -> str:
            group = self.groups.id_within(tx, new.experiment, actor=new.user)
            if new.run_id is not None and _is_there(tx, run_id, user=new.user, group=group):
                return run_id
            plain = (new.job_id, dataset, new.git_commit)
            tx.run(
                "INSERT INTO run (id, experiment_id, name, user, status, started_us, job_id, dataset, git_commit)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (run_id, group, new.name, new.user, new.status, begun or tx.now_us, *plain),
            )
            _write_pairs(tx, run_id, new)
            for data in read:
                write_input(tx, run_id, group, data)
            about = {"experiment": new.experiment, "job": new.job_id, "dataset": dataset}
            tx.emit("run.started", f"run:{run_id}", new.user, **about)
            return run_id

        return write

    def run(self, run_id: str) -> Run:
        """One run; raises NotFound."""
        row = self._db.one(f"{_RUN_SQL} WHERE run.id = ? AND {_VISIBLE}", (run_id,))
        if row is None:
            raise _no_run(run_id)
        return self._with_metrics([row])[0]

    def runs(self, *, experiment: str | None = None, limit: int = 100, after: str | None = None) -> list[Run]:
        """Runs, or an experiment's, newest first, from below the id `after`."""
        # Only without an OR does SQLite walk the experiment's own index instead of all runs.
        among = "experiment_id = (SELECT id FROM experiment WHERE name = :name) AND" if experiment is not None else ""
        rows = self._db.all(
            f"{_RUN_SQL} WHERE {among} run.id < :after AND run.deleted_us IS NULL AND {_VISIBLE}"
            " ORDER BY run.id DESC LIMIT :limit",
            {"after": after or "~", "name": experiment, "limit": limit},
        )
        return self._with_metrics(rows)

    def reading(self, ref: str, *, limit: int = 100) -> list[Run]:
        """Runs that read a dataset version, newest first."""
        rows = self._db.all(
            f"{_RUN_SQL} WHERE run.id IN ({_READING}) AND run.deleted_us IS NULL AND {_VISIBLE} ORDER BY run.id DESC LIMIT ?",
            (ref, ref, limit),
        )
        return self._with_metrics(rows)

    def ids_reading(self, ref: str) -> list[str]:
        """The ids of all runs that read a dataset version, whoever may see them."""
        return [row["id"] for row in self._db.all(_READING, (ref, ref))]

    def by_ids(self, run_ids: Sequence[str]) -> list[Run]:
        """These runs, in this order."""
        rows: dict[str, Row] = {}
        for start in range(0, len(run_ids), 500):
            ids = run_ids[start : start + 500]
            for row in self._db.all(f"{_RUN_SQL} WHERE run.id IN ({','.join('?' * len(ids))}) AND {_VISIBLE}", ids):
                rows[row["id"]] = row
        return self._with_metrics([rows[run_id] for run_id in run_ids if run_id in rows])

    def these(self, run_ids: Sequence[str]) -> list[Run]:
        """All of these runs, in this order; raises NotFound for the first that there is not."""
        found = self.by_ids(run_ids)
        known = {run.id for run in found}
        for run_id in run_ids:
            if run_id not in known:
                raise _no_run(run_id)
        return found

    def select(self, sql: str, values: Sequence[Any]) -> list[Row]:
        """Rows of a compiled search (see `runsearch`)."""
        return self._db.all(sql, values)

    def _with_metrics(self, rows: Sequence[Row]) -> list[Run]:
        """The runs of these rows, with the last value of each metric (not as JSON, which has no infinity)."""
        last = series.last_of(self._db, [row["id"] for row in rows])
        return [_run(row, last[row["id"]]) for row in rows]

    def change(
        self, run_id: str, *, status: RunStatus | None = None, ended: datetime | None = None, name: str | None = None
    ) -> Run:
        """Another status, end or name, also of a run that ended and is taken up again. A job's run ends with its job."""
        check_text(name or "", MAX_KEY, "run_name")

        def write(tx: Tx) -> None:
            row = require_run(tx, run_id)
            if name is not None:
                tx.run("UPDATE run SET name = ? WHERE id = ?", (name, run_id))
            if status is None or row["job_id"] is not None:
                return
            at = None if status not in ENDED else tx.now_us if ended is None else to_us(ended)
            tx.run("UPDATE run SET status = ?, ended_us = ? WHERE id = ?", (status, at, run_id))
            if row["status"] != status:
                tx.emit(f"run.{status.lower()}", f"run:{run_id}", row["user"])

        self._db.write(write)
        return self.run(run_id)

    def delete(self, run_id: str, *, actor: str) -> None:
        """Delete a run softly; one that is deleted stays so."""

        def write(tx: Tx) -> None:
            row = _row_of(tx, run_id)
            if row["deleted_us"] is None:
                tx.run("UPDATE run SET deleted_us = ? WHERE id = ?", (tx.now_us, run_id))
                tx.emit("run.deleted", f"run:{run_id}", actor)

        self._db.write(write)

    def restore(self, run_id: str, *, actor: str) -> None:
        """Take a deletion back."""

        def write(tx: Tx) -> None:
            row = _row_of(tx, run_id)
            if row["deleted_us"] == 0:
                raise Conflict("The run is being removed for good.", hint="It is too late.", field="run_id")
            if row["deleted_us"] is not None:
                tx.run("UPDATE run SET deleted_us = NULL WHERE id = ?", (run_id,))
                tx.emit("run.restored", f"run:{run_id}", actor)

        self._db.write(write)

    def set_status(self, run_id: str, status: RunStatus) -> Run:
        """Move a run that has not ended; raises Conflict for one that ended otherwise."""
        self._db.write(self._to_status(run_id, status))
        return self.run(run_id)

    def set_statuses(self, statuses: Mapping[str, RunStatus]) -> None:
        """The same of many runs with one fsync; one that is gone, or was ended by hand, is left as it is."""
        moves = [self._to_status(*item) for item in statuses.items()]
        for error in self._db.write_each(moves):
            if error is not None and not isinstance(error, Conflict | NotFound):
                raise error

    def _to_status(self, run_id: str, status: RunStatus) -> Callable[[Tx], None]:
        if status not in get_args(RunStatus):
            raise InvalidInput(
                f"{status!r} is no run status.", hint=f"One of {', '.join(get_args(RunStatus))}.", field="status"
            )

        def write(tx: Tx) -> None:
            ended = tx.now_us if status in ENDED else None
            moved = tx.one(_MOVE_RUN, (status, ended, run_id, status))
            if moved is not None:
                tx.emit(f"run.{status.lower()}", f"run:{run_id}", moved["user"])
                return
            now = _row_of(tx, run_id)["status"]
            if now != status:
                raise Conflict(
                    f"The run ended as {now} and cannot become {status}.", hint="Start another run.", field="status"
                )

        return write

    def end_run(self, run_id: str, status: RunStatus) -> Run:
        """End a run as FINISHED, FAILED or KILLED."""
        if status not in ENDED:
            raise InvalidInput(f"A run does not end as {status!r}.", hint=f"One of {', '.join(ENDED)}.", field="status")
        return self.set_status(run_id, status)


def _is_there(tx: Tx, run_id: str, *, user: str, group: str) -> bool:
    known = tx.one("SELECT user, experiment_id FROM run WHERE id = ?", (run_id,))
    if known is not None and (known["user"], known["experiment_id"]) != (user, group):
        raise Conflict("The run's id is taken.", hint="Leave it out.", field="id")
    return known is not None


def _write_pairs(tx: Tx, run_id: str, new: NewRun) -> None:
    for table, pairs in (("param", new.params), ("tag", new.tags)):
        if pairs:
            tx.many(f"INSERT INTO {table} VALUES (?,?,?)", [(run_id, k, v) for k, v in pairs.items()])


def _check_id(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise InvalidInput(f"{run_id[:80]!r} is no id of a run.", hint="32 hexadecimal digits.", field="id")
    return run_id


def _no_run(run_id: str) -> NotFound:
    return NotFound(f"There is no run {run_id[:80]!r}.", hint="`mlbox run ls` lists them.", field="run")


def _row_of(tx: Tx, run_id: str) -> Row:
    row = tx.one("SELECT * FROM run WHERE id = ?", (run_id,))
    if row is None:
        raise _no_run(run_id)
    return row


def require_run(tx: Tx, run_id: str) -> Row:
    """The row of a run that is not deleted; raises NotFound, or InvalidInput."""
    row = _row_of(tx, run_id)
    if row["deleted_us"] is not None:
        raise InvalidInput(
            f"The run {run_id} must be in the 'active' state. Current state is deleted.",
            hint="Restore it first.",
            field="run_id",
        )
    return row


def check_pairs(pairs: Mapping[str, Any], field: str, *, most: int = MAX_VALUE) -> None:
    """Raise InvalidInput for a name or a value that is too long."""
    for key, value in pairs.items():
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidInput(f"A name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field=field)
        if len(value) > most:
            raise InvalidInput(
                f"{key!r} has {len(value)} characters.", hint=f"Use at most {most}.", field=f"{field}.{key}"
            )


def check_text(text: str, most: int, field: str) -> None:
    """Raise InvalidInput for a text that is too long."""
    if len(text) > most:
        raise InvalidInput(f"The {field} has {len(text):,} characters.", hint=f"Use at most {most}.", field=field)


def _run(row: Row, last: Mapping[str, series.Last]) -> Run:
    plain = ("id", "experiment_id", "name", "user", "status", "job_id", "dataset", "git_commit")
    return Run(
        **{name: row[name] for name in plain},
        started_at=from_us(row["started_us"]),
        ended_at=_moment(row["ended_us"]),
        deleted_at=_moment(row["deleted_us"]),
        params=msgspec.json.decode(row["params"]),
        tags=msgspec.json.decode(row["tags"]),
        datasets=versions_among([row["dataset"], *msgspec.json.decode(row["reads"])]),
        metrics={key: one.metric for key, one in last.items()},
        extremes={key: one.extremes for key, one in last.items() if one.extremes is not None},
    )


def _moment(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)
