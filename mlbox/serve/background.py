"""Work that must not hold up who asked for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]
JOIN_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Background:
    """One thread and a bounded queue. It starts with the first task, and does not outlive the process."""

    def __init__(self, name: str, *, room: int) -> None:
        self._name = name
        self._tasks: queue.Queue[Task | None] = queue.Queue(room)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def offer(self, task: Task) -> bool:
        """Queue a task; False, at once, when the queue is full or closed."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            return False
        return True

    def _loop(self) -> None:
        while (task := self._tasks.get()) is not None and not self._closed:
            try:
                task()
            except Exception:
                _log.exception("A task of %s failed.", self._name)

    def close(self) -> None:
        """Drop what waits, and wait a moment for the task that runs."""
        with self._lock:
            self._closed = True
        while True:
            try:
                self._tasks.put_nowait(None)
                break
            except queue.Full:
                self._tasks.get_nowait()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
