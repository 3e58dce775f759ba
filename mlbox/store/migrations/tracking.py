"""Experiments, runs, and what runs logged."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

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


@migration(tracking)
def m002_series(db: Database) -> None:
    """Experiments get numbers, lifecycles and tags; points are clustered by series; runs have inputs, outputs and models."""
    db.conn.execute("PRAGMA defer_foreign_keys=ON")
    run_script(
        db,
        """
        ALTER TABLE experiment ADD COLUMN updated_us INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE experiment ADD COLUMN deleted_us INTEGER;
        UPDATE experiment SET updated_us = created_us;
        CREATE TEMP TABLE numbered AS
          SELECT id, CASE name WHEN 'Default' THEN '0' ELSE CAST(row_number() OVER (ORDER BY id) AS TEXT) END AS number
          FROM experiment;
        UPDATE run SET experiment_id = (SELECT number FROM numbered WHERE numbered.id = run.experiment_id);
        UPDATE experiment SET id = (SELECT number FROM numbered WHERE numbered.id = experiment.id);
        DROP TABLE numbered;
        INSERT OR IGNORE INTO experiment (id, name, created_us, updated_us) VALUES ('0', 'Default', 0, 0);
        CREATE TABLE experiment_tag (
          experiment_id TEXT NOT NULL REFERENCES experiment (id), key TEXT NOT NULL, value TEXT NOT NULL,
          PRIMARY KEY (experiment_id, key)
        ) STRICT, WITHOUT ROWID;

        ALTER TABLE run ADD COLUMN deleted_us INTEGER;
        CREATE INDEX run_begun ON run (experiment_id, started_us DESC, id);
        CREATE INDEX param_value ON param (key, value);
        CREATE INDEX tag_value ON tag (key, value);

        -- The last value of each metric, with its extremes. A value is NULL when it is not a number: SQLite keeps no NaN.
        CREATE TABLE series (
          id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run (id), key TEXT NOT NULL, step INTEGER NOT NULL,
          at_us INTEGER NOT NULL, value REAL, low REAL, high REAL, UNIQUE (run_id, key)
        ) STRICT;
        CREATE INDEX series_value ON series (key, value, run_id);
        -- Here what is no number is the text 'nan', because a key has no NULL; the same point sent twice is one row.
        CREATE TABLE point (
          series INTEGER NOT NULL REFERENCES series (id), step INTEGER NOT NULL, at_us INTEGER NOT NULL, value ANY NOT NULL,
          PRIMARY KEY (series, step, at_us, value)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO series (run_id, key, step, at_us, value, low, high)
          SELECT run_id, key, step, at_us, value,
            (SELECT min(value) FROM metric WHERE metric.run_id = last.run_id AND metric.key = last.key),
            (SELECT max(value) FROM metric WHERE metric.run_id = last.run_id AND metric.key = last.key)
          FROM last_metric AS last;
        INSERT INTO point SELECT series.id, metric.step, metric.at_us, coalesce(metric.value, 'nan')
          FROM metric JOIN series USING (run_id, key);
        DROP TABLE metric;
        DROP TABLE last_metric;

        CREATE TABLE dataset (
          id INTEGER PRIMARY KEY, experiment_id TEXT NOT NULL REFERENCES experiment (id), name TEXT NOT NULL,
          digest TEXT NOT NULL, source_type TEXT NOT NULL, source TEXT NOT NULL, schema TEXT, profile TEXT,
          UNIQUE (experiment_id, name, digest)
        ) STRICT;
        CREATE TABLE run_dataset (
          run_id TEXT NOT NULL REFERENCES run (id), dataset INTEGER NOT NULL REFERENCES dataset (id), tags TEXT NOT NULL,
          PRIMARY KEY (run_id, dataset)
        ) STRICT, WITHOUT ROWID;

        CREATE TABLE logged_model (
          id TEXT PRIMARY KEY, experiment_id TEXT NOT NULL REFERENCES experiment (id), name TEXT NOT NULL,
          type TEXT NOT NULL, status TEXT NOT NULL, message TEXT NOT NULL, run_id TEXT REFERENCES run (id),
          user TEXT NOT NULL, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, deleted_us INTEGER
        ) STRICT;
        CREATE INDEX logged_model_experiment ON logged_model (experiment_id, created_us);
        CREATE INDEX logged_model_run ON logged_model (run_id, name) WHERE run_id IS NOT NULL;
        CREATE TABLE logged_model_param (
          model_id TEXT NOT NULL REFERENCES logged_model (id), key TEXT NOT NULL, value TEXT NOT NULL,
          PRIMARY KEY (model_id, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE logged_model_tag (
          model_id TEXT NOT NULL REFERENCES logged_model (id), key TEXT NOT NULL, value TEXT NOT NULL,
          PRIMARY KEY (model_id, key)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE logged_model_metric (
          model_id TEXT NOT NULL REFERENCES logged_model (id), key TEXT NOT NULL, run_id TEXT NOT NULL,
          dataset_name TEXT NOT NULL, dataset_digest TEXT NOT NULL, step INTEGER NOT NULL, at_us INTEGER NOT NULL,
          value REAL, PRIMARY KEY (model_id, key, run_id, dataset_name, dataset_digest)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE logged_model_file (
          model_id TEXT NOT NULL REFERENCES logged_model (id), path TEXT NOT NULL, sha256 TEXT NOT NULL,
          size INTEGER NOT NULL, added_us INTEGER NOT NULL, PRIMARY KEY (model_id, path)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE run_model (
          run_id TEXT NOT NULL REFERENCES run (id), model_id TEXT NOT NULL, role TEXT NOT NULL, step INTEGER NOT NULL,
          PRIMARY KEY (run_id, role, model_id)
        ) STRICT, WITHOUT ROWID;
        """,
    )


@migration(tracking)
def m003_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(tracking)
def m004_rollups(db: Database) -> None:
    """Long series have the extremes of their buckets beside their points (see `rollups`)."""
    run_script(
        db,
        """
        ALTER TABLE series ADD COLUMN points INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE series ADD COLUMN fresh INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE series ADD COLUMN dirty_low INTEGER;
        ALTER TABLE series ADD COLUMN dirty_high INTEGER;
        ALTER TABLE series ADD COLUMN rolled_low INTEGER;
        ALTER TABLE series ADD COLUMN rolled_high INTEGER;
        ALTER TABLE series ADD COLUMN grain INTEGER;
        UPDATE series SET points = (SELECT count(*) FROM point WHERE point.series = series.id), dirty_high = step,
          dirty_low = (SELECT min(step) FROM point WHERE point.series = series.id);
        UPDATE series SET fresh = points;
        CREATE TABLE rollup (
          series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE, level INTEGER NOT NULL, bucket INTEGER NOT NULL,
          low REAL NOT NULL, low_step INTEGER NOT NULL, high REAL NOT NULL, high_step INTEGER NOT NULL,
          PRIMARY KEY (series, level, bucket)
        ) STRICT, WITHOUT ROWID;
        """,
    )


@migration(tracking)
def m005_experiment_number(db: Database) -> None:
    """The number of an experiment that was removed for good is not given again."""
    run_script(
        db,
        """
        CREATE TABLE experiment_number (last INTEGER NOT NULL) STRICT;
        INSERT INTO experiment_number SELECT max(CAST(id AS INTEGER)) FROM experiment;
        """,
    )


@migration(tracking)
def m006_runs_by_dataset(db: Database) -> None:
    """Which runs read a dataset version is found without looking at all of them."""
    run_script(
        db,
        """
        CREATE INDEX run_by_dataset ON run (dataset) WHERE dataset IS NOT NULL;
        CREATE INDEX dataset_by_name ON dataset (name);
        CREATE INDEX run_dataset_by_dataset ON run_dataset (dataset);
        """,
    )


@migration(tracking)
def m007_run_views(db: Database) -> None:
    """The newest runs of all experiments come out of one index, and everyone may keep a view of the table of runs."""
    run_script(
        db,
        """
        CREATE INDEX run_recent ON run (started_us DESC, id);
        CREATE TABLE run_view (
          person TEXT NOT NULL, experiment TEXT NOT NULL, query TEXT NOT NULL, PRIMARY KEY (person, experiment)
        ) STRICT, WITHOUT ROWID;
        """,
    )


@migration(tracking)
def m008_series_summaries(db: Database) -> None:
    """A series tells of its points as they are kept: one that came twice counts once, the greatest of the last is the last."""
    run_script(
        db,
        """
        UPDATE series SET points = (SELECT count(*) FROM point WHERE series = series.id), value = (
          SELECT iif(value = 'nan', NULL, value) FROM point WHERE series = series.id
          ORDER BY step DESC, at_us DESC, value DESC LIMIT 1
        );
        """,
    )


@migration(tracking)
def m009_default_experiment(db: Database) -> None:
    """The experiment that every box has began with its first run, or now, and not in 1970."""
    run_script(
        db,
        """
        UPDATE experiment SET created_us = coalesce(
          (SELECT min(started_us) FROM run WHERE experiment_id = '0'), unixepoch() * 1000000
        ) WHERE id = '0' AND created_us = 0;
        UPDATE experiment SET updated_us = created_us WHERE id = '0' AND updated_us = 0;
        """,
    )
