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
