"""What was read in one turn of the loop, and is answered at its end: together, where that costs less than one after the other.

Most requests of a busy server are alike: the same model, caller and head, and a row each. What follows from a head is found out
once a turn for all of them, and what each costs beside its row is its write and its line in the log.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlbox.store.asking import asking
from mlbox.web.fast.routes import Alike, Call, Reply
from mlbox.web.limits import is_flat

if TYPE_CHECKING:
    from mlbox.web.fast.answering import Asked, FastPath, Head


_log = logging.getLogger(__name__)


class Waiter(Protocol):
    """A connection that waits for an answer."""

    def answered(self, cycle: Any, status: int, fields: bytes, body: bytes) -> None:
        """Send it."""


class Waiting(NamedTuple):
    """A request of which the body was read."""

    head: Head
    body: bytes
    to: Waiter
    cycle: Any
    began: float
    start: float


class Group:
    """Those of a turn that are alike, as far as they are of the usual form."""

    __slots__ = ("call", "requests", "rows")

    def __init__(self, call: Call | None = None, rows: Alike | None = None) -> None:
        self.call = call
        self.rows = rows
        self.requests: list[Waiting] = []


_NONE = Group()
"""Of requests that are each answered by themselves."""
Send = Callable[["Asked", "Reply | Exception"], None]


class Turn:
    """One after the other, each as long as one of the loop's."""

    def __init__(self, path: FastPath) -> None:
        self._path = path
        self._asked: list[tuple[Asked, Send]] = []
        self._groups: dict[Any, Group] = {}
        """By the lead of their heads."""

    def join(self, asked: Asked, send: Send) -> None:
        """Answer a request that was read, together with others that are at hand."""
        self._begin()
        self._asked.append((asked, send))

    def take(self, head: Head, body: bytes, to: Waiter, cycle: Any) -> bool:
        """Answer a request with those that are alike; False, and nothing has happened, for one that is not of the usual form."""
        path, lead = self._path, head.lead
        if lead is None or path.edge.is_full or (head.is_json and not is_flat(body, path.most_depth)):
            return False
        group = self._groups.get(lead)
        if group is None:
            self._begin()
            group = self._groups[lead] = self._open(head, body)
        if group.rows is None:
            return False
        if not group.rows.take(body):
            if not group.requests:  # nor are the others, most likely
                self._groups[lead] = _NONE
            return False
        path.edge.enter()
        group.requests.append(Waiting(head, body, to, cycle, time.time(), time.perf_counter()))
        return True

    def _begin(self) -> None:
        if not self._asked and not self._groups:
            asyncio.get_running_loop().call_soon(self._end)

    def _open(self, head: Head, body: bytes) -> Group:
        call = self._path.call_of(head, body)
        if call is None or head.fast.alike is None:
            return _NONE
        call.lead = head.lead
        try:
            with asking(call.principal):
                rows = head.fast.alike(self._path.box, call)
        except Exception:  # whatever it is, each is told of it by itself
            return _NONE
        return _NONE if rows is None else Group(call, rows)

    def _end(self) -> None:
        asked, self._asked = self._asked, []
        groups, self._groups = self._groups, {}
        for group in groups.values():
            if group.requests:
                self._answer_alike(group)
        alike: dict[Any, list[tuple[Asked, Send]]] = {}
        for one in asked:
            alike.setdefault(one[0].head.fast.together, []).append(one)
        for together, some in alike.items():
            found = contextvars.copy_context().run(self._replies, together, [own.call for own, _ in some])
            for (own, send), reply in zip(some, found, strict=True):
                send(own, reply)

    def _replies(self, together: Callable[..., list[Reply | Exception]], calls: list[Call]) -> list[Reply | Exception]:
        try:
            return together(self._path.box, calls)
        except Exception as err:  # as the app's own handlers of exceptions do; it is nobody's own
            return [err] * len(calls)

    def _answer_alike(self, group: Group) -> None:
        path, call, requests = self._path, group.call, group.requests
        assert call is not None
        assert group.rows is not None
        try:
            replies = group.rows.replies()
        except Exception as err:  # whatever it is, each is told of it by itself
            _log.error("Requests could not be answered together.", exc_info=err)
            replies = [None] * len(requests)
        for one, reply in zip(requests, replies, strict=True):
            own = Call(call.principal, call.parameters, one.head.headers, one.body, path.new_id())
            answer = path.alone(one.head.fast, own) if reply is None else reply
            path.deliver(one, own, answer)
