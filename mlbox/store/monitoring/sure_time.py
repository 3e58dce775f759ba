"""A time to remove things by: a clock that leapt ahead makes nothing old until it has stood by it for a week.

A clock that is wrong for an hour, by a year, would else take a log that the law wants kept, and what is gone stays gone. So the
box writes down when it looked last. Where more time has passed than that, and than this process has run since, removing goes by
the last moment that was certain, and an alert says so.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import NamedTuple

from mlbox.clock import Clock, from_us, to_us
from mlbox.store.db import Database, Row, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts

JUMPED = "clock_jumped"
MOST = timedelta(days=2)
"""So long a box may be switched off, and nobody wonders."""
DOUBT = timedelta(days=7)
"""For so long after a leap it is not believed: a clock that is wrong is noticed until then."""
TABLE = """
CREATE TABLE clock_seen (
  one INTEGER PRIMARY KEY CHECK (one = 1), at_us INTEGER NOT NULL, sure_us INTEGER NOT NULL, until_us INTEGER
) STRICT;
"""


class Seen(NamedTuple):
    """What a look at the clock found."""

    at: datetime
    sure: datetime
    """The last moment that is certain."""
    until: datetime | None = None
    """When the clock is believed again; None where it is."""


def look(before: Seen | None, now: datetime, ran: timedelta) -> Seen:
    """What a look at the clock finds, after another one since which this process has run for so long.

    A clock that was put back is believed: by it less is old.
    """
    if before is None or now < before.at:
        return Seen(now, now)
    if now - before.at - ran > MOST:
        return Seen(now, before.sure, now + DOUBT)
    if before.until is not None and now < before.until:
        return Seen(now, before.sure, before.until)
    return Seen(now, now)


class SureTime:
    """Real time, but for leaps."""

    def __init__(self, db: Database, clock: Clock, rules: InForce = DEFAULT) -> None:
        self._db = db
        self._clock = clock
        self._alerts = Alerts(db, rules)
        self._lock = threading.Lock()
        self._looked: float | None = None
        """When this process looked last, by what no clock that is set changes."""

    def now(self) -> datetime:
        """The moment that what is old is old by; raises Unavailable."""
        with self._lock:
            return self._seen(self._db.one("SELECT * FROM clock_seen")).sure

    def look(self) -> None:
        """Write down what the clock says, and raise or end the alert; raises Unavailable."""
        with self._lock:
            self._db.write(self._look)
            self._looked = time.monotonic()

    def _seen(self, row: Row | None) -> Seen:
        now = time.monotonic()
        ran = timedelta(seconds=now - (now if self._looked is None else self._looked))
        return look(_before(row) if row is not None else None, self._clock.real(), ran)

    def _look(self, tx: Tx) -> None:
        found = self._seen(tx.one("SELECT * FROM clock_seen"))
        times = (to_us(found.at), to_us(found.sure), None if found.until is None else to_us(found.until))
        tx.run("INSERT OR REPLACE INTO clock_seen VALUES (1, ?, ?, ?)", times)
        if found.until is None:
            self._alerts.apply(tx, JUMPED, {}, "resolve", summary="The clock is believed")
            return
        words = (
            f"The clock leapt from {_said(found.sure)} to {_said(found.at)}; until {_said(found.until)}"
            " no prediction is removed for what it says"
        )
        self._alerts.apply(tx, JUMPED, {}, "fire", summary=words)


def _before(row: Row) -> Seen:
    until = row["until_us"]
    return Seen(from_us(row["at_us"]), from_us(row["sure_us"]), None if until is None else from_us(until))


def _said(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
