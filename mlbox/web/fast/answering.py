"""What the layers of the app do to a request, done at once: by their own functions, on one that is plain.

A request's head is judged once (`judge`). What follows from it does not change as long as the connection sends the same bytes, so
they are remembered there; who asks, whether the server is busy, and the body are looked at each time (`begin`).
"""

from __future__ import annotations

import contextvars
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from mlbox.errors import MlboxError
from mlbox.store.access.roles import ACTIONS
from mlbox.web.access_log import AccessLog, Request, given_id
from mlbox.web.box import Box
from mlbox.web.edge import Edge
from mlbox.web.fast.routes import Call, Fast, Found, Reply, Table
from mlbox.web.fast.turn import Turn, Waiting
from mlbox.web.limits import check_type, is_flat, is_json
from mlbox.web.pages.headers import HEADERS
from mlbox.web.problems import as_mlbox_error, body_at, retry_after

MOST_BODY = 1024 * 1024
"""Larger bodies are the app's: what reading them costs makes the rest vanish."""
MOST_LEADS = 1024
NAMED = frozenset(name for name, action in ACTIONS.items() if action.where == "named")
"""Actions of which the body says in which team, so that the handler asks."""
FOREIGN = frozenset(
    {b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"cookie", b"origin", b"sec-fetch-site"}
)
"""Headers with which a request is not plain."""


P = ParamSpec("P")
T = TypeVar("T")


class Lead:
    """Stands for all heads that say the same: the same way, caller and headers, but for the length of the body."""

    __slots__ = ()


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
    lead: Lead | None
    """None for a head with which no other is alike."""


class Asked(NamedTuple):
    """A request that is being answered."""

    head: Head
    call: Call
    at_hand: bool
    began: float
    start: float


Answer = Reply | Exception


class FastPath:
    """Answers requests of the table over one box."""

    def __init__(self, box: Box, edge: Edge, log: AccessLog, routes: Iterable[Fast]) -> None:
        self.pool = box.pool
        self.edge = edge
        self.box = box
        self.new_id = log.new_id
        self.settle = box.models.tab.settle
        self.turn = Turn(self)
        self._log = log
        self._table = Table(routes)
        self._access = box.access
        self._require, self._require_anywhere = box.teams.require, box.teams.require_anywhere
        self.most_body = min(MOST_BODY, box.settings.max_body)
        self.most_depth = box.settings.max_depth
        self._own: tuple[object, bytes] = (None, b"")
        self._counts = box.fast_path
        self._leads: dict[Any, Lead] = {}

    def find(self, method: bytes, target: bytes) -> Found | None:
        """As `Table.find`."""
        return self._table.find(method, target)

    # -- a head -------------------------------------------------------------------------------------------------------

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
        given, key = given_id(scope["headers"]), self._access.key_of(credential)
        return Head(
            *found,
            method=scope["method"],
            path=scope["path"],
            client=scope["client"],
            headers=headers,
            credential=key,
            is_json=is_json(headers),
            given_id=given,
            fields=b"".join(_line(*field) for field in fields),
            lead=None if given or found.fast.alike is None else self._lead(scope["path"], key, headers),
        )

    def _lead(self, path: str, credential: bytes, headers: Mapping[str, str]) -> Lead:
        own = ("content-length", "authorization")
        key = path, credential, frozenset(field for field in headers.items() if field[0] not in own)
        if key not in self._leads and len(self._leads) >= MOST_LEADS:
            self._leads.clear()  # what stands for the same twice costs a run, and nothing else
        return self._leads.setdefault(key, Lead())

    # -- a request ----------------------------------------------------------------------------------------------------

    def begin(self, head: Head, body: bytes) -> Asked | None:
        """A request that is whole; None where the app is to deal with it. Nothing has happened then."""
        asked = self._begin(head, body)
        self._counts["app" if asked is None else "fast"] += 1
        return asked

    def _begin(self, head: Head, body: bytes) -> Asked | None:
        began, start = time.time(), time.perf_counter()
        if self.edge.is_full or (head.is_json and not is_flat(body, self.most_depth)):
            return None
        call = self.call_of(head, body)
        if call is None:
            return None
        try:
            at_hand = head.fast.at_hand(self.box, call)
        except Exception:  # whatever it is, the app tells of it
            return None
        call.id = head.given_id or self.new_id()
        return Asked(head, call, at_hand, began, start)

    def call_of(self, head: Head, body: bytes = b"") -> Call | None:
        """A request of somebody who is known and may ask this; None where the app is to find that out."""
        principal = self._access.recall_key(head.credential)
        if principal is None or principal.job_id is not None:
            return None
        try:
            action = head.fast.handler.opt["action"]
            (self._require_anywhere if action in NAMED else self._require)(principal, action)
        except MlboxError:
            return None
        return Call(principal, head.parameters, head.headers, body)

    def answer(self, asked: Asked) -> Answer:
        """What a request is answered with, for whoever asked; may be called from any thread."""
        return self.alone(asked.head.fast, asked.call)

    def alone(self, fast: Fast, call: Call) -> Answer:
        """The same of a request that is not with the others that it came with."""
        assert fast.answer is not None
        return self.within(call, fast.answer, self.box, call)

    async def answer_later(self, asked: Asked) -> Answer:
        """As `answer`, of what is awaited."""
        later = asked.head.fast.later
        assert later is not None
        asked.call.enter()
        try:
            return await later(self.box, asked.call)
        except Exception as err:  # as the app's own handlers of exceptions do
            return err

    def within(self, call: Call, function: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | Exception:
        """What a function gives that works for a request, or what it raised, whatever that is: the answer says so."""
        return contextvars.copy_context().run(_within, call, functools.partial(function, *given, **named))

    # -- an answer ----------------------------------------------------------------------------------------------------

    def deliver(self, one: Waiting, call: Call, answer: Answer) -> None:
        """Answer one of several that were answered together."""
        self.edge.leave()
        self._counts["fast"] += 1
        status, fields, body = self.written(one.head, call, answer)
        one.to.answered(one.cycle, status, fields, body)
        self._note(one.head, call, one.began, one.start, status)

    def written(self, head: Head, call: Call, answer: Answer) -> tuple[int, bytes, bytes]:
        """A status, headers but for the server's own and for what the connection says of itself, and a body."""
        status = head.fast.handler.status_code
        if isinstance(answer, Exception):
            answer, status = _refusal(head.path, as_mlbox_error(answer))
        body, kind, headers = answer
        fields = b"%scontent-type: %s\r\ncontent-length: %d\r\n%s%sx-request-id: %s\r\n" % (
            b"".join([_line(name.encode(), value.encode()) for name, value in headers.items()]) if headers else b"",
            kind.encode(),
            len(body),
            _EVERY,
            head.fields,
            call.id.encode(),
        )
        return status, fields, body

    def note(self, asked: Asked, status: int) -> None:
        """A request was answered."""
        self._note(asked.head, asked.call, asked.began, asked.start, status)

    def _note(self, head: Head, call: Call, began: float, start: float, status: int) -> None:
        seconds = time.perf_counter() - start
        self._log.note(
            Request(began, seconds, call.id, status, head.method, head.path, b"", head.client, call.principal)
        )

    def own_fields(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The server's own headers, the date among them, of which there is a new list every second."""
        if self._own[0] is not headers:
            self._own = headers, b"".join(_line(*field) for field in headers)
        return self._own[1]


def _within(call: Call, function: Callable[[], T]) -> T | Exception:
    call.enter()
    try:
        return function()
    except Exception as err:  # as the app's own handlers of exceptions do
        return err


def _refusal(path: str, err: MlboxError) -> tuple[Reply, int]:
    headers = {name.decode(): value.decode() for name, value in retry_after(err)}
    return Reply(msgspec.json.encode(body_at(path, err)), headers=headers), err.status


def _line(name: bytes, value: bytes) -> bytes:
    return b"%s: %s\r\n" % (name, value)


_EVERY = b"".join(_line(*field) for field in HEADERS.items())
"""What every answer carries; no reply here sets any of these itself."""
