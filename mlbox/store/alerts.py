"""Alerts: at most one fires for a name and its labels, and each has a beginning and an end in domain time.

`MOVES` is the life of one alert. `decide` is the whole policy: what a signal does to a condition, given whether an alert of it
fires. It is pure; `Alerts.apply` carries it out inside the caller's transaction, so that a measurement and what follows from it
commit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mlbox.clock import from_us
from mlbox.ids import new_id
from mlbox.records import Alert, AlertState
from mlbox.store.db import Database, Row, Tx

MOVES: dict[AlertState, tuple[AlertState, ...]] = {"firing": ("resolved",), "resolved": ()}
"""From each state, where an alert may go; what fires again is another alert."""

Signal = Literal["fire", "hold", "resolve"]
"""What a measurement says of a condition: it holds, it cannot be said, it is over."""
Step = Literal["open", "update", "close", "nothing"]
_STEPS: dict[tuple[bool, Signal], Step] = {
    (False, "fire"): "open",
    (False, "hold"): "nothing",
    (False, "resolve"): "nothing",
    (True, "fire"): "update",
    (True, "hold"): "nothing",
    (True, "resolve"): "close",
}


def decide(firing: bool, signal: Signal) -> Step:
    """What to do about a condition, given whether an alert of it fires."""
    return _STEPS[firing, signal]


class Alerts:
    """All alerts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def apply(
        self,
        tx: Tx,
        name: str,
        labels: Mapping[str, str],
        signal: Signal,
        *,
        summary: str,
        value: float | None = None,
    ) -> Step:
        """Do what a signal asks for; `summary` says in words why. An alert that goes on keeps its beginning."""
        key = _key(labels)
        firing = tx.one("SELECT id FROM alert WHERE name = ? AND labels = ? AND state = 'firing'", (name, key))
        step = decide(firing is not None, signal)
        if step == "open":
            _open(tx, name, labels, summary, value)
        elif firing is not None and step == "update":
            tx.run("UPDATE alert SET summary = ?, value = ? WHERE id = ?", (summary, value, firing["id"]))
        elif firing is not None and step == "close":
            _close(tx, firing["id"], name, labels, summary)
        return step

    def firing(self, tx: Tx, name: str) -> list[Alert]:
        """The alerts of a name that fire, as this transaction sees them."""
        return [_alert(row) for row in tx.all("SELECT * FROM alert WHERE name = ? AND state = 'firing'", (name,))]

    def page(self, *, state: AlertState | None = None, limit: int = 100, after: str | None = None) -> list[Alert]:
        """Alerts, newest first, from below the id `after`."""
        of_state = "state = :state AND" if state else ""  # a condition of its own, so that an index serves each list
        rows = self._db.all(
            f"SELECT * FROM alert WHERE {of_state} id < :after"
            " AND visible('model', labels ->> 'model') AND visible('view', labels ->> 'view')"
            " ORDER BY id DESC LIMIT :limit",
            {"after": after or "~", "state": state, "limit": limit},
        )
        return [_alert(row) for row in rows]


def _open(tx: Tx, name: str, labels: Mapping[str, str], summary: str, value: float | None) -> None:
    alert_id = new_id()
    tx.run(
        "INSERT INTO alert (id, name, labels, state, summary, value, fired_us) VALUES (?,?,?,'firing',?,?,?)",
        (alert_id, name, _key(labels), summary, value, tx.domain_us),
    )
    tx.emit("alert.fired", f"alert:{alert_id}", "mlbox", name=name, labels=dict(labels), summary=summary)


def _close(tx: Tx, alert_id: str, name: str, labels: Mapping[str, str], reason: str) -> None:
    tx.run("UPDATE alert SET state = 'resolved', resolved_us = ? WHERE id = ?", (tx.domain_us, alert_id))
    tx.emit("alert.resolved", f"alert:{alert_id}", "mlbox", name=name, labels=dict(labels), reason=reason)


def _key(labels: Mapping[str, str]) -> str:
    return msgspec.json.encode(labels, order="sorted").decode()


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
