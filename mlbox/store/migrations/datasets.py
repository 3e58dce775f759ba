"""Label sets and dataset versions."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

datasets = Migrations("datasets")


@migration(datasets)
def m001_labels_and_datasets(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE label_set (
          name TEXT PRIMARY KEY, keys TEXT NOT NULL, value TEXT NOT NULL, created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE dataset (
          id TEXT PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL, hash TEXT NOT NULL, record TEXT NOT NULL,
          created_us INTEGER NOT NULL, UNIQUE (name, version)
        ) STRICT;
        CREATE TRIGGER dataset_stays BEFORE UPDATE ON dataset
        BEGIN SELECT RAISE(ABORT, 'a dataset version is immutable'); END;
        """,
    )


@migration(datasets)
def m002_audit_chain(db: Database) -> None:
    chain_events(db)


@migration(datasets)
def m003_dvc(db: Database) -> None:
    """Which artifact is which object of DVC's."""
    run_script(
        db,
        """
        CREATE TABLE dvc_object (
          md5 TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, created_by TEXT NOT NULL,
          created_us INTEGER NOT NULL
        ) STRICT;
        """,
    )


@migration(datasets)
def m004_label_sources(db: Database) -> None:
    """A label set is kept as one record: it has sources, a policy and what a value may be."""
    run_script(
        db,
        """
        CREATE TABLE label_set_new (name TEXT PRIMARY KEY, spec TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT;
        INSERT INTO label_set_new SELECT name, json_object('name', name, 'keys', json(keys), 'value', json(value), 'sources',
          json('[{"name":"upload"}]'), 'created_at', strftime('%Y-%m-%dT%H:%M:%SZ', created_us / 1000000, 'unixepoch')),
          created_us FROM label_set;
        DROP TABLE label_set;
        ALTER TABLE label_set_new RENAME TO label_set;
        """,
    )


@migration(datasets)
def m005_dataset_state(db: Database) -> None:
    """What may change of a dataset version: its tags, and whether it is still there."""
    run_script(
        db,
        """
        CREATE TABLE dataset_state (id TEXT PRIMARY KEY, tags TEXT NOT NULL DEFAULT '{}', deleted_us INTEGER) STRICT;
        """,
    )
