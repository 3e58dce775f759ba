"""The schemas of all SQLite files, as named, forward-only migrations. A released migration is never edited."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

EVENT_TABLE = """
CREATE TABLE event (
  id TEXT PRIMARY KEY, type TEXT NOT NULL, subject TEXT NOT NULL, actor TEXT NOT NULL,
  at_us INTEGER NOT NULL, domain_us INTEGER NOT NULL, data TEXT NOT NULL
) STRICT;
CREATE INDEX event_subject ON event (subject, id);
CREATE INDEX event_type ON event (type, id);
"""
"""Every file has this table: an audit row commits together with the change that it describes."""


Migration = Callable[[Database], None]


def _migration(migrations: Migrations) -> Callable[[Migration], Migration]:
    """Register a function under its own name."""
    register: Callable[[Migration], Migration] = migrations()
    return register


def run_script(db: Database, script: str) -> None:
    """Execute statements one by one inside the caller's transaction, which `executescript` would commit."""
    for statement in _statements(script):
        db.conn.execute(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


access = Migrations("access")


@_migration(access)
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
