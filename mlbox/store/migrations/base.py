"""What all migration sets share: registration, scripts inside a transaction, and the event table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from mlbox.store.audit import COLUMNS, FIRST, link

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


CHAINED_EVENTS = """
DROP TRIGGER event_stays;
ALTER TABLE event ADD COLUMN seq INTEGER;
ALTER TABLE event ADD COLUMN token_id TEXT;
ALTER TABLE event ADD COLUMN previous TEXT;
ALTER TABLE event ADD COLUMN hash TEXT;
CREATE INDEX event_actor ON event (actor, id);
"""
_SEALED_EVENTS = """
CREATE UNIQUE INDEX event_seq ON event (seq);
CREATE TRIGGER event_stays BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;
CREATE TRIGGER event_follows BEFORE INSERT ON event
WHEN NEW.seq IS NULL OR NEW.hash IS NULL OR EXISTS (SELECT 1 FROM event WHERE id = NEW.id OR seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'an event is appended, and replaces none'); END;
"""


def chain_events(db: Database) -> None:
    """Give every event the hash of itself and of the one before it, as `store/audit.py` says."""
    run_script(db, CHAINED_EVENTS)
    previous = FIRST
    columns = ", ".join(COLUMNS[1:])
    for seq, row in enumerate(db.conn.execute(f"SELECT {columns} FROM event ORDER BY id").fetchall(), start=1):
        digest = link(previous, (seq, *row))
        db.conn.execute(
            "UPDATE event SET seq = ?, previous = ?, hash = ? WHERE id = ?", (seq, previous, digest, row[0])
        )
        previous = digest
    run_script(db, _SEALED_EVENTS)


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
