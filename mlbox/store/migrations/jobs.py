"""Jobs and their attempts."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script
from mlbox.store.outbox import TABLE

jobs = Migrations("jobs")


@migration(jobs)
def m001_jobs(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE job (
          id TEXT PRIMARY KEY, user TEXT NOT NULL, spec TEXT NOT NULL, state TEXT NOT NULL, created_us INTEGER NOT NULL,
          run_id TEXT, ended_us INTEGER, exit_code INTEGER, reason TEXT NOT NULL DEFAULT '', not_before_us INTEGER
        ) STRICT;
        CREATE INDEX job_state ON job (state, id);
        CREATE INDEX job_user ON job (user, id);
        CREATE TABLE attempt (
          job_id TEXT NOT NULL REFERENCES job (id), number INTEGER NOT NULL, started_us INTEGER NOT NULL, ended_us INTEGER,
          exit_code INTEGER, pid INTEGER, gpus TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', PRIMARY KEY (job_id, number)
        ) STRICT, WITHOUT ROWID;
        """,
    )


@migration(jobs)
def m002_team(db: Database) -> None:
    run_script(
        db,
        """
        ALTER TABLE job ADD COLUMN team TEXT NOT NULL DEFAULT 'everyone';
        CREATE INDEX job_team ON job (team, id);
        """,
    )


@migration(jobs)
def m003_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(jobs)
def m004_stop_cause(db: Database) -> None:
    run_script(
        db,
        """
        ALTER TABLE job ADD COLUMN stop_cause TEXT;
        ALTER TABLE attempt ADD COLUMN outcome TEXT;
        """,
    )


@migration(jobs)
def m005_crons(db: Database) -> None:
    """Jobs that come again, each time that they were asked for, and how far other stores' events were followed for them."""
    run_script(
        db,
        """
        CREATE TABLE cron (
          id TEXT PRIMARY KEY, name TEXT NOT NULL, team TEXT NOT NULL, owner TEXT NOT NULL, spec TEXT NOT NULL,
          created_us INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0, next_us INTEGER, UNIQUE (team, name)
        ) STRICT;
        CREATE INDEX cron_next ON cron (next_us) WHERE next_us IS NOT NULL;
        CREATE TABLE firing (
          id TEXT PRIMARY KEY, cron_id TEXT NOT NULL REFERENCES cron (id) ON DELETE CASCADE, cause TEXT NOT NULL,
          at_us INTEGER NOT NULL, job_id TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
          UNIQUE (cron_id, cause)
        ) STRICT;
        CREATE INDEX firing_due ON firing (outcome) WHERE outcome = 'due';
        CREATE INDEX firing_of ON firing (cron_id, id);
        CREATE TABLE followed (store TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        """,
    )


@migration(jobs)
def m006_job_name_and_machine(db: Database) -> None:
    run_script(
        db,
        """
        ALTER TABLE attempt ADD COLUMN ran_on TEXT NOT NULL DEFAULT '{}';
        ALTER TABLE job ADD COLUMN name TEXT GENERATED ALWAYS AS (json_extract(spec, '$.name')) VIRTUAL;
        CREATE INDEX job_name ON job (name, id);
        """,
    )


@migration(jobs)
def m007_outbox(db: Database) -> None:
    run_script(db, TABLE)


@migration(jobs)
def m008_sharing(db: Database) -> None:
    """Queues, quotas and weights; an attempt knows what it held, so that what was used follows from the attempts."""
    run_script(
        db,
        """
        CREATE TABLE queue (
          name TEXT PRIMARY KEY, weight REAL NOT NULL, max_gpus REAL, max_running INTEGER, slice_minutes REAL,
          created_us INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        INSERT INTO queue (name, weight, created_us) VALUES
          ('default', 1, 0), ('experiments', 1, 0), ('production-retraining', 3, 0);
        CREATE TABLE team_quota (
          team TEXT NOT NULL, name TEXT NOT NULL, gpus REAL, share REAL, windows TEXT NOT NULL, zone TEXT NOT NULL,
          borrowable INTEGER NOT NULL, PRIMARY KEY (team, name)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE team_weight (team TEXT PRIMARY KEY, weight REAL NOT NULL) STRICT, WITHOUT ROWID;
        ALTER TABLE attempt ADD COLUMN devices TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE attempt ADD COLUMN gpu_count REAL NOT NULL DEFAULT 0;
        ALTER TABLE attempt ADD COLUMN cpu_count REAL NOT NULL DEFAULT 0;
        ALTER TABLE attempt ADD COLUMN yields_to TEXT NOT NULL DEFAULT '[]';
        ALTER TABLE job ADD COLUMN queued_us INTEGER;
        ALTER TABLE job ADD COLUMN promised INTEGER NOT NULL DEFAULT 0;
        UPDATE attempt SET
          gpu_count = (SELECT coalesce(json_extract(spec, '$.gpus'), 0) FROM job WHERE id = job_id),
          cpu_count = (SELECT coalesce(json_extract(spec, '$.cpus'), 1) FROM job WHERE id = job_id);
        CREATE INDEX attempt_ended ON attempt (ended_us);
        """,
    )


@migration(jobs)
def m009_ends(db: Database) -> None:
    """Since when a job is to end; and what is left of one that has: all, checkpoints and logs, or logs alone."""
    run_script(
        db,
        """
        ALTER TABLE job ADD COLUMN stopping_us INTEGER;
        ALTER TABLE job ADD COLUMN left_over TEXT NOT NULL DEFAULT 'all';
        CREATE INDEX job_to_clean ON job (ended_us) WHERE ended_us IS NOT NULL AND left_over <> 'logs';
        """,
    )


@migration(jobs)
def m010_logs(db: Database) -> None:
    """Logs may go as well: then nothing is left."""
    run_script(
        db,
        """
        DROP INDEX job_to_clean;
        CREATE INDEX job_to_clean ON job (left_over, ended_us) WHERE ended_us IS NOT NULL;
        """,
    )


@migration(jobs)
def m011_lineage(db: Database) -> None:
    """How far each store's events were told to an OpenLineage collector."""
    run_script(db, "CREATE TABLE lineage_cursor (store TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;")


@migration(jobs)
def m012_epoch(db: Database) -> None:
    """In which epoch of its executor an attempt was started."""
    run_script(db, "ALTER TABLE attempt ADD COLUMN epoch TEXT NOT NULL DEFAULT '';")
