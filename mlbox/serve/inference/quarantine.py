"""Which versions run no more: those that ended so many processes in so short a time that the next one would end, too."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from mlbox.clock import Clock
from mlbox.errors import MlboxError, Unavailable
from mlbox.records import Event
from mlbox.serve.inference.slots import Name
from mlbox.serve.inference.workers import Workers
from mlbox.store.registry.quarantines import RELEASED, Quarantines

CRASHES = 3
WINDOW = timedelta(minutes=5)
_log = logging.getLogger(__name__)


class Death(NamedTuple):
    """Of a process that ran a version."""

    at: datetime
    took: timedelta = timedelta()
    """How long it had run it: one that hangs until its time is over, which may be an hour, dies as seldom."""


def is_too_much(deaths: Sequence[Death]) -> bool:
    """Whether the last death of a version is one too many: so many within the window, beside the time that their runs took."""
    last = deaths[-CRASHES:]
    return len(last) == CRASHES and _span(last) - sum([death.took for death in last[1:]], timedelta()) < WINDOW


def _span(deaths: Sequence[Death]) -> timedelta:
    return deaths[-1].at - deaths[0].at


class Quarantine:
    """Counts deaths, and keeps versions from running: `check` raises for those."""

    def __init__(self, kept: Quarantines, workers: Workers, clock: Clock) -> None:
        self._kept = kept
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._deaths: dict[Name, list[Death]] = {}
        """As many of each version, the latest last, as are too many."""
        self.drop: Callable[[str, int], None] = lambda model, version: None
        """Frees a version's memory."""
        workers.crashed = self.crashed

    def check(self, model: str, version: int) -> None:
        """Raise Unavailable, with the reason, for a version in quarantine."""
        found = self._kept.of(model, version)
        if found is not None:
            raise _barred((model, version), found.reason)

    def crashed(self, name: Name, how: str, seconds: float) -> None:
        """A process died of a version that it had run for so long."""
        with self._lock:
            deaths = self._deaths.setdefault(name, [])
            deaths[:] = [*deaths, Death(self._clock.real(), timedelta(seconds=seconds))][-CRASHES:]
            if not is_too_much(deaths):
                return
            del self._deaths[name]
        minutes = math.ceil(max(WINDOW, _span(deaths)) / timedelta(minutes=1))
        reason = f"{CRASHES} processes ended while they ran it, within {minutes} minutes; the last by {how}"
        self._workers.bar(name, lambda: _barred(name, reason))
        _log.error("%s/%s is in quarantine: %s.", *name, reason)
        try:
            self._kept.put(*name, reason)
        except MlboxError as err:  # then until the next start
            _log.error("That %s/%s is in quarantine could not be kept: %s", *name, err)
        self.drop(*name)

    def on_event(self, event: Event) -> tuple[str, int] | None:
        """The version that an event lets run again, if it does."""
        if event.type != RELEASED:
            return None
        model, _, number = event.subject.removeprefix("model:").rpartition("/")
        self._workers.unbar((model, int(number)))
        return model, int(number)


def _barred(name: Name, reason: str) -> Unavailable:
    return Unavailable(
        f"{name[0]}/{name[1]} is in quarantine: {reason}.",
        hint=f"Serve another version, or have an admin run `mlbox model release {name[0]}@{name[1]}`.",
    )
