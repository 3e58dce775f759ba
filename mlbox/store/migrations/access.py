"""Users, tokens, login links and sessions."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, migration, run_script

access = Migrations("access")


@migration(access)
def m001_users_and_tokens(db: Database) -> None:
    run_script(
        db,
        EVENT_TABLE
        + """
        CREATE TABLE user (
          id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, created_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE token (
          id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES user (id), name TEXT NOT NULL, role TEXT NOT NULL,
          digest BLOB NOT NULL UNIQUE, created_us INTEGER NOT NULL, expires_us INTEGER, job_id TEXT, revoked_us INTEGER
        ) STRICT;
        CREATE INDEX token_user ON token (user_id, id);
        CREATE INDEX token_job ON token (job_id) WHERE job_id IS NOT NULL;
        CREATE TABLE login (
          digest BLOB PRIMARY KEY, user_id TEXT NOT NULL REFERENCES user (id), expires_us INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE session (
          digest BLOB PRIMARY KEY, user_id TEXT NOT NULL REFERENCES user (id), csrf TEXT NOT NULL,
          created_us INTEGER NOT NULL, seen_us INTEGER NOT NULL
        ) STRICT;
        """,
    )
