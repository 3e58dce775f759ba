"""HTTP on the wire: uvicorn's protocol, with limits on headers and connections and on how slow a client may be.

uvicorn waits for ever for the rest of a request, and for ever for a client to read an answer. One watch walks all connections
a few times a second, instead of a timer for every read, so that a request costs two more clock readings and nothing else.

What is too slow
- headers that are not whole `read_timeout` seconds after the connection opened or their first byte came;
- a body that is later than `read_timeout` seconds and one more for each 500 bytes of it; time in which the server itself
  did not read does not count;
- an answer of which the client has taken nothing for `write_timeout` seconds while there was something to take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from mlbox.errors import InvalidInput, MlboxError, TooLarge, TooMany
from mlbox.settings import Settings
from mlbox.web.fast.protocol import FastProtocol
from mlbox.web.problems import body_of

MIN_RATE = 500
"""Bytes a second that a body must come at on average, once its first `read_timeout` seconds are over."""
HEAD, BODY, IDLE = "head", "body", "idle"


class Bounds(NamedTuple):
    """What a connection may take."""

    max_header: int
    max_connections: int
    read_timeout: float
    write_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Those of the settings."""
        return cls(settings.max_header, settings.max_connections, settings.read_timeout, settings.write_timeout)


class WatchedProtocol(FastProtocol):
    """One connection."""

    def __init__(self, *args: Any, bounds: Bounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._phase = HEAD
        self._waited = 0.0
        """Seconds that the client let the server wait in this phase."""
        self._bytes = 0
        """Received in this phase; of headers at most, because a request may begin in the middle of a chunk."""
        self._chunk = 0
        self._before = 0
        """Of `_bytes`, how many may have belonged to the request before."""
        self._stuck = 0.0
        """Seconds for which the client took nothing of an answer."""
        self._unsent = 0

    # -- from uvicorn -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; one connection too many is told so and closed."""
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self._bounds.max_connections:
            err = TooMany(
                f"{self._bounds.max_connections:,} connections are open already.",
                hint="Try again in a moment; the setting max_connections says how many.",
                field="max_connections",
            )
            self._end(err, retry=True)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and give up on headers without an end."""
        if self.transport.is_closing():
            return
        self._chunk = len(data)
        self._bytes += self._chunk
        super().data_received(data)
        if (
            self._phase == HEAD
            and self._bytes - self._before > self._bounds.max_header
            and not self.transport.is_closing()
        ):
            self._end(self._headers_too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._phase != HEAD:
            self._phase, self._waited, self._bytes, self._before = HEAD, 0.0, self._chunk, self._chunk

    def on_headers_complete(self) -> None:
        """The headers are whole: only now does anyone look at the request."""
        if self.transport.is_closing():
            return
        if self._bytes > self._bounds.max_header and _size(self.headers) + len(self.url) > self._bounds.max_header:
            self._end(self._headers_too_large())
            return
        super().on_headers_complete()
        self._phase, self._waited, self._bytes = BODY, 0.0, 0

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self.transport.is_closing():
            return
        super().on_message_complete()
        self._phase, self._waited, self._bytes = IDLE, 0.0, 0

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the words and the shape of every other error."""
        if not self.transport.is_closing():
            self._end(InvalidInput("This is not a valid HTTP request.", hint="Send HTTP/1.1."))

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing here speaks anything but HTTP: a request to change over is answered as if it had not asked."""

    # -- the watch ----------------------------------------------------------------------------------------------------

    def look(self, seconds: float) -> None:
        """Close the connection if its client is too slow; `seconds` have passed since the last look."""
        if self._is_stuck(seconds):
            self.transport.abort()
        elif not self.transport.is_closing() and self._is_late(seconds):
            if self._phase == HEAD and not self._bytes:
                self.transport.close()
            else:
                err = InvalidInput(
                    f"The {'headers' if self._phase == HEAD else 'body'} of the request came too slowly.",
                    hint="The setting read_timeout says how long they may take.",
                    field="read_timeout",
                )
                err.status, err.code = 408, "request_timeout"
                self._end(err)

    def _is_late(self, seconds: float) -> bool:
        if self._phase == IDLE or (self._phase == BODY and self.flow.read_paused):
            return False
        self._waited += seconds
        allowed = self._bounds.read_timeout + (self._bytes / MIN_RATE if self._phase == BODY else 0)
        return self._waited > allowed

    def _is_stuck(self, seconds: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        self._stuck = self._stuck + seconds if unsent and unsent >= self._unsent else 0.0
        self._unsent = unsent
        return self._stuck > self._bounds.write_timeout

    # -- endings ------------------------------------------------------------------------------------------------------

    def _headers_too_large(self) -> MlboxError:
        err = TooLarge(
            f"The headers are larger than {self._bounds.max_header:,} bytes.",
            hint="The setting max_header says how large they may be.",
            field="max_header",
        )
        err.status = 431
        return err

    def _end(self, err: MlboxError, *, retry: bool = False) -> None:
        """Say why, unless an answer is on its way already, and close."""
        self.hand_over()
        busy = self.cycle is not None and not self.cycle.response_complete
        if not (busy and self.cycle.response_started):
            body = msgspec.json.encode(body_of(err))
            lines = [
                b"content-type: application/json\r\n",
                b"content-length: %d\r\n" % len(body),
                b"connection: close\r\n",
                *([b"retry-after: 1\r\n"] if retry else []),
                b"\r\n",
            ]
            self.transport.write(STATUS_LINE[err.status] + b"".join(lines) + body)
        if busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def _size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Of headers on the wire, with the colon, the space and the line's end."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


async def watch(connections: set[Any], bounds: Bounds) -> None:
    """Look at every connection again and again, until cancelled."""
    loop = asyncio.get_running_loop()
    pause = min(1.0, bounds.read_timeout / 4, bounds.write_timeout / 4)
    last = loop.time()
    while True:
        await asyncio.sleep(pause)
        now = loop.time()
        for connection in tuple(connections):
            with contextlib.suppress(RuntimeError):  # its transport has just gone
                connection.look(min(now - last, 2 * pause))  # a loop that was held up is no fault of theirs
        last = now
