"""The in-process event bus: the one source of live updates, alerts, lineage and the audit log.

An event is written in the same transaction as the change that it reports (see `store.db`), and published here after the
commit. What a subscriber sees has therefore happened, and what happened can be read back from disk.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from mlbox.records import Event

Subscriber = Callable[[Event], None]
_log = logging.getLogger(__name__)


class EventBus:
    """Calls each subscriber, in the publishing thread, once per event. Subscribers must return at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[Subscriber, ...] = ()

    def publish(self, event: Event) -> None:
        """Hand an event to every subscriber; one that raises is logged and does not stop the others."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                _log.exception("A subscriber failed on event %s.", event.type)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Add a subscriber; call what is returned to remove it."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe

    @contextlib.contextmanager
    def listening(self, subscriber: Subscriber) -> Iterator[None]:
        """Subscribe for the length of a block."""
        unsubscribe = self.subscribe(subscriber)
        try:
            yield
        finally:
            unsubscribe()
