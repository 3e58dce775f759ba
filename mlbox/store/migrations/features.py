"""Sources, feature views and feature services: the definitions. Their rows are in the offline store."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

features = Migrations("features")


@migration(features)
def m001_definitions(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE source (
          name TEXT PRIMARY KEY, columns TEXT NOT NULL, event_time TEXT NOT NULL, arrival_time TEXT,
          created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE view (
          name TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, spec TEXT NOT NULL,
          created_by TEXT NOT NULL, created_us INTEGER NOT NULL, PRIMARY KEY (name, version)
        ) STRICT;
        CREATE TABLE service (
          name TEXT NOT NULL, version INTEGER NOT NULL, features TEXT NOT NULL, created_by TEXT NOT NULL,
          created_us INTEGER NOT NULL, PRIMARY KEY (name, version)
        ) STRICT;
        """,
    )


@migration(features)
def m002_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(features)
def m003_transforms(db: Database) -> None:
    """On-demand transforms share the names of views."""
    run_script(
        db,
        """
        CREATE TABLE transform (
          name TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, spec TEXT NOT NULL,
          created_by TEXT NOT NULL, created_us INTEGER NOT NULL, PRIMARY KEY (name, version)
        ) STRICT;
        """,
    )


@migration(features)
def m004_expectations(db: Database) -> None:
    """What is expected of a source's columns; the rows that broke it are in the offline store."""
    run_script(
        db,
        """
        CREATE TABLE expectation (
          source TEXT NOT NULL, "column" TEXT NOT NULL, spec TEXT NOT NULL, created_by TEXT NOT NULL,
          created_us INTEGER NOT NULL, PRIMARY KEY (source, "column")
        ) STRICT;
        """,
    )


@migration(features)
def m005_entities_and_refreshes(db: Database) -> None:
    """Names for join keys; and when each view version was last brought up to date, in domain and in real time."""
    run_script(
        db,
        """
        CREATE TABLE entity (
          name TEXT PRIMARY KEY, spec TEXT NOT NULL, created_by TEXT NOT NULL, created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE refresh (ref TEXT PRIMARY KEY, updated_us INTEGER, ran_us INTEGER NOT NULL, error TEXT NOT NULL) STRICT;
        """,
    )


@migration(features)
def m006_folders(db: Database) -> None:
    """A source may be fed from files that appear in a folder."""
    run_script(db, "ALTER TABLE source ADD COLUMN folder TEXT NOT NULL DEFAULT '';")


@migration(features)
def m007_computations(db: Database) -> None:
    """Which jobs compute which views in free Python, as of when, and how many rows they brought."""
    run_script(
        db,
        """
        CREATE TABLE computation (
          job_id TEXT PRIMARY KEY, ref TEXT NOT NULL, as_of_us INTEGER NOT NULL, asked_us INTEGER NOT NULL, stamp TEXT NOT NULL,
          actor TEXT NOT NULL, rows INTEGER
        ) STRICT;
        CREATE INDEX computation_of_view ON computation (ref, asked_us);
        """,
    )
