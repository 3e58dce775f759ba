"""Users, tokens, login links and sessions."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.migrations.base import EVENT_TABLE, chain_events, migration, run_script

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


@migration(access)
def m002_teams(db: Database) -> None:
    run_script(
        db,
        """
        CREATE TABLE team (name TEXT PRIMARY KEY, created_us INTEGER NOT NULL) STRICT;
        CREATE TABLE membership (
          team TEXT NOT NULL REFERENCES team (name), user TEXT NOT NULL REFERENCES user (name), role TEXT NOT NULL,
          PRIMARY KEY (team, user)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX membership_user ON membership (user);
        -- What only the team that owns it may know of; whatever is not here is shared.
        CREATE TABLE private (kind TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID;
        """,
    )


@migration(access)
def m003_credentials(db: Database) -> None:
    run_script(
        db,
        """
        ALTER TABLE user ADD COLUMN kind TEXT NOT NULL DEFAULT 'person';
        ALTER TABLE user ADD COLUMN disabled_us INTEGER;
        ALTER TABLE user ADD COLUMN password TEXT;
        ALTER TABLE token ADD COLUMN used_us INTEGER;
        -- A session that was begun with a token may do no more than it, and ends with it.
        ALTER TABLE session ADD COLUMN token_id TEXT REFERENCES token (id);
        ALTER TABLE session ADD COLUMN address TEXT NOT NULL DEFAULT '';
        ALTER TABLE session ADD COLUMN agent TEXT NOT NULL DEFAULT '';
        CREATE INDEX session_user ON session (user_id);
        CREATE INDEX login_user ON login (user_id);
        """,
    )


@migration(access)
def m004_identities(db: Database) -> None:
    run_script(
        db,
        """
        CREATE TABLE identity (
          issuer TEXT NOT NULL, subject TEXT NOT NULL, user_id TEXT NOT NULL REFERENCES user (id),
          created_us INTEGER NOT NULL, PRIMARY KEY (issuer, subject)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX identity_user ON identity (user_id);
        """,
    )


@migration(access)
def m005_audit_chain(db: Database) -> None:
    chain_events(db)
