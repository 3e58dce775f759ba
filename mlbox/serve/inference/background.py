"""Work that must not hold up who asked for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

Task = Callable[[], None]
JOIN_SECONDS = 0.5
PAUSE_SECONDS = 0.002
LINGER_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Background:
    """One thread and a bounded queue. It starts with the first task, and does not outlive the process.

    To wake a thread costs whoever does it some 20 µs. So one that had work a moment ago looks for more by itself, every few
    milliseconds, and only one that had none for a while sleeps until it is woken.
    """

    def __init__(self, name: str, *, room: int) -> None:
        self._name = name
        self._room = room
        self._tasks: deque[Task] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._sleeps = False
        self._thread: threading.Thread | None = None
        self._closed = False

    def offer(self, task: Task) -> bool:
        """Queue a task; False, at once, when the queue is full or closed."""
        with self._lock:
            if self._closed or len(self._tasks) >= self._room:
                return False
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
        if self._sleeps:
            self._wake.set()
        return True

    def _loop(self) -> None:
        last = time.monotonic()
        while not self._closed:
            if task := self._next():
                self._run(task)
                last = time.monotonic()
            elif time.monotonic() - last < LINGER_SECONDS:
                time.sleep(PAUSE_SECONDS)
            else:
                self._sleep()

    def _next(self) -> Task | None:
        with self._lock:
            return self._tasks.popleft() if self._tasks else None

    def _sleep(self) -> None:
        """Until there is work. It is said before it is looked for once more: what comes in between wakes."""
        self._wake.clear()
        self._sleeps = True
        if not self._tasks and not self._closed:
            self._wake.wait()
        self._sleeps = False

    def _run(self, task: Task) -> None:
        try:
            task()
        except Exception:
            _log.exception("A task of %s failed.", self._name)

    def close(self) -> None:
        """Drop what waits, and wait a moment for the task that runs."""
        with self._lock:
            self._closed = True
            self._tasks.clear()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
