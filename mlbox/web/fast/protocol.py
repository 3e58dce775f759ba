"""The fast path on the wire: between uvicorn's protocol and ours.

A request whose head is plain is held back from the app until it is whole. Then it is answered with one write, or handed over: the
app gets head and body as if they had only just come. While a fast request is open, `cycle` is a stand-in that says so to the rest
of the protocol; one whose client hangs up or is too slow before it is whole is handed over as well, and ends as the app says.

A head that comes again on the same connection, byte for byte but for the length of its body, is not parsed again.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlbox.store.asking import Presence
from mlbox.web.access_log import GIVEN_UP
from mlbox.web.fast.answering import Answer, Asked, FastPath, Head

MOST_HEADS, MOST_HEAD = 8, 1024
"""How many heads a connection remembers, and how long one of them may be."""
_LENGTH = re.compile(rb"\r\ncontent-length: ?([1-9][0-9]{0,6})\r\n", re.IGNORECASE)


class Known(NamedTuple):
    """A head that may come again: what stands before and after the length of its body."""

    before: bytes
    after: bytes
    head: Head


class _Nobody:
    """Whom a stand-in tells that something happened."""

    def set(self) -> None:
        """Nothing waits."""


class Cycle:
    """Stands for a request that is not the app's, towards uvicorn's protocol."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    response_started = False
    message_event = _Nobody()

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False


class FastProtocol(HttpToolsProtocol):
    """One connection; without a fast path, uvicorn's own."""

    def __init__(self, *args: Any, fast_path: FastPath | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fast_path = fast_path
        self._between = True
        """No part of a request has been read."""
        self._head: Head | None = None
        """Of the request that is held back."""
        self._parts: list[bytes] = []
        """Of its body."""
        self._start = b""
        """What was read, where a request begins with it whose head is not whole yet."""
        self._raw = b""
        """The held back request's head, where it may be remembered."""
        self._known: list[Known] = []
        self._answered = 0.0
        """When the last fast answer went out."""
        self.work: asyncio.Future[Answer] | None = None
        """What is being made in a thread, or later."""
        self._presence = Presence()
        """Of the client, for all of its requests."""

    # -- in -----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes: a whole request with a head that is known at once, anything else through the parser."""
        if self._between:
            if self._known and self._repeated(data):
                return
            self._start = data
        else:
            self._start = b""
        if self._fast_path is not None:
            self._fast_path.settle()  # what was answered is counted before anything else is asked
        super().data_received(data)

    def _repeated(self, data: bytes) -> bool:
        for before, after, head in self._known:
            if not data.startswith(before):
                continue
            start = len(before)
            end = data.find(b"\r", start, start + 8)
            if end < 0 or not data.startswith(after, end):
                continue
            body = data[end + len(after) :]
            if data[start:end] != b"%d" % len(body) or not self._takes(len(body)):
                return False
            return self._take(head, body, Cycle(True))
        return False

    def _takes(self, length: int) -> bool:
        assert self._fast_path is not None
        return 0 < length <= self._fast_path.most_body and self._is_free()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = False
        super().on_message_begin()
        cast(Any, self.scope)["state"]["presence"] = self._presence

    def on_headers_complete(self) -> None:
        """Hold a plain request back; the app gets any other."""
        self._head = self._judge()
        if self._head is None:
            super().on_headers_complete()
        else:
            self._parts = []
            self.cycle = cast(Any, Cycle(self.parser.should_keep_alive()))

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self._head is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The request is whole: answer it, or have the app do so."""
        self._between = True
        head, raw = self._head, self._raw
        if head is not None:
            if self._take(head, b"".join(self._parts), cast(Any, self.cycle)):
                if raw:
                    self._remember(raw, head)
                return
            self.hand_over()
        super().on_message_complete()

    def _judge(self) -> Head | None:
        start, self._start, self._raw = self._start, b"", b""
        if self._fast_path is None or not self._is_free():
            return None
        parser = self.parser
        found = self._fast_path.find(parser.get_method(), self.url)
        if found is None or parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        scope: Any = {**self.scope, "method": parser.get_method().decode(), "path": self.url.decode()}
        scope |= {"raw_path": self.url, "query_string": b""}
        head = self._fast_path.judge(found, scope)
        if head is not None and head.given_id is None and parser.should_keep_alive():
            self._raw = _head_of(start)
        return head

    def _remember(self, raw: bytes, head: Head) -> None:
        lengths = list(_LENGTH.finditer(raw))
        if len(lengths) != 1:
            return
        start, end = lengths[0].span(1)
        known = Known(raw[:start], raw[end:], head)
        self._known = [known, *(one for one in self._known if one[:2] != known[:2])][:MOST_HEADS]

    def _is_free(self) -> bool:
        """No answer is on its way, and the client takes what it is sent."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle and not self.flow.write_paused and not self.transport.is_closing()

    # -- out ----------------------------------------------------------------------------------------------------------

    def _take(self, head: Head, body: bytes, cycle: Cycle) -> bool:
        """Answer a request; False, and nothing has happened, where the app is to."""
        path = self._fast_path
        assert path is not None
        if path.turn.take(head, body, self, cycle):
            self._head, self.cycle = None, cast(Any, cycle)
            return True
        asked = path.begin(head, body)
        if asked is None:
            return False
        self._head = None
        if asked.at_hand and head.fast.together is None:
            self._send(asked, path.answer(asked), cycle)
            return True
        self.cycle = cast(Any, cycle)
        path.edge.enter()
        if asked.at_hand and head.fast.later is None:
            path.turn.join(asked, functools.partial(self._made, cycle))
            return True
        asked.call.presence = self._presence
        self.work = (
            self.loop.run_in_executor(path.pool, path.answer, asked)
            if head.fast.later is None
            else self.loop.create_task(path.answer_later(asked))
        )
        self.work.add_done_callback(lambda done: self._made(cycle, asked, done.result()))
        return True

    def _made(self, cycle: Cycle, asked: Asked, answer: Answer) -> None:
        assert self._fast_path is not None
        self._fast_path.edge.leave()
        self.work = None
        self._send(asked, answer, cycle)

    def _send(self, asked: Asked, answer: Answer, cycle: Cycle) -> None:
        assert self._fast_path is not None
        status, fields, body = self._fast_path.written(asked.head, asked.call, answer)
        self.answered(cycle, status, fields, body)
        self._fast_path.note(asked, 0 if cycle.disconnected and status == GIVEN_UP else status)

    def answered(self, cycle: Cycle, status: int, fields: bytes, body: bytes) -> None:
        """Send an answer with one write, and go on with what comes next."""
        assert self._fast_path is not None
        cycle.response_complete = True
        if not cycle.disconnected:
            end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
            own = self._fast_path.own_fields(self.server_state.default_headers)
            self.transport.write(b"".join((STATUS_LINE[status], own, fields, end, body)))
            if not cycle.keep_alive:
                self.transport.close()
        self._answered = self.loop.time()
        if self.pipeline or self.timeout_keep_alive_task is None:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1

    def hand_over(self) -> None:
        """Give a request that was held back to the app."""
        if self._head is None:
            return
        held, self._head, self.cycle = self.cycle, None, cast(Any, None)
        super().on_headers_complete()
        if not held.keep_alive:  # the server has begun to end meanwhile
            self.cycle.keep_alive = False
        for part in self._parts:
            super().on_body(part)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._presence.gone = True
        self.hand_over()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        """Close what is idle. A fast answer leaves the timer as it is, which costs less than a new one: it may be early."""
        left = self._answered + self.timeout_keep_alive - self.loop.time()
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # the end of its answer sets the next
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()


def _head_of(start: bytes) -> bytes:
    """The head that bytes begin with, if it may be remembered: its end is where the parser sees it, too."""
    end = start.find(b"\r\n\r\n") + 4
    raw = start[:end]
    return raw if 4 < end <= MOST_HEAD and raw[:1].isalpha() and raw.count(b"\n") == raw.count(b"\r\n") else b""
