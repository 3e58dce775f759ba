"""Which handlers have a fast path, and where: path, method, role and body are what the handler itself declares."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from litestar.handlers import HTTPRouteHandler

from mlbox.records import Principal
from mlbox.store.access.roles import ACTIONS
from mlbox.store.asking import THERE, set_asking, set_presence
from mlbox.web.box import Box
from mlbox.web.logs import request_id

Parameters = Mapping[str, Any]
_PARAMETER = re.compile(r"\{(\w+):(\w+)\}")
_KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "str": (r"([A-Za-z0-9._@-]{1,256})", str),
    "int": (r"([0-9]{1,18})", int),
}
"""What a path parameter may be here, and what becomes of it; anything else is the router's."""


class Reply(NamedTuple):
    """What a request is answered with."""

    body: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = {}


class Call:
    """One request, as the function that answers it sees it."""

    __slots__ = ("body", "headers", "id", "lead", "parameters", "presence", "principal", "read")

    def __init__(
        self, principal: Principal, parameters: Parameters, headers: Mapping[str, str], body: bytes, own: str = ""
    ) -> None:
        self.principal = principal
        self.parameters = parameters
        self.headers = headers
        self.body = body
        self.id = own
        self.lead: object = None
        """Stands for what it says beside its body, where that is known to be the same of others."""
        self.presence = THERE
        """Of whoever waits for an answer that is made in a thread."""
        self.read: Any = None
        """The body decoded, for whoever decoded it."""

    def enter(self) -> None:
        """From here on this context works for this request."""
        request_id.set(self.id)
        set_asking(self.principal)
        set_presence(self.presence)


class Alike(Protocol):
    """Requests of one turn of the loop that say the same of everything but the row that they ask about."""

    def take(self, body: bytes) -> bool:
        """Read one; False, and nothing has happened, for one that is not of that form."""

    def replies(self) -> list[Reply | None]:
        """What those that were taken are answered with, in their order; None, and nothing has happened, for those that are to be
        answered each by itself, because something is wrong with one of them."""


class Fast(NamedTuple):
    """A handler with a fast path."""

    handler: HTTPRouteHandler
    at_hand: Callable[[Box, Call], bool]
    """Whether the answer costs less than a thread to make it in. It may decode the body; what it raises, the app deals with."""
    answer: Callable[[Box, Call], Reply] | None = None
    """What the handler does, on the loop or off it; it raises what the handler raises."""
    together: Callable[[Box, Sequence[Call]], list[Reply | Exception]] | None = None
    """The same of all that are at hand in one turn of the loop, where that costs less than one after the other: what each is
    answered with, or what its handler would have raised. It works for each in turn (`Call.enter`)."""
    alike: Callable[[Box, Call], Alike | None] | None = None
    """What takes those that are like this one, which is not taken yet; None where they are of no such kind."""
    later: Callable[[Box, Call], Awaitable[Reply]] | None = None
    """In place of `answer`, for what is made neither at once nor in a thread of its own."""


class Found(NamedTuple):
    """A fast path, and the parameters in the address."""

    fast: Fast
    parameters: Parameters


class Table:
    """Every fast path, by method and path."""

    def __init__(self, routes: Iterable[Fast]) -> None:
        self._patterns: dict[bytes, list[tuple[re.Pattern[str], tuple[tuple[str, str], ...], Fast]]] = {}
        for fast in routes:
            _check(fast.handler)
            for method in fast.handler.http_methods:
                for path in fast.handler.paths:
                    self._patterns.setdefault(str(method).encode(), []).append((*_pattern(path), fast))

    def find(self, method: bytes, target: bytes) -> Found | None:
        """What answers a request, by its line; None for what is not here, a query among it."""
        patterns = self._patterns.get(method)
        if patterns is None:
            return None
        text = target.decode("latin-1")
        for pattern, names, fast in patterns:
            if match := pattern.fullmatch(text):
                values = zip(names, match.groups(), strict=True)
                return Found(fast, {name: _KINDS[kind][1](value) for (name, kind), value in values})
        return None


def _pattern(path: str) -> tuple[re.Pattern[str], tuple[tuple[str, str], ...]]:
    names = tuple(_PARAMETER.findall(path))
    literals = map(re.escape, _PARAMETER.split(path)[::3])
    groups = [*(_KINDS[kind][0] for _, kind in names), ""]
    return re.compile("".join(literal + group for literal, group in zip(literals, groups, strict=True))), names


def _check(handler: HTTPRouteHandler) -> None:
    """Raise LookupError for a handler whose role depends on what the path names: the guard alone knows how to ask for that."""
    action = handler.opt["action"]
    if ACTIONS[action].where == "owner" or ACTIONS[action].job:
        raise LookupError(
            f"{handler.fn.__name__} cannot have a fast path: {action} is asked for of an owner, or for a job."
        )
