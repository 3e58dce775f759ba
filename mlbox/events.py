"""The in-process event bus: the one source of live updates, alerts, lineage and the audit log.

An event is written in the same transaction as the change that it reports (see `store.db`), and published here after the
commit. What a subscriber sees has therefore happened, and what happened can be read back from disk.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from mlbox.ids import new_id
from mlbox.records import Event

Subscriber = Callable[[Event], None]
KEPT = 512
"""Published events that are at hand: a page asks for those since it was made."""
_log = logging.getLogger(__name__)


class EventBus:
    """Calls each subscriber, in the publishing thread, once per event. Subscribers must return at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[tuple[Subscriber, tuple[str, ...]], ...] = ()
        """Each with how the types begin of the events that it is told of."""
        self._told: dict[str, tuple[Subscriber, ...]] = {}
        """By type, who is told of it, since somebody came or went."""
        self._epoch = new_id()
        self._count = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)

    @property
    def position(self) -> str:
        """How far the bus has come: whoever reads state after asking has seen what was published until here."""
        return f"{self._epoch}.{self._count}"

    def after(self, position: str) -> list[Event] | None:
        """What was published since a position, oldest first; None where that is not known: too much, or another process."""
        epoch, _, count = position.partition(".")
        with self._lock:
            since = self._count - int(count) if epoch == self._epoch and count.isdecimal() and len(count) < 20 else -1
            return list(self._kept)[len(self._kept) - since :] if 0 <= since <= len(self._kept) else None

    def publish(self, event: Event) -> None:
        """Hand an event to every subscriber; one that raises is logged and does not stop the others."""
        with self._lock:
            self._count += 1
            self._kept.append(event)
        told = self._told.get(event.type)
        for subscriber in self._told_of(event.type) if told is None else told:
            try:
                subscriber(event)
            except Exception:
                _log.exception("A subscriber failed on event %s.", event.type)

    def _told_of(self, type: str) -> tuple[Subscriber, ...]:
        with self._lock:
            told = tuple(subscriber for subscriber, types in self._subscribers if type.startswith(types))
            self._told[type] = told
            return told

    def subscribe(self, subscriber: Subscriber, types: Sequence[str] = ("",)) -> Callable[[], None]:
        """Add a subscriber, to events whose types are or begin so; call what is returned to remove it."""
        entry = (subscriber, tuple(types))
        with self._lock:
            self._subscribers, self._told = (*self._subscribers, entry), {}

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers, self._told = tuple(one for one in self._subscribers if one is not entry), {}

        return unsubscribe

    @contextlib.contextmanager
    def listening(self, subscriber: Subscriber) -> Iterator[None]:
        """Subscribe for the length of a block."""
        unsubscribe = self.subscribe(subscriber)
        try:
            yield
        finally:
            unsubscribe()
