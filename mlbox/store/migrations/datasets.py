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
    """Which artifact is which object of DVC's: one that a team pushed, or a file of a dataset version."""
    named = (
        "INSERT OR IGNORE INTO dataset_oid SELECT json_extract(value, '$.md5'), {0}.id, json_extract(value, '$.sha256'),"
        " json_extract(value, '$.size') FROM {1}json_each({0}.record, '$.files') WHERE json_extract(value, '$.md5') <> '';"
    )
    run_script(
        db,
        f"""
        CREATE TABLE dvc_object (
          oid TEXT NOT NULL, team TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL, created_by TEXT NOT NULL,
          created_us INTEGER NOT NULL, PRIMARY KEY (oid, team)
        ) STRICT;
        CREATE TABLE dataset_oid (
          oid TEXT NOT NULL, dataset_id TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
          PRIMARY KEY (oid, dataset_id)
        ) STRICT, WITHOUT ROWID;
        {named.format("dataset", "dataset, ")}
        CREATE TRIGGER dataset_is_named AFTER INSERT ON dataset
        BEGIN {named.format("NEW", "")} END;
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
