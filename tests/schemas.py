"""The schema of an empty database, made by its migrations once in a process and copied into each further file.

A box of stores takes 60 ms of migrations, and thousands of tests make one. Migrations have tests of their own, and each server
that tests start as a process of its own runs them.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

_run = Migrations.apply
_made: dict[tuple[str, ...], sqlite3.Connection] = {}


def copied() -> None:
    """Have what applies all migrations to an empty file copy what the first one made."""
    Migrations.apply = _apply


def _apply(migrations: Migrations, db: Database, **how: Any) -> None:
    key = (migrations.name, *(one.name for one in migrations._migrations))
    empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if how or not empty:
        _run(migrations, db, **how)
    elif key in _made:
        _made[key].backup(db.conn)
    else:
        _run(migrations, db)
        _made[key] = sqlite3.connect(":memory:", check_same_thread=False)
        db.conn.backup(_made[key])
