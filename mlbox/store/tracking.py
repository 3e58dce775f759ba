"""The tracker: experiments, runs, parameters, metrics, artifacts.

A parameter is written once; a metric is a series of points, of which the same one sent twice counts once, so that a client
may send again after a broken connection; tags are overwritten. A run that ended takes late metrics, and never another end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, get_args

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import (
    MAX_KEY,
    DatasetInput,
    Experiment,
    Metric,
    Run,
    RunArtifact,
    RunModel,
    RunStatus,
    check_point,
)
from mlbox.store import series
from mlbox.store.artifacts import Artifacts, check_path
from mlbox.store.db import Database, Row, Tx
from mlbox.store.experiments import Experiments
from mlbox.store.run_inputs import read_input, versions_among, write_input

MAX_METRICS = 1000
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
_VISIBLE = f"visible('experiment', {_EXPERIMENT})"
"""A run is as private as its experiment."""


class Tracker:
    """Everything that runs record."""

    VISIBLE = _VISIBLE

    def __init__(self, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock
        self.groups = Experiments(db)
        self.observe: Callable[[str, Sequence[Metric]], None] = lambda run_id, metrics: None
        """Told of points as they are written, in the writer's thread: it must return at once."""
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

    def start_run(
        self,
        *,
        experiment: str,
        user: str,
        name: str = "",
        job_id: str | None = None,
        datasets: Sequence[str] = (),
        git_commit: str | None = None,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
        status: RunStatus = "RUNNING",
        run_id: str | None = None,
        started: datetime | None = None,
    ) -> Run:
        """Begin a run in an experiment, which is made if it is new. With the id of a run that its user began, it is that run.

        Of the dataset versions that it reads the first is what its models are said to be trained on.
        """
        group = self.experiment(experiment, actor=user)
        if datasets:
            self._db.privacy.shelter("experiment", experiment, [("dataset", ref.partition("@")[0]) for ref in datasets])
        read = [data for ref in datasets if (data := self.input_of(ref)) is not None]
        dataset = datasets[0] if datasets else None
        _check_pairs(params, "params")
        _check_pairs(tags, "tags", most=MAX_TAG)
        _check_text(name, MAX_KEY, "name")
        _check_text(git_commit or "", MAX_KEY, "git_commit")
        run_id = new_id() if run_id is None else _check_id(run_id)
        begun = None if started is None else to_us(started)

        def write(tx: Tx) -> None:
            known = tx.one("SELECT user, experiment_id FROM run WHERE id = ?", (run_id,))
            if known is not None:
                if (known["user"], known["experiment_id"]) != (user, group.id):
                    raise Conflict("The run's id is taken.", hint="Leave it out.", field="id")
                return
            tx.run(
                "INSERT INTO run (id, experiment_id, name, user, status, started_us, job_id, dataset, git_commit)"
                " VALUES (?,?,?,?,?,?,?,?,?)",
                (run_id, group.id, name, user, status, begun or tx.now_us, job_id, dataset, git_commit),
            )
            tx.many("INSERT INTO param VALUES (?,?,?)", [(run_id, k, v) for k, v in params.items()])
            tx.many("INSERT INTO tag VALUES (?,?,?)", [(run_id, k, v) for k, v in tags.items()])
            for data in read:
                write_input(tx, run_id, group.id, data)
            tx.emit("run.started", f"run:{run_id}", user, experiment=experiment, job=job_id, dataset=dataset)

        self._db.write(write)
        return self.run(run_id)

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
        _check_text(name or "", MAX_KEY, "run_name")

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
        for error in self._db.write_each([self._to_status(*item) for item in statuses.items()]):
            if error is not None and not isinstance(error, Conflict | NotFound):
                raise error

    def _to_status(self, run_id: str, status: RunStatus) -> Callable[[Tx], None]:
        if status not in get_args(RunStatus):
            raise InvalidInput(
                f"{status!r} is no run status.", hint=f"One of {', '.join(get_args(RunStatus))}.", field="status"
            )

        def write(tx: Tx) -> None:
            row = _row_of(tx, run_id)
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

        return write

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
        name: str | None = None,
        models: Mapping[str, Sequence[tuple[Metric, str, str]]] = {},
    ) -> None:
        """Add points, parameters and tags, all or none; raises Conflict for a parameter that has another value.

        `name` is another name of the run; `models` has, by logged model, what was measured of it, with the name and the
        digest of the data.
        """
        write = self._logging(run_id, metrics=metrics, params=params, tags=tags, name=name, models=models)
        self._db.write(write)

    def submit_log(self, run_id: str, *, check: Callable[[], object], **given: Any) -> Future[None]:
        """As `log`, without waiting. `check` is asked by the writer, right before it writes, and may raise."""
        write = self._logging(run_id, **given)

        def checked(tx: Tx) -> None:
            check()
            write(tx)

        return self._db.submit(checked)

    def _logging(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        name: str | None,
        models: Mapping[str, Sequence[tuple[Metric, str, str]]],
    ) -> Callable[[Tx], None]:
        if len(metrics) > MAX_METRICS:
            raise InvalidInput(
                f"{len(metrics)} metrics in one batch.", hint=f"Send {MAX_METRICS} at a time.", field="metrics"
            )
        for metric in metrics:
            check_point(metric.key, metric.step)
        _check_pairs(params, "params")
        _check_pairs(tags, "tags", most=MAX_TAG)
        _check_text(name or "", MAX_KEY, "name")

        def write(tx: Tx) -> None:
            require_run(tx, run_id)
            _write_params(tx, run_id, params)
            if tags:
                tx.many("INSERT OR REPLACE INTO tag VALUES (?,?,?)", [(run_id, k, v) for k, v in tags.items()])
            if name is not None:
                tx.run("UPDATE run SET name = ? WHERE id = ?", (name, run_id))
            series.write_points(tx, run_id, metrics)
            self.observe(run_id, metrics)
            for model_id, measured in models.items():
                _write_measured(tx, run_id, model_id, measured)

        return write

    def delete_tag(self, run_id: str, key: str) -> None:
        """Take a tag away; raises NotFound."""

        def write(tx: Tx) -> None:
            require_run(tx, run_id)
            if not tx.run("DELETE FROM tag WHERE run_id = ? AND key = ?", (run_id, key)).rowcount:
                raise NotFound(f"No tag with name: {key[:80]} in run with id {run_id}.", field="key")

        self._db.write(write)

    def history(
        self, run_id: str, key: str, *, limit: int | None = None, after: series.Point | None = None
    ) -> list[series.Point]:
        """A metric's points, by step and time: all, or at most `limit` from above the point `after`."""
        self.experiment_of(run_id)
        return series.history(self._db, run_id, key, limit=limit, after=after)

    def points_of(self, run_id: str, key: str) -> Iterator[Metric]:
        """A metric's points with their times, by step and time."""
        for point in series.history(self._db, run_id, key, limit=None, after=None):
            yield Metric(key=key, value=point.value, step=point.step, at=from_us(point.at_us))

    def metric_keys(self, run_id: str) -> list[str]:
        """The names of a run's metrics."""
        self.experiment_of(run_id)
        return series.keys_of(self._db, run_id)

    def curve(
        self, run_id: str, key: str, *, most: int = series.MAX_CURVE, first: int | None = None, last: int | None = None
    ) -> series.Curve:
        """A metric for a picture: at most about `most` points from step `first` to `last`, with every extreme."""
        self.experiment_of(run_id)
        return series.curve(self._db, run_id, key, most=most, first=first, last=last)

    def sampled(
        self, run_id: str, key: str, *, most: int, first: int | None = None, last: int | None = None
    ) -> list[Metric]:
        """At most about `most` of a metric's points from step `first` to `last`, with their times."""
        self.experiment_of(run_id)
        return series.sampled(self._db, run_id, key, most=most, first=first, last=last)

    # -- data and models --------------------------------------------------------------------------------------------

    def add_inputs(self, run_id: str, datasets: Sequence[DatasetInput] = (), models: Sequence[RunModel] = ()) -> None:
        """Note the data that a run read, and the logged models that it read or made; what is noted already stays."""

        def write(tx: Tx) -> None:
            group = require_run(tx, run_id)["experiment_id"]
            for data in datasets:
                write_input(tx, run_id, group, data)
            for model in models:
                if tx.one("SELECT 1 FROM logged_model WHERE id = ?", (model.model_id,)) is None:
                    raise NotFound(f"There is no logged model {model.model_id[:80]!r}.", field="model_id")
                tx.run(
                    "INSERT OR REPLACE INTO run_model VALUES (?,?,?,?)",
                    (run_id, model.model_id, model.role, model.step),
                )

        self._db.write(write)

    def name_dataset(self, run_id: str, ref: str) -> None:
        """Say which dataset version a run reads; one that has said so, or whose job has named them, stays with that."""
        self._db.privacy.shelter("experiment", self.experiment_of(run_id), [("dataset", ref.partition("@")[0])])

        def write(tx: Tx) -> None:
            row = require_run(tx, run_id)
            if row["dataset"] is None and row["job_id"] is None:
                tx.run("UPDATE run SET dataset = ? WHERE id = ?", (ref, run_id))
                tx.emit("run.dataset", f"run:{run_id}", row["user"], dataset=ref)

        self._db.write(write)

    def inputs_of(self, run_ids: Sequence[str]) -> dict[str, tuple[list[DatasetInput], list[RunModel]]]:
        """The data that each of these runs read, and the logged models that it read or made."""
        found: dict[str, tuple[list[DatasetInput], list[RunModel]]] = {run_id: ([], []) for run_id in run_ids}
        for start in range(0, len(run_ids), 500):
            ids = run_ids[start : start + 500]
            places = ",".join("?" * len(ids))
            joined = "run_dataset JOIN dataset ON dataset.id = run_dataset.dataset"
            for row in self._db.all(f"SELECT * FROM {joined} WHERE run_id IN ({places}) ORDER BY dataset.id", ids):
                found[row["run_id"]][0].append(read_input(row))
            for row in self._db.all(f"SELECT * FROM run_model WHERE run_id IN ({places}) ORDER BY step, model_id", ids):
                plain = RunModel(model_id=row["model_id"], role=row["role"], step=row["step"])
                found[row["run_id"]][1].append(plain)
        return found

    # -- artifacts --------------------------------------------------------------------------------------------------

    def add_artifact(self, run_id: str, path: str, sha256: str, size: int) -> RunArtifact:
        """Name a kept file as one of the run's; a path given again takes the new file."""
        plain = check_path(path)

        def write(tx: Tx) -> None:
            row = require_run(tx, run_id)
            tx.run("INSERT OR REPLACE INTO artifact VALUES (?,?,?,?,?)", (run_id, plain, sha256, size, tx.now_us))
            tx.emit("run.artifact", f"run:{run_id}", row["user"], path=plain, sha256=sha256, size=size)

        self._db.write(write)
        return RunArtifact(path=plain, sha256=sha256, size=size)

    def drop_artifact(self, run_id: str, path: str, *, actor: str) -> None:
        """Take a file, or all files below a folder, off a run; raises NotFound."""
        plain = check_path(path)

        def write(tx: Tx) -> None:
            require_run(tx, run_id)
            below = (run_id, plain, f"{plain}/", f"{plain}0")  # "0" is what follows "/"
            done = tx.run("DELETE FROM artifact WHERE run_id = ? AND (path = ? OR (path > ? AND path < ?))", below)
            if not done.rowcount:
                raise NotFound(f"The run has no artifact {plain[:200]!r}.", field="path")
            tx.emit("run.artifact_deleted", f"run:{run_id}", actor, path=plain)

        self._db.write(write)

    def artifacts_of(self, run_id: str) -> list[RunArtifact]:
        """A run's files, by path."""
        self.run(run_id)
        rows = self._db.all("SELECT path, sha256, size FROM artifact WHERE run_id = ? ORDER BY path", (run_id,))
        return [RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"]) for row in rows]

    def artifact(self, run_id: str, path: str) -> RunArtifact:
        """One file of a run; raises NotFound."""
        self.experiment_of(run_id)
        row = self._db.one("SELECT path, sha256, size FROM artifact WHERE run_id = ? AND path = ?", (run_id, path))
        if row is None:
            raise NotFound(f"The run has no artifact {path[:200]!r}.", hint="Log it first.", field="artifact")
        return RunArtifact(path=row["path"], sha256=row["sha256"], size=row["size"])


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


def _write_measured(tx: Tx, run_id: str, model_id: str, measured: Sequence[tuple[Metric, str, str]]) -> None:
    if tx.one("SELECT 1 FROM logged_model WHERE id = ?", (model_id,)) is None:
        raise NotFound(f"There is no logged model {model_id[:80]!r}.", field="model_id")
    tx.many(
        "INSERT INTO logged_model_metric VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET step = excluded.step,"
        " at_us = excluded.at_us, value = excluded.value WHERE (excluded.step, excluded.at_us) >= (step, at_us)",
        [
            (model_id, one.key, run_id, name, digest, one.step, to_us(one.at), series.stored(one.value))
            for one, name, digest in measured
        ],
    )


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


def _check_pairs(pairs: Mapping[str, Any], field: str, *, most: int = MAX_VALUE) -> None:
    for key, value in pairs.items():
        if not 0 < len(key) <= MAX_KEY:
            raise InvalidInput(f"A name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field=field)
        if len(value) > most:
            raise InvalidInput(
                f"{key!r} has {len(value)} characters.", hint=f"Use at most {most}.", field=f"{field}.{key}"
            )


def _check_text(text: str, most: int, field: str) -> None:
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
