"""Live events to browsers: one stream per tab, bounded, and gone as soon as the server stops.

Each client has a queue of its own. One that reads too slowly loses what waited and is told to `resync`: to read its page
anew, which is always right, instead of a gap that it cannot see. One that comes back after a lost connection gets what it
missed, or a `resync` when that is more than a few.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from litestar import Request, get
from litestar.response import Stream

from mlbox.errors import TooMany
from mlbox.events import EventBus
from mlbox.records import Event, Principal
from mlbox.web.box import Box

QUEUE_LIMIT = 256
MAX_STREAMS = 500
HEARTBEAT_SECONDS = 15.0
RESUME_LIMIT = 200
OVERLAP_MS = 5000
"""Ids rise with time but for commits that cross: what comes twice does no harm, what is left out would."""
RESYNC = b"event: resync\ndata: {}\n\n"


def encode(event: Event) -> bytes:
    """An event on the wire; its data stays behind, because a page reads what changed with the reader's own rights."""
    body = {"id": event.id, "type": event.type, "subject": event.subject, "actor": event.actor, "at": event.at}
    return b"id: " + event.id.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


Seen = Callable[[list[Event]], Awaitable[list[Event]]]
"""Those of some events that the reader of a stream may know of."""


class Feed:
    """One client's queue, filled from the writers' threads and emptied on the event loop."""

    def __init__(
        self, bus: EventBus, stopping: asyncio.Event, *, limit: int = QUEUE_LIMIT, seen: Seen | None = None
    ) -> None:
        self._bus = bus
        self._seen = seen
        self._stopping = stopping
        self._limit = limit
        self._waiting: deque[Event | None] = deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def _heard(self, event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._add, event)

    def _add(self, event: Event | None) -> None:
        if len(self._waiting) >= self._limit:
            self._waiting.clear()
            event = None
        self._waiting.append(event)
        self._wake.set()

    async def stream(
        self, missed: Callable[[], Awaitable[bytes]] | None = None, *, heartbeat: float = HEARTBEAT_SECONDS
    ) -> AsyncIterator[bytes]:
        """Messages until the server stops or the client goes; first what it missed, asked for once nothing more can be."""
        with self._bus.listening(self._heard):
            yield b"retry: 2000\n\n" + (await missed() if missed else b"")
            stop = asyncio.ensure_future(self._stopping.wait())
            try:
                while not stop.done():
                    yield await self._next(stop, heartbeat)
            finally:
                stop.cancel()

    async def _next(self, stop: asyncio.Future[Any], heartbeat: float) -> bytes:
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({wake, stop}, timeout=heartbeat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
        self._wake.clear()
        waited = list(self._waiting)
        self._waiting.clear()
        return await self._told(waited) or b": still here\n\n"

    async def _told(self, waited: list[Event | None]) -> bytes:
        """What of these the reader may know of; None stands for a gap."""
        events = [event for event in waited if event is not None]
        seen = {event.id for event in (await self._seen(events) if self._seen else events)}
        return b"".join(RESYNC if e is None else encode(e) for e in waited if e is None or e.id in seen)


def since(box: Box, last: str) -> bytes:
    """What happened after an event, oldest first; a resync when it is not known or is too long ago."""
    try:
        floor = f"{max(0, int(last[:12], 16) - OVERLAP_MS):012x}"
    except ValueError:
        return RESYNC
    found = box.events(limit=RESUME_LIMIT)
    if len(found) == RESUME_LIMIT and found[-1].id >= floor:
        return RESYNC
    return b"".join(encode(event) for event in reversed(found) if event.id >= floor and event.id != last)


class _Count:
    open = 0


@get("/api/v1/events", summary="Live events as server-sent events", media_type="text/event-stream", action="audit.read")
async def events(
    request: Request[Any, Any, Any], box: Box, principal: Principal, position: str | None = None
) -> Stream:
    """What happens from now on, or from Last-Event-ID, as `data: {id, type, subject, actor, at}`.

    `event: resync` says that there is a gap: read anew. `position` is where a page stood when it was made.
    """
    if _Count.open >= MAX_STREAMS:
        raise TooMany(f"{MAX_STREAMS} event streams are open already.", hint="Close some tabs.")

    async def seen(found: list[Event]) -> list[Event]:
        return await box.call(box.visible_events, found) if box.teams.hides_something(principal) else found

    feed = Feed(box.bus, box.stopping, seen=seen)
    last = request.headers.get("last-event-id")

    async def missed() -> bytes:
        if last:
            return await box.call(since, box, last)
        if position is None:
            return b""
        found = box.bus.after(position)
        return RESYNC if found is None else b"".join(encode(event) for event in await seen(found))

    async def counted() -> AsyncIterator[bytes]:
        _Count.open += 1
        try:
            async for message in feed.stream(missed):
                yield message
        finally:
            _Count.open -= 1

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return Stream(counted, media_type="text/event-stream", headers=headers)


handlers = [events]
