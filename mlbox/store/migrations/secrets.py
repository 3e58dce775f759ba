"""Secrets for jobs, encrypted."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

secrets = Migrations("secrets")


@migration(secrets)
def m001_secrets(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE secret (
          team TEXT NOT NULL, name TEXT NOT NULL, key_id TEXT NOT NULL, nonce BLOB NOT NULL, sealed BLOB NOT NULL,
          set_by TEXT NOT NULL, set_us INTEGER NOT NULL, used_us INTEGER, PRIMARY KEY (team, name)
        ) STRICT, WITHOUT ROWID;
        """,
    )


@migration(secrets)
def m002_audit_chain(db: Database) -> None:
    chain_events(db)
