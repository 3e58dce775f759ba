"""What the layers of the app do to a request, done at once: by their own functions, on one that is plain.

A request's head is judged once (`judge`). What follows from it does not change as long as the connection sends the same bytes, so
they are remembered there; who asks, whether the server is busy, and the body are looked at each time (`begin`).
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from mlbox.errors import MlboxError
from mlbox.web.access_log import AccessLog, Request, given_id
from mlbox.web.box import Box
from mlbox.web.edge import Edge
from mlbox.web.fast.routes import Call, Fast, Found, Reply, Table
from mlbox.web.limits import check_type, is_flat, is_json
from mlbox.web.pages.headers import HEADERS
from mlbox.web.problems import as_mlbox_error, body_at, retry_after

MOST_BODY = 1024 * 1024
"""Larger bodies are the app's: what reading them costs makes the rest vanish."""
FOREIGN = frozenset(
    {b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"cookie", b"origin", b"sec-fetch-site"}
)
"""Headers with which a request is not plain."""


class Head(NamedTuple):
    """What a request's head says, once judged."""

    fast: Fast
    parameters: Mapping[str, Any]
    method: str
    path: str
    client: tuple[str, int] | None
    headers: Mapping[str, str]
    """Of one such request: another one may have another length."""
    credential: bytes
    """The key of what was verified of it."""
    is_json: bool
    given_id: str | None
    fields: bytes
    """What the outermost layers add to the answer."""


class Asked(NamedTuple):
    """A request that is being answered."""

    head: Head
    call: Call
    at_hand: bool
    began: float
    start: float


class Answer(NamedTuple):
    """What goes onto the wire."""

    status: int
    fields: bytes
    """Its headers, but for the server's own, and for what the connection says of itself."""
    body: bytes


Send = Callable[[Asked, Answer], None]


class FastPath:
    """Answers requests of the table over one box."""

    def __init__(self, box: Box, edge: Edge, log: AccessLog, routes: Iterable[Fast]) -> None:
        self.pool = box.pool
        self.edge = edge
        self._box = box
        self._log = log
        self._table = Table(routes)
        self._access = box.access
        self._require = box.teams.require
        self.most_body = min(MOST_BODY, box.settings.max_body)
        self._most_depth = box.settings.max_depth
        self._own: tuple[object, bytes] = (None, b"")
        self._counts = box.fast_path
        self._turn: list[tuple[Asked, Send]] = []
        """What is to be answered at the end of this turn of the loop."""

    def find(self, method: bytes, target: bytes) -> Found | None:
        """As `Table.find`."""
        return self._table.find(method, target)

    def judge(self, found: Found, scope: Any) -> Head | None:
        """What follows from a head; None where the app is to deal with the request. `scope` is changed as the edge changes it."""
        try:
            fields = self.edge.judge(scope)
        except MlboxError:
            return None
        raw = dict(scope["headers"])
        if len(raw) != len(scope["headers"]) or not FOREIGN.isdisjoint(raw) or b"text/html" in raw.get(b"accept", b""):
            return None
        credential, length = raw.get(b"authorization"), raw.get(b"content-length", b"")
        if credential is None or not length.isdigit() or not 0 < int(length[:20]) <= self.most_body:
            return None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw.items()}
        try:
            check_type(headers, found.fast.handler)
        except MlboxError:
            return None
        return Head(
            *found,
            method=scope["method"],
            path=scope["path"],
            client=scope["client"],
            headers=headers,
            credential=self._access.key_of(credential),
            is_json=is_json(headers),
            given_id=given_id(scope["headers"]),
            fields=b"".join(_line(*field) for field in fields),
        )

    def begin(self, head: Head, body: bytes) -> Asked | None:
        """A request that is whole; None where the app is to deal with it. Nothing has happened then."""
        asked = self._begin(head, body)
        self._counts["app" if asked is None else "fast"] += 1
        return asked

    def _begin(self, head: Head, body: bytes) -> Asked | None:
        began, start = time.time(), time.perf_counter()
        principal = self._access.recall_key(head.credential)
        if principal is None or principal.job_id is not None or self.edge.is_full:
            return None
        if head.is_json and not is_flat(body, self._most_depth):
            return None
        call = Call(principal, head.parameters, head.headers, body)
        try:
            self._require(principal, head.fast.handler.opt["action"])
            at_hand = head.fast.at_hand(self._box, call)
        except Exception:  # whatever it is, the app tells of it
            return None
        call.id = head.given_id or self._log.new_id()
        return Asked(head, call, at_hand, began, start)

    def join(self, asked: Asked, send: Send) -> None:
        """Answer a request together with others of this turn of the loop, at its end."""
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._turn.append((asked, send))

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, []
        alike: dict[Any, list[tuple[Asked, Send]]] = {}
        for one in turn:
            alike.setdefault(one[0].head.fast.together, []).append(one)
        for together, some in alike.items():
            replies = contextvars.copy_context().run(self._replies, together, [asked.call for asked, _ in some])
            for (asked, send), reply in zip(some, replies, strict=True):
                send(asked, _answer(asked, reply))

    def _replies(self, together: Callable[..., list[Reply | Exception]], calls: list[Call]) -> list[Reply | Exception]:
        try:
            return together(self._box, calls)
        except Exception as err:  # as below; it is nobody's own
            return [err] * len(calls)

    def answer(self, asked: Asked) -> Answer:
        """What a request is answered with, for whoever asked; may be called from any thread."""
        return _answer(asked, contextvars.copy_context().run(self._reply, asked))

    def _reply(self, asked: Asked) -> Reply | Exception:
        asked.call.enter()
        try:
            return asked.head.fast.answer(self._box, asked.call)
        except Exception as err:  # whatever it is, as the app's own handlers of exceptions do
            return err

    def note(self, asked: Asked, status: int) -> None:
        """A request was answered."""
        head, seconds = asked.head, time.perf_counter() - asked.start
        what = (head.method, head.path, b"", head.client, asked.call.principal)
        self._log.note(Request(asked.began, seconds, asked.call.id, status, *what))

    def own_fields(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The server's own headers, the date among them, of which there is a new list every second."""
        if self._own[0] is not headers:
            self._own = headers, b"".join(_line(*field) for field in headers)
        return self._own[1]


def _answer(asked: Asked, reply: Reply | Exception) -> Answer:
    head, status = asked.head, asked.head.fast.handler.status_code
    if isinstance(reply, Exception):
        reply, status = _refusal(head.path, as_mlbox_error(reply))
    more = b"".join([_line(name.encode(), value.encode()) for name, value in reply.headers.items()])
    fields = b"%scontent-type: %s\r\ncontent-length: %d\r\n%s%sx-request-id: %s\r\n" % (
        more,
        reply.kind.encode(),
        len(reply.body),
        _EVERY,
        head.fields,
        asked.call.id.encode(),
    )
    return Answer(status, fields, reply.body)


def _refusal(path: str, err: MlboxError) -> tuple[Reply, int]:
    headers = {name.decode(): value.decode() for name, value in retry_after(err)}
    return Reply(msgspec.json.encode(body_at(path, err)), headers=headers), err.status


def _line(name: bytes, value: bytes) -> bytes:
    return b"%s: %s\r\n" % (name, value)


_EVERY = b"".join(_line(*field) for field in HEADERS.items())
"""What every answer carries; no reply here sets any of these itself."""
