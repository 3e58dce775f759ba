"""Deadlines, and clients that left: one thread for all that runs, which looks from time to time.

A timer for each request would cost more than most runs take; looking every 20 ms costs nothing while nothing runs.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

EVERY_SECONDS = 0.02


class Watched(Protocol):
    """What may take too long."""

    def look(self, now: float) -> bool:
        """End what is past its deadline, by `time.perf_counter`, or for nobody; False once nothing runs or waits."""


class Watch:
    """Looks at what was added until nothing of it runs. Its thread starts with the first, and does not outlive the process."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def add(self, watched: Watched) -> None:
        """Begin to look at something."""
        if watched in self._watched:
            return
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="mlbox-deadlines", daemon=True)
                self._thread.start()
        self._wake.set()

    def _loop(self) -> None:
        while not self._closed.wait(EVERY_SECONDS):
            for watched in list(self._watched):
                with self._lock:  # before the look: what begins during it is added anew
                    self._watched.discard(watched)
                if watched.look(time.perf_counter()):
                    with self._lock:
                        self._watched.add(watched)
            if not self._watched:
                self._wake.wait()
            self._wake.clear()

    def close(self) -> None:
        """Look at nothing more."""
        self._closed.set()
        self._wake.set()
