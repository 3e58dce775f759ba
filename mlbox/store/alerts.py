"""Alerts: at most one fires for a name and its labels, and each has a beginning and an end in domain time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mlbox.clock import from_us
from mlbox.ids import new_id
from mlbox.records import Alert, AlertState
from mlbox.store.db import Database, Row, Tx

MOVES: dict[AlertState, tuple[AlertState, ...]] = {"firing": ("resolved",), "resolved": ()}
"""From each state, where an alert may go; what fires again is another alert."""


class Alerts:
    """All alerts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def fire(self, name: str, labels: Mapping[str, str], summary: str, value: float | None) -> Alert:
        """Begin an alert, or bring the one that fires up to date."""
        key = msgspec.json.encode(labels, order="sorted").decode()

        def write(tx: Tx) -> Row:
            row = tx.one("SELECT id FROM alert WHERE name = ? AND labels = ? AND state = 'firing'", (name, key))
            if row is not None:
                tx.run("UPDATE alert SET summary = ?, value = ? WHERE id = ?", (summary, value, row["id"]))
                alert_id = row["id"]
            else:
                alert_id = new_id()
                tx.run(
                    "INSERT INTO alert VALUES (?,?,?,'firing',?,?,?,NULL)",
                    (alert_id, name, key, summary, value, tx.domain_us),
                )
                tx.emit("alert.fired", f"alert:{alert_id}", "mlbox", name=name, labels=dict(labels), summary=summary)
            found = tx.one("SELECT * FROM alert WHERE id = ?", (alert_id,))
            assert found is not None
            return found

        return _alert(self._db.write(write))

    def resolve(self, name: str, labels: Mapping[str, str]) -> bool:
        """End the alert that fires for these labels; whether one did."""
        key = msgspec.json.encode(labels, order="sorted").decode()

        def write(tx: Tx) -> bool:
            row = tx.one("SELECT id FROM alert WHERE name = ? AND labels = ? AND state = 'firing'", (name, key))
            if row is None:
                return False
            tx.run("UPDATE alert SET state = 'resolved', resolved_us = ? WHERE id = ?", (tx.domain_us, row["id"]))
            tx.emit("alert.resolved", f"alert:{row['id']}", "mlbox", name=name, labels=dict(labels))
            return True

        return self._db.write(write)

    def page(self, *, state: AlertState | None = None, limit: int = 100, after: str | None = None) -> list[Alert]:
        """Alerts, newest first, from below the id `after`."""
        rows = self._db.all(
            "SELECT * FROM alert WHERE id < :after AND (:state IS NULL OR state = :state) ORDER BY id DESC LIMIT :limit",
            {"after": after or "~", "state": state, "limit": limit},
        )
        return [_alert(row) for row in rows]


def _alert(row: Row) -> Alert:
    return Alert(
        id=row["id"],
        name=row["name"],
        labels=msgspec.json.decode(row["labels"]),
        state=row["state"],
        summary=row["summary"],
        value=row["value"],
        fired_at=from_us(row["fired_us"]),
        resolved_at=from_us(row["resolved_us"]) if row["resolved_us"] is not None else None,
    )
