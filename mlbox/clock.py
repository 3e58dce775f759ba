"""Time as a seam: domain time and real time, and their conversion.

Domain time rules what the data means: TTL, arrival, windows, holds, alerts. Real time rules what the machine does:
auth, audit, leases, timeouts, cron. In normal use the two are one; in replay mode domain time stands still until it is
advanced, and in tests both are driven by hand.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Protocol

from mlbox.errors import InvalidInput

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIRST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_FINER = re.compile(r"[.,]\d{6}(\d+)")


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; a naive moment is refused, because it names no instant."""
    if moment.tzinfo is None:
        raise InvalidInput(f"The time {moment.isoformat()} has no time zone.", hint="Write it with an offset or a Z.")
    us = (moment - EPOCH) // MICROSECOND
    if not FIRST_US <= us <= LAST_US:
        raise _outside(moment.isoformat(), "time")
    return us


def from_us(us: int) -> datetime:
    """The UTC moment of a count of microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=us)


def parse_time(text: str, *, field: str = "time", up: bool = False) -> datetime:
    """An ISO 8601 moment with a zone, as UTC; what is finer than a microsecond is cut off, or with `up` rounded up."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise InvalidInput(f"{text!r} is not a time.", hint="Write it like 2013-01-01T00:00Z.", field=field) from err
    if moment.tzinfo is None:
        raise InvalidInput(f"The time {text!r} has no time zone.", hint="Add an offset or a Z.", field=field)
    try:
        return moment.astimezone(UTC) + (MICROSECOND if up and is_finer(text) else timedelta())
    except OverflowError as err:
        raise _outside(text, field) from err


def _outside(text: str, field: str) -> InvalidInput:
    return InvalidInput(
        f"The time {text} lies outside the years 1 to 9999 of UTC.",
        hint="Write an earlier or a later one.",
        field=field,
    )


def is_finer(text: str) -> bool:
    """Whether a moment in ISO 8601 says more than its microsecond."""
    found = _FINER.search(text)
    return found is not None and bool(found[1].strip("0"))


class Clock(Protocol):
    """The seam: everything in mlbox that asks for the time asks one of these."""

    @property
    def replay(self) -> bool:
        """True when domain time does not follow real time."""

    def now(self) -> datetime:
        """Domain time, UTC."""

    def real(self) -> datetime:
        """Real time, UTC."""

    def advance(self, to: datetime) -> None:
        """Move domain time forward; refused where it follows real time, and backwards."""


class SystemClock:
    """Domain time is real time."""

    replay = False

    def now(self) -> datetime:
        return self.real()

    def real(self) -> datetime:
        return datetime.now(UTC)

    def advance(self, to: datetime) -> None:
        raise InvalidInput(
            "This server's clock follows real time and cannot be advanced.",
            hint="Start a new data directory with --replay-clock to replay the past.",
        )


class ReplayClock(SystemClock):
    """Domain time stands until it is advanced; real time runs on."""

    replay = True

    def __init__(self, start: datetime) -> None:
        self._lock = threading.Lock()
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, to: datetime) -> None:
        with self._lock:
            if to < self._now:
                raise InvalidInput(
                    f"Domain time is {self._now.isoformat()} already and cannot go back to {to.isoformat()}.",
                    hint="Advance to a later moment.",
                    field="to",
                )
            self._now = to.astimezone(UTC)
            self._moved()

    def _moved(self) -> None:
        """Called under the lock after each advance."""


class ManualClock(ReplayClock):
    """Both clocks driven by hand: what tests use to live through a day in a millisecond."""

    def real(self) -> datetime:
        return self._now
