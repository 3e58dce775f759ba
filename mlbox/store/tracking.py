"""The tracker: experiments, runs, parameters, metrics, artifacts.

A parameter is written once; a metric is a series of points, of which the same one sent twice counts once, so that a client
may send again after a broken connection; tags are overwritten. A run that ended takes late metrics, and never another end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import MAX_KEY, MAX_STEP, Experiment, Metric, Run, RunArtifact, RunStatus, check_name, check_point
from mlbox.store.artifacts import Artifacts, check_path
from mlbox.store.db import Database, Row, Tx

MAX_METRICS = 1000
MAX_VALUE = 6000
ENDED: tuple[RunStatus, ...] = ("FINISHED", "FAILED", "KILLED")

_RUN_SQL = """
SELECT run.*,
  (SELECT json_group_object(key, value) FROM param WHERE run_id = run.id) AS params,
  (SELECT json_group_object(key, value) FROM tag WHERE run_id = run.id) AS tags
FROM run
"""


class Tracker:
    """Everything that runs record."""

    def __init__(self, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock

    # -- experiments ------------------------------------------------------------------------------------------------

    def experiment(self, name: str, *, actor: str) -> Experiment:
        """The experiment of this name, made if it is new."""
        check_name(name, field="experiment")
        found = self._db.one("SELECT * FROM experiment WHERE name = ?", (name,))
        if found is None:
            found = self._db.write(lambda tx: _get_or_create(tx, name, actor))
        return _experiment(found)

    def experiments(self) -> list[Experiment]:
        """All experiments, by name."""
        return [_experiment(row) for row in self._db.all("SELECT * FROM experiment ORDER BY name")]

    # -- runs -------------------------------------------------------------------------------------------------------

    def start_run(
        self,
        *,
        experiment: str,
        user: str,
        name: str = "",
        job_id: str | None = None,
        dataset: str | None = None,
        git_commit: str | None = None,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
        status: RunStatus = "RUNNING",
    ) -> Run:
        """Begin a run in an experiment, which is made if it is new."""
        group = self.experiment(experiment, actor=user)
        _check_pairs(params, "params")
        _check_pairs(tags, "tags")
        _check_text(name, MAX_KEY, "name")
        _check_text(git_commit or "", MAX_KEY, "git_commit")
        run_id = new_id()

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO run (id, experiment_id, name, user, status, started_us, job_id, dataset, git_commit)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (run_id, group.id, name, user, status, tx.now_us, job_id, dataset, git_commit),
            )
            tx.many("INSERT INTO param VALUES (?,?,?)", [(run_id, k, v) for k, v in params.items()])
            tx.many("INSERT INTO tag VALUES (?,?,?)", [(run_id, k, v) for k, v in tags.items()])
            tx.emit("run.started", f"run:{run_id}", user, experiment=experiment, job=job_id, dataset=dataset)

        self._db.write(write)
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        """One run; raises NotFound."""
        row = self._db.one(f"{_RUN_SQL} WHERE run.id = ?", (run_id,))
        if row is None:
            raise NotFound(f"There is no run {run_id[:80]!r}.", hint="`mlbox run ls` lists them.", field="run")
        return self._with_metrics([row])[0]

    def runs(self, *, experiment: str | None = None, limit: int = 100, after: str | None = None) -> list[Run]:
        """Runs, or an experiment's, newest first, from below the id `after`."""
        # Only without an OR does SQLite walk the experiment's own index instead of all runs.
        among = "experiment_id = (SELECT id FROM experiment WHERE name = :name) AND" if experiment is not None else ""
        rows = self._db.all(
            f"{_RUN_SQL} WHERE {among} run.id < :after ORDER BY run.id DESC LIMIT :limit",
            {"after": after or "~", "name": experiment, "limit": limit},
        )
        return self._with_metrics(rows)

    def _with_metrics(self, rows: Sequence[Row]) -> list[Run]:
        """The runs of these rows, with the last value of each metric (not as JSON, which has no infinity)."""
        last: dict[str, dict[str, Metric]] = {row["id"]: {} for row in rows}
        places = ",".join("?" * len(last))
        for m in self._db.all(f"SELECT * FROM last_metric WHERE run_id IN ({places}) ORDER BY key", list(last)):
            last[m["run_id"]][m["key"]] = _metric(m["key"], m["value"], m["step"], m["at_us"])
        return [_run(row, last[row["id"]]) for row in rows]

    def set_status(self, run_id: str, status: RunStatus) -> Run:
        """Move a run that has not ended; raises Conflict for one that ended otherwise."""
        if status not in get_args(RunStatus):
            raise InvalidInput(
                f"{status!r} is no run status.", hint=f"One of {', '.join(get_args(RunStatus))}.", field="status"
            )

        def write(tx: Tx) -> None:
            row = _require_run(tx, run_id)
            if row["status"] == status:
                return
            if row["status"] in ENDED:
                raise Conflict(
                    f"The run ended as {row['status']} and cannot become {status}.",
                    hint="Start another run.",
                    field="status",
                )
            ended = tx.now_us if status in ENDED else None
            tx.run("UPDATE run SET status = ?, ended_us = ? WHERE id = ?", (status, ended, run_id))
            tx.emit(f"run.{status.lower()}", f"run:{run_id}", row["user"])

        self._db.write(write)
        return self.run(run_id)

    def end_run(self, run_id: str, status: RunStatus) -> Run:
        """End a run as FINISHED, FAILED or KILLED."""
        if status not in ENDED:
            raise InvalidInput(f"A run does not end as {status!r}.", hint=f"One of {', '.join(ENDED)}.", field="status")
        return self.set_status(run_id, status)

    # -- what runs log ----------------------------------------------------------------------------------------------

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
    ) -> None:
        """Add points, parameters and tags, all or none; raises Conflict for a parameter that has another value."""
        if len(metrics) > MAX_METRICS:
            raise InvalidInput(
                f"{len(metrics)} metrics in one batch.", hint=f"Send {MAX_METRICS} at a time.", field="metrics"
            )
        for metric in metrics:
            check_point(metric.key, metric.step)
        _check_pairs(params, "params")
        _check_pairs(tags, "tags")
        points = [(run_id, m.key, m.step, to_us(m.at), _stored(m.value)) for m in metrics]

        def write(tx: Tx) -> None:
            _require_run(tx, run_id)
            _write_params(tx, run_id, params)
            tx.many("INSERT OR REPLACE INTO tag VALUES (?,?,?)", [(run_id, k, v) for k, v in tags.items()])
            tx.many("INSERT OR IGNORE INTO metric VALUES (?,?,?,?,?)", points)
            tx.many(
                "INSERT INTO last_metric VALUES (?,?,?,?,?) ON CONFLICT (run_id, key) DO UPDATE"
                " SET step = excluded.step, at_us = excluded.at_us, value = excluded.value"
                " WHERE (excluded.step, excluded.at_us) >= (last_metric.step, last_metric.at_us)",
                points,
            )

        self._db.write(write)

    def history(self, run_id: str, key: str, *, limit: int | None = None, after: Metric | None = None) -> list[Metric]:
        """A metric's points, by step and time: all, or at most `limit` from above the point `after`."""
        self.run(run_id)
        last = (after.step, to_us(after.at), _sortable(after.value)) if after else (-MAX_STEP - 1, 0, 0)
        rows = self._db.all(
            "SELECT value, step, at_us FROM metric WHERE run_id = ? AND key = ?"
            " AND (step, at_us, coalesce(value, 'nan')) > (?, ?, ?)"
            " ORDER BY step, at_us, coalesce(value, 'nan') LIMIT ?",
            (run_id, key, *last, -1 if limit is None else limit),
        )
        return [_metric(key, row["value"], row["step"], row["at_us"]) for row in rows]

    # -- artifacts --------------------------------------------------------------------------------------------------

    def add_artifact(self, run_id: str, path: str, sha256: str, size: int) -> RunArtifact:
        """Name a kept file as one of the run's; a path given again takes the new file."""
        plain = check_path(path)

        def write(tx: Tx) -> None:
            row = _require_run(tx, run_id)
            tx.run("INSERT OR REPLACE INTO artifact VALUES (?,?,?,?,?)", (run_id, plain, sha256, size, tx.now_us))
            tx.emit("run.artifact", f"run:{run_id}", row["user"], path=plain, sha256=sha256, size=size)

        self._db.write(write)
        return RunArtifact(path=plain, sha256=sha256, size=size)

    def artifacts_of(self, run_id: str) -> list[RunArtifact]:
        """A run's files, by path."""
        self.run(run_id)
        rows = self._db.all("SELECT path, sha256, size FROM artifact WHERE run_id = ? ORDER BY path", (run_id,))
        return [RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in rows]

    def artifact(self, run_id: str, path: str) -> RunArtifact:
        """One file of a run; raises NotFound."""
        row = self._db.one("SELECT path, sha256, size FROM artifact WHERE run_id = ? AND path = ?", (run_id, path))
        if row is None:
            self.run(run_id)
            raise NotFound(f"The run has no artifact {path[:200]!r}.", hint="Log it first.", field="artifact")
        return RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"])


def _get_or_create(tx: Tx, name: str, actor: str) -> Row:
    row = tx.one("SELECT * FROM experiment WHERE name = ?", (name,))
    if row is None:
        tx.run("INSERT INTO experiment VALUES (?,?,?)", (new_id(), name, tx.now_us))
        tx.emit("experiment.created", f"experiment:{name}", actor)
        row = tx.one("SELECT * FROM experiment WHERE name = ?", (name,))
    assert row is not None
    return row


def _require_run(tx: Tx, run_id: str) -> Row:
    row = tx.one("SELECT status, user FROM run WHERE id = ?", (run_id,))
    if row is None:
        raise NotFound(f"There is no run {run_id[:80]!r}.", hint="`mlbox run ls` lists them.", field="run")
    return row


def _write_params(tx: Tx, run_id: str, params: Mapping[str, str]) -> None:
    for key, value in params.items():
        row = tx.one("SELECT value FROM param WHERE run_id = ? AND key = ?", (run_id, key))
        if row is None:
            tx.run("INSERT INTO param VALUES (?,?,?)", (run_id, key, value))
        elif row["value"] != value:
            raise Conflict(
                f"The parameter {key!r} is {row['value'][:80]!r} already and cannot become {value[:80]!r}.",
                hint="A run's parameters are written once: start another run.",
                field=f"params.{key}",
            )


def _check_pairs(pairs: Mapping[str, Any], field: str) -> None:
    for key, value in pairs.items():
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidInput(f"A name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field=field)
        if len(value) > MAX_VALUE:
            raise InvalidInput(
                f"{key!r} has {len(value)} characters.", hint=f"Use at most {MAX_VALUE}.", field=f"{field}.{key}"
            )


def _check_text(text: str, most: int, field: str) -> None:
    if len(text) > most:
        raise InvalidInput(f"The {field} has {len(text):,} characters.", hint=f"Use at most {most}.", field=field)


def _experiment(row: Row) -> Experiment:
    return Experiment(id=row["id"], name=row["name"], created_at=from_us(row["created_us"]))


def _stored(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _sortable(value: float | None) -> float | str:
    """A value as the index of points has it."""
    stored = _stored(value)
    return "nan" if stored is None else stored


def _metric(key: str, value: float | None, step: int, at_us: int) -> Metric:
    return Metric(key=key, value=math.nan if value is None else value, step=step, at=from_us(at_us))


def _run(row: Row, metrics: dict[str, Metric]) -> Run:
    plain = ("id", "experiment_id", "name", "user", "status", "job_id", "dataset", "git_commit")
    return Run(
        **{name: row[name] for name in plain},
        started_at=from_us(row["started_us"]),
        ended_at=from_us(row["ended_us"]) if row["ended_us"] is not None else None,
        params=msgspec.json.decode(row["params"]),
        tags=msgspec.json.decode(row["tags"]),
        metrics=metrics,
    )
