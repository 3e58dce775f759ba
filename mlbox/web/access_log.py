"""The access log: a line for each request, with an id that its answer carries too.

Around everything else, so that refusals are in it. What a request costs here is a few dictionary look-ups and one append; a
thread makes the lines, many at a time. Never in it: headers, bodies, tokens (their id stands for them), and of the query what
`redaction` takes out.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.records import Principal
from mlbox.serve.inference.work import Left
from mlbox.store.asking import THERE, Presence, set_presence
from mlbox.web.logs import Entry, Formatter, Sink, request_id, timestamp
from mlbox.web.redaction import redact_path, redact_query

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
BATCH_SECONDS = 0.1
"""The oldest line that a killed server may take with it."""
LINES_AT_ONCE = 32
"""So few, because the requests' thread waits for this one until it writes."""
_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
GIVEN_UP = Left.status
"""What ended because its client was gone: no answer. Whatever else came to an end meanwhile keeps its status."""
MOST_WAITING = 100_000
"""Requests that may wait for a slow log before lines are dropped, and counted."""
_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_PREFIX = os.urandom(6).hex()
_log = logging.getLogger(__name__)


class Request(NamedTuple):
    """One request as it is kept until its line is made."""

    began: float
    seconds: float
    id: str
    status: int
    """0 where there was no answer, as where the client was gone and its run was given up."""
    method: str
    path: str
    query: bytes
    client: tuple[str, int] | None
    principal: Principal | None


class AccessLog:
    """The layer that gives each request its id and, if wanted, its line. `close` writes what is left."""

    def __init__(
        self, app: ASGIApp, sink: Sink, formatter: Formatter, wanted: str, *, counts: Counter[str] | None = None
    ) -> None:
        self._app = app
        self._counts: Counter[str] = Counter() if counts is None else counts
        """Of requests over HTTP, by the first digit of their status; of those that were broken off, `none`."""
        self._sink = sink
        self._as_line = formatter
        self._least = {"on": 0, "errors": 400, "off": 1000}[wanted]
        """The lowest status that gets a line."""
        self._count = itertools.count(1)
        self._waiting: deque[Request] = deque()
        self._dropped = 0
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_loop, name="mlbox-access-log", daemon=True)
        self._thread.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and note how it ended."""
        asked: Any = scope
        if asked["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = self.begin(asked["headers"])
        there: Presence = asked.setdefault("state", {}).get("presence", THERE)
        set_presence(there)
        field = (HEADER, own.encode())
        status = 0
        began, start = time.time(), time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = 0 if there.gone and message["status"] == GIVEN_UP else message["status"]
                message["headers"] = [*message["headers"], field]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - start
            what = (asked["method"], asked["path"], asked["query_string"], asked["client"])
            self.note(Request(began, seconds, own, status, *what, asked["state"].get("principal")))

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The id of the request that this context works for from here on: its own, or a new one."""
        own = given_id(headers) or self.new_id()
        request_id.set(own)
        return own

    def new_id(self) -> str:
        """An id for a request that came without one."""
        return f"{_PREFIX}-{next(self._count):x}"

    def note(self, request: Request) -> None:
        """Count a request that was answered, and have a line written where its status wants one."""
        if request.method != "gRPC":
            self._counts[_CLASSES[request.status // 100]] += 1
        if self._least > 599 or 0 < request.status < self._least:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(request)
        if not self._some.is_set():
            self._some.set()

    # -- the thread -----------------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._closing.wait(BATCH_SECONDS)
            self._some.clear()
            self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            some = range(min(len(self._waiting), LINES_AT_ONCE))
            self._sink.write("".join(self._line(self._waiting.popleft()) for _ in some))
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("The access log was too slow: %d requests are not in it.", dropped)

    def _line(self, request: Request) -> str:
        try:
            return self._as_line(entry_of(request))
        except Exception:
            _log.exception("A line of the access log could not be made.")
            return ""

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._some.set()
        self._thread.join()
        self._write_waiting()


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that a client or proxy gave, if it can be one: not too long, harmless, and no token."""
    for name, value in headers:
        if name == HEADER:
            return value.decode() if _ID.fullmatch(value) and b"mlb_" not in value else None
    return None


def entry_of(request: Request) -> Entry:
    """The fields of a line."""
    principal = request.principal
    path = redact_path(request.path)
    entry: Entry = {
        "time": timestamp(request.began),
        "level": "error" if request.status >= 500 else "info",
        "logger": "mlbox.access",
        "message": f"{request.method} {path} {request.status or 'gone'}",
        "request_id": request.id,
        "method": request.method,
        "path": path,
        "status": request.status or None,
        "duration_ms": round(request.seconds * 1000, 3),
        "peer": request.client[0] if request.client else None,
    }
    if request.query:
        entry["query"] = redact_query(path, request.query)
    if principal is not None:
        entry["principal"] = principal.name
        entry["token_id"] = principal.token_id
    if principal is not None and principal.job_id is not None:
        entry["job_id"] = principal.job_id
    return entry
