"""Silences: alerts that nobody is told of for a while, with who said so, until when, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Alert, Silence
from mlbox.store.db import Database, Row, Tx

LONGEST = timedelta(days=90)
NAME = "alertname"
"""The label that stands for an alert's name."""
TABLE = """
CREATE TABLE silence (
  id TEXT PRIMARY KEY, labels TEXT NOT NULL, author TEXT NOT NULL, reason TEXT NOT NULL, created_us INTEGER NOT NULL,
  expires_us INTEGER NOT NULL
) STRICT;
CREATE INDEX silence_expires ON silence (expires_us);
"""


class Silences:
    """All of them. They begin and end in domain time."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, labels: Mapping[str, str], *, hold: timedelta, reason: str, actor: str) -> Silence:
        """Silence the alerts that have all these labels, `alertname` among them, for a while; raises InvalidInput."""
        if not labels:
            raise InvalidInput(
                "Nothing is named.", hint="Such as model=delay or alertname=feature_drift.", field="labels"
            )
        if not timedelta(0) < hold <= LONGEST:
            raise InvalidInput("A silence lasts up to 90 days.", hint="Such as 2h.", field="for_seconds")
        if not reason.strip():
            raise InvalidInput("A silence has a reason.", hint="Say why, for whoever wonders.", field="reason")

        def write(tx: Tx) -> str:
            own, end = new_id(), tx.domain_us + int(hold.total_seconds() * 1e6)
            text = msgspec.json.encode(dict(labels), order="sorted").decode()
            tx.run("INSERT INTO silence VALUES (?,?,?,?,?,?)", (own, text, actor, reason, tx.domain_us, end))
            tx.emit("alert.silenced", f"alert:{own}", actor, labels=dict(labels), until=from_us(end), reason=reason)
            return own

        return self.get(self._db.write(write))

    def get(self, silence_id: str) -> Silence:
        """One; raises NotFound."""
        row = self._db.one("SELECT * FROM silence WHERE id = ? AND visible('model', labels ->> 'model')", (silence_id,))
        if row is None:
            raise NotFound(f"There is no silence {silence_id[:80]!r}.", hint="`mlbox alert silences` lists them.")
        return _silence(row)

    def end(self, silence_id: str, *, actor: str) -> Silence:
        """End a silence now; one that has ended stays as it is."""
        found = self.get(silence_id)

        def write(tx: Tx) -> None:
            done = tx.run(
                "UPDATE silence SET expires_us = ? WHERE id = ? AND expires_us > ?",
                (tx.domain_us, found.id, tx.domain_us),
            )
            if done.rowcount:
                tx.emit("alert.unsilenced", f"alert:{found.id}", actor, labels=found.labels)

        self._db.write(write)
        return self.get(silence_id)

    def page(self, *, limit: int = 100, after: str | None = None, at: datetime | None = None) -> list[Silence]:
        """All, or those that have not ended at a moment of domain time, newest first."""
        rows = self._db.all(
            "SELECT * FROM silence WHERE id < ? AND expires_us > ? AND visible('model', labels ->> 'model')"
            " ORDER BY id DESC LIMIT ?",
            (after or "~", to_us(at) if at else -1, limit),
        )
        return [_silence(row) for row in rows]


def active(tx: Tx) -> list[Silence]:
    """Those that hold now; one that was made by a clock that has been put back since does not, or it would hold too long."""
    rows = tx.all("SELECT * FROM silence WHERE created_us <= :now AND expires_us > :now", {"now": tx.domain_us})
    return [_silence(row) for row in rows]


def silences(silence: Silence, alert: Alert) -> bool:
    """Whether an alert is meant."""
    has = {**alert.labels, NAME: alert.name}
    return all(has.get(label) == value for label, value in silence.labels.items())


def _silence(row: Row) -> Silence:
    return Silence(
        id=row["id"],
        labels=msgspec.json.decode(row["labels"]),
        author=row["author"],
        reason=row["reason"],
        created_at=from_us(row["created_us"]),
        expires_at=from_us(row["expires_us"]),
    )
