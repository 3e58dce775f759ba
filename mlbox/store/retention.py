"""What was deleted: how long it can be taken back, and how its bytes are freed in the end.

A deletion is soft. Once it is older than the retention, `collect` removes its rows for good, then every file of the artifacts
that no row names any more. Nothing that is needed elsewhere goes: the run that a version was made by keeps its rows as long
as the version, and a version's own rows (who, when, by whose approval) are kept for ever; only its files go.

Killed at any point it has lost nothing: rows go run by run, files only after the rows that named them, and the next pass
goes on. A file that was put there or named within `grace` stays, as whoever did so may not have said what it is for.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import MlboxError
from mlbox.loop import attempt
from mlbox.records import Collected
from mlbox.store.artifacts import Artifacts
from mlbox.store.bin import Bin
from mlbox.store.datasets.versions import DatasetVersions
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.curation import Curation
from mlbox.store.tracking.tracking import Tracker

GRACE = timedelta(hours=1)
FIRST_SECONDS = 600.0
"""After a start: a server that is started anew every day removes what is old all the same."""
POINTS_AT_ONCE = 20_000
"""So few in one write, because everyone else's writes wait for it."""
OF_JOBS = ("snapshot", "git_diff", "environment")
"""The artifacts that a job's spec names."""
_log = logging.getLogger(__name__)

_HELD_RUNS = "SELECT DISTINCT run_id FROM model_version WHERE run_id IS NOT NULL AND {kept}"
_HELD_MODELS = "SELECT DISTINCT logged_model FROM model_version WHERE logged_model IS NOT NULL AND {kept}"
_KEPT = "removed_us IS NULL AND NOT coalesce(deleted_us <= :cutoff, 0)"
_RUN_GOES = "coalesce(run.deleted_us <= :cutoff, 0) AND run.id NOT IN (SELECT value FROM json_each(:runs))"
_MODEL_GOES = (
    "coalesce(logged_model.deleted_us <= :cutoff, 0) AND logged_model.id NOT IN (SELECT value FROM json_each(:models))"
)
_EXPERIMENT_GOES = "coalesce(experiment.deleted_us <= :cutoff, 0)"


class Retention(Bin):
    """The bin of one box, and what empties it."""

    def __init__(
        self,
        databases: dict[str, Database],
        artifacts: Artifacts,
        tracker: Tracker,
        curation: Curation,
        datasets: DatasetVersions,
        clock: Clock,
        *,
        days: float,
        every_hours: float = 0,
        aging: Callable[[bool], tuple[int, int]] = lambda dry_run: (0, 0),
    ) -> None:
        super().__init__(databases, tracker, curation, datasets, clock, days=days)
        self._jobs, self._features = databases["jobs"], databases["features"]
        self._artifacts = artifacts
        self._every = every_hours * 3600
        self._aging = aging
        """Removes what is kept for a time only; how many predictions, and the bytes that were freed."""
        self._collecting = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- freeing ----------------------------------------------------------------------------------------------------

    def collect(
        self, *, older_than: timedelta | None = None, grace: timedelta = GRACE, dry_run: bool = False, actor: str
    ) -> Collected:
        """Remove for good what was deleted longer ago than the retention, and the files that nothing names.

        With `dry_run` nothing is removed, and the answer says what would be. One pass runs at a time.
        """
        kept_for = self.kept_for if older_than is None else older_than
        cutoff = self._clock.real() - kept_for
        with self._collecting:
            # Versions go first: one that was restored until then holds its run and its logged model.
            versions = self._versions({"cutoff": to_us(cutoff)})
            if not dry_run:
                for version_id in versions:
                    self._registry.write(functools.partial(_remove_files, version_id=version_id))
                self._registry.write(lambda tx: _close_models(tx, {"cutoff": to_us(cutoff)}))
            given = self._given(cutoff)
            datasets = self._close_datasets(given, dry_run=dry_run)
            runs = self._ids("run", _RUN_GOES, given)
            models = self._ids("logged_model", _MODEL_GOES, given)
            experiments = 0
            if not dry_run:
                for run_id in runs:
                    self._remove_run(run_id, given)
                for model_id in models:
                    self._tracking.write(functools.partial(_remove_logged, model_id=model_id, cutoff=given["cutoff"]))
                experiments = self._tracking.write(lambda tx: _remove_experiments(tx, given))
            files, size = self._sweep(given, grace, dry_run=dry_run)
            predictions, freed = self._aged(dry_run)
        done = Collected(
            runs=len(runs),
            experiments=experiments,
            logged_models=len(models),
            versions=len(versions),
            datasets=datasets,
            files=files,
            predictions=predictions,
            bytes=size + freed,
            dry_run=dry_run,
            cutoff=cutoff,
        )
        if not dry_run and (runs or models or versions or datasets or experiments or files or predictions):
            counted = {name: value for name, value in msgspec.structs.asdict(done).items() if isinstance(value, int)}
            self._tracking.write(lambda tx: tx.emit("box.collected", "box:artifacts", actor, **counted))
        return done

    def _aged(self, dry_run: bool) -> tuple[int, int]:
        """What is kept for a time only; a store of it that is down holds up nothing else."""
        try:
            return self._aging(dry_run)
        except MlboxError as err:
            _log.warning("Predictions that are too old stay: %s", err)
            return 0, 0

    def _given(self, cutoff: datetime) -> dict[str, Any]:
        us = to_us(cutoff)
        held = {
            name: [row[0] for row in self._registry.all(sql.format(kept=_KEPT), {"cutoff": us})]
            for name, sql in (("runs", _HELD_RUNS), ("models", _HELD_MODELS))
        }
        return {"cutoff": us, **{name: msgspec.json.encode(ids).decode() for name, ids in held.items()}}

    def _ids(self, table: str, condition: str, given: dict[str, Any]) -> list[str]:
        return [row["id"] for row in self._tracking.all(f"SELECT id FROM {table} WHERE {condition}", given)]

    def _versions(self, given: dict[str, Any]) -> list[str]:
        rows = self._registry.all(
            "SELECT id FROM model_version WHERE deleted_us <= :cutoff AND removed_us IS NULL", given
        )
        return [row["id"] for row in rows]

    def _close_datasets(self, given: dict[str, Any], *, dry_run: bool) -> int:
        """Make sure that dataset versions cannot be restored any more, whose files are about to go; how many."""
        going, until = "deleted_us > 0 AND deleted_us <= ?", (given["cutoff"],)
        if dry_run:
            return int(self._datasets.all(f"SELECT count(*) FROM dataset_state WHERE {going}", until)[0][0])
        close = f"UPDATE dataset_state SET deleted_us = 0 WHERE {going}"
        return self._datasets.write(lambda tx: tx.run(close, until).rowcount)

    def _remove_run(self, run_id: str, given: dict[str, Any]) -> None:
        if not self._tracking.write(lambda tx: _claim(tx, run_id, given)):
            return  # it was restored meanwhile
        while self._tracking.write(lambda tx: _remove_points(tx, run_id)):
            pass
        self._tracking.write(lambda tx: _remove_run(tx, run_id))

    def _sweep(self, given: dict[str, Any], grace: timedelta, *, dry_run: bool) -> tuple[int, int]:
        """Remove the files that nothing names; how many, and the bytes that they took on disk."""
        limit = self._artifacts.now() - grace.total_seconds()  # before it is read what is named: what comes later stays
        named = set(self._named(given))
        count = size = 0
        for sha256 in self._artifacts.unused_since(limit):
            if sha256 in named or self._stopping.is_set():
                continue
            freed = self._artifacts.remove(sha256, unused_since=limit, dry_run=dry_run)
            count += freed is not None
            size += freed or 0
        return count, size

    def _named(self, given: dict[str, Any]) -> Iterator[str]:
        """Every digest that a row names, but for what goes."""
        for database, sql in (
            (self._tracking, f"SELECT sha256 FROM artifact JOIN run ON run.id = run_id WHERE NOT ({_RUN_GOES})"),
            (
                self._tracking,
                "SELECT sha256 FROM logged_model_file JOIN logged_model ON logged_model.id = model_id"
                f" WHERE NOT ({_MODEL_GOES})",
            ),
            (
                self._registry,
                f"SELECT sha256 FROM version_file JOIN model_version ON model_version.id = version_id WHERE {_KEPT}",
            ),
            *(
                (self._registry, f"SELECT {column} FROM model_version WHERE {column} IS NOT NULL AND {_KEPT}")
                for column in ("artifact", "reference", "sample")
            ),
            (
                self._datasets,
                "SELECT json_extract(file.value, '$.sha256') FROM dataset, json_each(dataset.record, '$.files') AS file"
                " WHERE dataset.id NOT IN (SELECT id FROM dataset_state WHERE deleted_us <= :cutoff)",
            ),
            (  # a dataset goes on from its last version
                self._datasets,
                "SELECT facts FROM (SELECT name, max(version), json_extract(record, '$.basis.resume.facts') AS facts"
                " FROM dataset WHERE id NOT IN (SELECT id FROM dataset_state WHERE deleted_us <= :cutoff) GROUP BY name)"
                " WHERE facts IS NOT NULL",
            ),
            (self._datasets, "SELECT sha256 FROM dvc_object"),
            (
                self._datasets,
                "SELECT sha256 FROM dataset_oid"
                " WHERE dataset_id NOT IN (SELECT id FROM dataset_state WHERE deleted_us <= :cutoff)",
            ),
            *((self._jobs, f"SELECT json_extract(spec, '$.{field}') FROM job") for field in OF_JOBS),
            *((self._jobs, f"SELECT json_extract(spec, '$.job.{field}') FROM cron") for field in OF_JOBS),
            (self._features, "SELECT json_extract(spec, '$.function.snapshot') FROM view"),
            *(
                (self._registry, f"SELECT json_extract(policy, '$.{gate}.code') FROM {table}")
                for gate in ("test", "integration")
                for table in ("promotion_policy", "promotion")
            ),
        ):
            yield from (row[0] for row in database.all(sql, given) if row[0])

    # -- by itself --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Collect every so many hours of real time, where that is set."""
        if self._every > 0 and not self._clock.replay:
            self._thread = threading.Thread(target=self._loop, name="mlbox-retention", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        wait = min(self._every, FIRST_SECONDS)
        while not self._stopping.wait(wait):
            wait = self._every
            attempt(lambda: self.collect(actor="system"), "What was deleted could not be removed", otherwise=None)

    def close(self) -> None:
        """Stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()


def _claim(tx: Tx, run_id: str, given: dict[str, Any]) -> bool:
    """Make sure that a run cannot be restored any more: a time of deletion of 0 says that it is being removed."""
    done = tx.run(
        "UPDATE run SET deleted_us = 0 WHERE id = :run AND deleted_us <= :cutoff",
        {"run": run_id, "cutoff": given["cutoff"]},
    )
    return bool(done.rowcount)


def _remove_points(tx: Tx, run_id: str) -> int:
    """Some of a run's points; how many."""
    done = tx.run(
        "DELETE FROM point WHERE (series, step, at_us, value) IN (SELECT series, step, at_us, value FROM point"
        " WHERE series IN (SELECT id FROM series WHERE run_id = ?) LIMIT ?)",
        (run_id, POINTS_AT_ONCE),
    )
    return done.rowcount


def _remove_run(tx: Tx, run_id: str) -> None:
    home = tx.one(
        "SELECT experiment.name FROM experiment JOIN run ON experiment_id = experiment.id WHERE run.id = ?", (run_id,)
    )
    assert home is not None
    tx.run("UPDATE logged_model SET run_id = NULL WHERE run_id = ?", (run_id,))
    for table in ("series", "param", "tag", "artifact", "run_dataset", "run_model"):
        tx.run(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    tx.run("DELETE FROM run WHERE id = ?", (run_id,))
    tx.emit("experiment.run_removed", f"experiment:{home['name']}", "system", run=run_id)


def _remove_logged(tx: Tx, model_id: str, cutoff: int) -> None:
    """Remove a logged model, unless it was restored meanwhile."""
    if tx.one("SELECT 1 FROM logged_model WHERE id = ? AND deleted_us <= ?", (model_id, cutoff)) is None:
        return
    for suffix in ("param", "tag", "metric", "file"):
        tx.run(f"DELETE FROM logged_model_{suffix} WHERE model_id = ?", (model_id,))
    tx.run("DELETE FROM run_model WHERE model_id = ?", (model_id,))
    tx.run("DELETE FROM logged_model WHERE id = ?", (model_id,))


def _remove_files(tx: Tx, version_id: str) -> None:
    """Take a version's files off it, unless it was restored meanwhile."""
    done = tx.run(
        "UPDATE model_version SET removed_us = ? WHERE id = ? AND deleted_us IS NOT NULL", (tx.now_us, version_id)
    )
    if done.rowcount:
        tx.run("DELETE FROM version_file WHERE version_id = ?", (version_id,))


def _close_models(tx: Tx, given: dict[str, Any]) -> None:
    tx.run(
        f"UPDATE model SET removed_us = {tx.now_us} WHERE deleted_us <= :cutoff AND removed_us IS NULL",
        {"cutoff": given["cutoff"]},
    )


def _remove_experiments(tx: Tx, given: dict[str, Any]) -> int:
    """Deleted experiments that nothing is left of; how many."""
    rows: Sequence[Row] = tx.all(
        f"SELECT id, name FROM experiment WHERE {_EXPERIMENT_GOES}"
        " AND NOT EXISTS (SELECT 1 FROM run WHERE experiment_id = experiment.id)"
        " AND NOT EXISTS (SELECT 1 FROM logged_model WHERE experiment_id = experiment.id)",
        given,
    )
    for row in rows:
        tx.run(
            "DELETE FROM run_dataset WHERE dataset IN (SELECT id FROM dataset WHERE experiment_id = ?)", (row["id"],)
        )
        tx.run("DELETE FROM dataset WHERE experiment_id = ?", (row["id"],))
        tx.run("DELETE FROM experiment_tag WHERE experiment_id = ?", (row["id"],))
        tx.run("DELETE FROM experiment WHERE id = ?", (row["id"],))
        tx.emit("experiment.removed", f"experiment:{row['name']}", "system")
    return len(rows)
