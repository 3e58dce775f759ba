"""Alerts: at most one fires for a name and its labels, and each has a beginning and an end in domain time.

`MOVES` is the life of one alert. `decide` is the whole policy: what a signal does to a condition, given the state of its alert
and whether it has lasted for as long as its rule wants. It is pure; `Alerts.apply` carries it out inside the caller's
transaction, so that a measurement and what follows from it commit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mlbox.clock import from_us
from mlbox.ids import new_id
from mlbox.records import Alert, AlertState
from mlbox.store.db import Database, Row, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce, duration

State = Literal["inactive", "pending", "firing", "resolved"]
MOVES: dict[State, tuple[State, ...]] = {
    "inactive": ("pending", "firing"),
    "pending": ("firing", "inactive"),
    "firing": ("resolved",),
    "resolved": (),
}
"""From each state, where an alert may go; what fires again is another alert."""

Signal = Literal["fire", "hold", "resolve"]
"""What a measurement says of a condition: it holds, it cannot be said, it is over."""
Step = Literal["wait", "open", "update", "forget", "close", "nothing"]
_ENDS: dict[State, Step] = {"inactive": "nothing", "pending": "forget", "firing": "close", "resolved": "nothing"}


def decide(state: State, signal: Signal, *, lasted: bool = True) -> Step:
    """What to do about a condition, given its alert's state and whether it has lasted for as long as its rule wants."""
    if signal == "hold":
        return "nothing"
    if signal == "resolve":
        return _ENDS[state]
    if state == "firing":
        return "update"
    return "open" if lasted else "wait"


class Alerts:
    """All alerts."""

    def __init__(self, db: Database, rules: InForce = DEFAULT) -> None:
        self._db = db
        self._rules = rules

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
        known = tx.one(
            "SELECT id, state, fired_us FROM alert WHERE name = ? AND labels = ? AND state IN ('pending', 'firing')",
            (name, key),
        )
        wanted = duration(self._rules.of(name).hold, "for")
        if known is not None and known["state"] == "pending" and known["fired_us"] > tx.domain_us:
            _begin_anew(tx, known["id"])
        began = min(known["fired_us"], tx.domain_us) if known else tx.domain_us
        lasted = tx.domain_us - began >= wanted.total_seconds() * 1e6
        step = decide(known["state"] if known else "inactive", signal, lasted=lasted)
        if known is None and step in ("open", "wait"):
            _open(tx, name, labels, summary, value, pending=step == "wait")
        elif known is not None and step == "open":
            _fire(tx, known["id"], name, labels, summary, value)
        elif known is not None and step in ("update", "wait"):
            tx.run("UPDATE alert SET summary = ?, value = ? WHERE id = ?", (summary, value, known["id"]))
        elif known is not None and step == "forget":
            tx.run("DELETE FROM alert WHERE id = ?", (known["id"],))
        elif known is not None and step == "close":
            _close(tx, known["id"], name, labels, summary)
        return step

    def firing(self, tx: Tx, name: str) -> list[Alert]:
        """The alerts of a name that fire or are about to, as this transaction sees them."""
        rows = tx.all("SELECT * FROM alert WHERE name = ? AND state IN ('pending', 'firing')", (name,))
        return [_alert(row) for row in rows]

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


def open_and_told(tx: Tx) -> list[Alert]:
    """The alerts that fire, and those that ended and whose beginning somebody was told of, oldest first."""
    rows = tx.all(
        "SELECT * FROM alert WHERE state = 'firing' UNION SELECT * FROM alert WHERE state = 'resolved'"
        " AND id IN (SELECT alert_id FROM notice WHERE state = 'firing') ORDER BY id"
    )
    return [_alert(row) for row in rows]


def _open(tx: Tx, name: str, labels: Mapping[str, str], summary: str, value: float | None, *, pending: bool) -> None:
    alert_id = new_id()
    tx.run(
        "INSERT INTO alert (id, name, labels, state, summary, value, fired_us) VALUES (?,?,?,'pending',?,?,?)",
        (alert_id, name, _key(labels), summary, value, tx.domain_us),
    )
    if not pending:
        _fire(tx, alert_id, name, labels, summary, value)


def _fire(tx: Tx, alert_id: str, name: str, labels: Mapping[str, str], summary: str, value: float | None) -> None:
    tx.run(
        "UPDATE alert SET state = 'firing', summary = ?, value = ?, fired_us = ? WHERE id = ?",
        (summary, value, tx.domain_us, alert_id),
    )
    tx.emit("alert.fired", f"alert:{alert_id}", "mlbox", name=name, labels=dict(labels), summary=summary)


def _begin_anew(tx: Tx, alert_id: str) -> None:
    """The clock was put back: what waits would else wait until it is where it was."""
    tx.run("UPDATE alert SET fired_us = ? WHERE id = ?", (tx.domain_us, alert_id))


def _close(tx: Tx, alert_id: str, name: str, labels: Mapping[str, str], reason: str) -> None:
    # Where the clock was put back meanwhile, it did not end before it began: an Alertmanager refuses that.
    tx.run("UPDATE alert SET state = 'resolved', resolved_us = max(fired_us, ?) WHERE id = ?", (tx.domain_us, alert_id))
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
