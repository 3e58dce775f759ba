"""Answers that are counted and logged together: what each costs beside its run is for the most part this.

Requests of a row each are answered as they come, and put down here. What follows for the statistics, the log and whoever watches
is worked out for as many as came within ten milliseconds, as if they were one request of many rows: of one alone it takes longer
than to answer it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from mlbox.clock import Clock
from mlbox.serve.inference.answers import Part

MOST, MOST_BYTES = 64, 256 * 1024
"""Rows, and bytes of what they were asked with, and then they are settled at once. Memory that waits for longer is used again
later, and by then is in no cache."""
SOON_SECONDS = 0.01


class Moment(NamedTuple):
    """When rows were answered."""

    real: datetime
    domain: datetime


class Entry(NamedTuple):
    """Rows that were answered, in so many runs."""

    part: Part
    runs: Sequence[tuple[int, float]]
    """Rows and seconds of each."""
    size: int = 0
    """Bytes of memory that this keeps."""


class Tab:
    """What was answered, until it is settled: soon, before anybody reads of it, or when it is much.

    `soon` has a function called after `SOON_SECONDS`, by a loop; without a loop all is settled at once.
    """

    def __init__(self, clock: Clock, settle: Callable[[Sequence[Entry], Moment], None]) -> None:
        self.soon: Callable[[Callable[[], None]], object] | None = None
        self._clock = clock
        self._settle = settle
        self._settling = threading.RLock()
        """Held until all is counted, so that who reads afterwards finds it."""
        self._entries: list[Entry] = []
        self._rows = self._size = 0
        self._moment: Moment | None = None

    def add(self, entry: Entry) -> None:
        """Put an answer down."""
        with self._settling:
            self._entries.append(entry)
            self._rows += len(entry.part.ids)
            self._size += entry.size
            first = self._moment is None
            if first:
                self._moment = Moment(self._clock.real(), self._clock.now())
            if self.soon is None or self._rows >= MOST or self._size >= MOST_BYTES:
                self.settle()
            elif first:
                self.soon(self.settle)

    def settle(self) -> None:
        """Count and log what is here."""
        with self._settling:
            entries, moment = self._entries, self._moment
            if not entries or moment is None:
                return
            self._entries, self._rows, self._size, self._moment = [], 0, 0, None
            self._settle(entries, moment)
