"""What all migration sets share: registration, scripts inside a transaction, and the event table."""

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
CREATE TRIGGER event_stays BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;
CREATE TRIGGER event_kept BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'the audit log is kept'); END;
"""
"""Every file has this table: an audit row commits together with the change that it describes, and stays as it is."""


Migration = Callable[[Database], None]


def migration(migrations: Migrations) -> Callable[[Migration], Migration]:
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
