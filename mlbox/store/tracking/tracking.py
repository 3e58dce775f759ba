"""The tracker: experiments, runs, parameters, metrics, artifacts.

A parameter is written once; a metric is a series of points, of which the same one sent twice counts once, so that a client
may send again after a broken connection; tags are overwritten. A run that ended takes late metrics, and never another end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.records import (
    MAX_KEY,
    DatasetInput,
    Metric,
    RunArtifact,
    RunModel,
    check_point,
)
from mlbox.store.artifacts import Artifacts, check_path
from mlbox.store.db import Database, Tx
from mlbox.store.tracking import series
from mlbox.store.tracking.run_inputs import read_input, write_input
from mlbox.store.tracking.runs import MAX_TAG, Runs, check_pairs, check_text, require_run

MAX_METRICS = 1000


class Tracker(Runs):
    """Everything that runs record."""

    def __init__(self, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        super().__init__(db, artifacts, clock)
        self.observe: Callable[[str, Sequence[Metric]], None] = lambda run_id, metrics: None
        """Told of points as they are written, in the writer's thread: it must return at once."""

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
        check_pairs(params, "params")
        check_pairs(tags, "tags", most=MAX_TAG)
        check_text(name or "", MAX_KEY, "name")

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

    def timed_curve(
        self, run_id: str, key: str, *, most: int, first: int | None = None, last: int | None = None
    ) -> tuple[series.Curve, tuple[int, ...]]:
        """The same of a run that may be read, with when each point was logged in milliseconds since 1970."""
        found = series.curve(self._db, run_id, key, most=most, first=first, last=last)
        at = series.moments(self._db, run_id, key, sorted({step for step, _ in found.points}))
        return found, tuple(at[step] // 1000 for step, _ in found.points)

    def points(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many points runs that may be read logged of each metric that is more than a single point, by name."""
        return series.counts(self._db, run_ids)

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
