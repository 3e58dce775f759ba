"""A thread that follows something: it does its work when that is due, and when it is woken, for as long as the server lives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from mlbox.errors import MlboxError
from mlbox.events import EventBus

AGAIN_SECONDS = 60.0
T = TypeVar("T")
U = TypeVar("U")
_log = logging.getLogger(__name__)


class Loop:
    """Calls `work` again and again; it says after how many seconds it wants to be called again at the latest.

    Whatever is wrong with one call, as a store that is down, the thread lives on: `failed` is logged, and it is tried again after
    so many seconds.
    """

    def __init__(self, work: Callable[[], float], *, name: str, failed: str, again: float = AGAIN_SECONDS) -> None:
        self._work = work
        self._name = name
        self._failed = failed
        self._again = again
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._unsubscribe: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self.stopping = False
        """What long work looks at in between."""

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def wake(self, *, hurry: bool = False) -> None:
        """There may be something to do. Said during the work, it is done once more; in a hurry, after no `rest`."""
        if hurry:
            self._hurry.set()
        if not self._wake.is_set():  # it is asked far more often than it sleeps
            self._wake.set()

    def rest(self, seconds: float) -> None:
        """In the work: leave the machine to others for so long, unless somebody is or comes in a hurry."""
        if not self.stopping:
            self._hurry.wait(seconds)

    def wake_on(self, bus: EventBus, types: Sequence[str]) -> None:
        """Be woken by events whose types are or begin so, until it is closed."""
        self._unsubscribe.append(bus.subscribe(lambda event: self.wake(), types))

    def close(self, patience: float | None = None) -> None:
        """Stop; wait for what is being done, or as long as there is patience for it."""
        self.stopping = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self.wake(hurry=True)
        if self._thread is not None:
            self._thread.join(patience)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            self._hurry.clear()
            if self.stopping:
                return
            self._wake.wait(self._once())

    def _once(self) -> float:
        return attempt(self._work, self._failed, otherwise=self._again)


def attempt(work: Callable[[], T], failed: str, *, otherwise: U) -> T | U:
    """What the work gives. Whatever is wrong with it is logged after `failed`, and the thread that asks lives on."""
    try:
        return work()
    except MlboxError as err:
        _log.warning("%s: %s", failed, err)
    except Exception:
        _log.exception("%s.", failed)
    return otherwise
