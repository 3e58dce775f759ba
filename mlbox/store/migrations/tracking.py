"""Experiments, runs, and what runs logged."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, migration, run_script

tracking = Migrations("tracking")


@migration(tracking)
def m001_runs(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE experiment (
          id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE run (
          id TEXT PRIMARY KEY, experiment_id TEXT NOT NULL REFERENCES experiment (id), name TEXT NOT NULL,
          user TEXT NOT NULL, status TEXT NOT NULL, started_us INTEGER NOT NULL, ended_us INTEGER, job_id TEXT,
          dataset TEXT, git_commit TEXT
        ) STRICT;
        CREATE INDEX run_experiment ON run (experiment_id, id);
        CREATE INDEX run_job ON run (job_id) WHERE job_id IS NOT NULL;
        CREATE TABLE param (
          run_id TEXT NOT NULL REFERENCES run (id), key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run_id, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE tag (
          run_id TEXT NOT NULL REFERENCES run (id), key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run_id, key)
        ) STRICT, WITHOUT ROWID;

        -- A value is NULL when it is not a number, because SQLite keeps no NaN; the same point sent twice is one row.
        CREATE TABLE metric (
          run_id TEXT NOT NULL REFERENCES run (id), key TEXT NOT NULL, step INTEGER NOT NULL, at_us INTEGER NOT NULL,
          value REAL
        ) STRICT;
        CREATE UNIQUE INDEX metric_point ON metric (run_id, key, step, at_us, coalesce(value, 'nan'));
        CREATE TABLE last_metric (
          run_id TEXT NOT NULL REFERENCES run (id), key TEXT NOT NULL, step INTEGER NOT NULL, at_us INTEGER NOT NULL,
          value REAL, PRIMARY KEY (run_id, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE artifact (
          run_id TEXT NOT NULL REFERENCES run (id), path TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
          added_us INTEGER NOT NULL, PRIMARY KEY (run_id, path)
        ) STRICT, WITHOUT ROWID;
        """,
    )
