"""The outermost layer: what is wrong with a request before anyone asks who sent it.

In this order: what a trusted proxy says, the Host header (against rebinding), the length of the address, how many requests
are in hand, and from where a browser was led to write (against forged requests). A browser says so itself in `Origin` and
`Sec-Fetch-Site`; a program that is no browser sends neither and is not asked. The check holds with a bearer token, too: no
honest page of another site has one, unless its origin is in `cors_origin`.

It runs on every request, so it is plain functions over bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from mlbox.errors import InvalidInput, MlboxError, NotAuthorised, TooLarge, TooMany
from mlbox.settings import Settings
from mlbox.web import forwarded
from mlbox.web.problems import refuse

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = (b"same-origin", b"none")
"""`none` is a person's own doing: an address typed in, a bookmark."""
ALWAYS = frozenset({"/livez"})
"""Answered however busy the server is, or whoever watches over it would stop it."""
ORIGIN, SITE, HOST = b"origin", b"sec-fetch-site", b"host"
ONCE_ONLY = (HOST, ORIGIN, b"content-length", b"content-type", b"authorization")
"""Headers of which a second one would let two programs read the same request in two ways."""
Field = tuple[bytes, bytes]
ALLOWED = b"access-control-allow-origin"
PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, last-event-id"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
)
EXPOSED = (b"access-control-expose-headers", b"x-mlbox-next, x-mlbox-offset, x-mlbox-ended, retry-after")
VARY = (b"vary", b"origin")
MOST_HOSTS = 64


class Edge:
    """Lets through what the server is willing to look at at all."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._proxies = forwarded.networks(settings.trusted_proxy)
        self._origins = frozenset(check_origin(text).encode() for text in settings.cors_origin)
        self._names = LOOPBACK | {_bracketed(name.lower()) for name in (settings.host, *settings.allowed_host)}
        self._hosts: set[bytes] = set()
        """Values of Host that have passed before."""
        self._most_url = settings.max_url
        self._most_requests = settings.max_requests
        self._in_hand = 0
        self._hsts = f"max-age={settings.hsts_days * 86400}".encode() if settings.hsts_days else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, then pass it on."""
        if str(scope["type"]) == "lifespan":
            await self._app(scope, receive, send)
            return
        asked: Any = scope
        try:
            more = self.judge(scope)
        except MlboxError as err:
            await refuse(send, err, path=asked["path"])
            return
        if more and more[0][0] == ALLOWED and _is_preflight(asked):
            await _preflight(send, more[0])
            return
        await self._count(scope, receive, _adding(send, *more) if more else send)

    def judge(self, scope: Any) -> tuple[Field, ...]:
        """Put what a trusted proxy says into a scope; raise what is wrong with it, or say what headers its answer has besides."""
        if self._proxies:
            forwarded.rewrite(scope, self._proxies)
        headers = dict(scope["headers"])
        self._check(scope, headers)
        more: tuple[Field, ...] = ()
        if ORIGIN in headers and headers[ORIGIN] in self._origins:
            more = ((ALLOWED, headers[ORIGIN]), VARY, EXPOSED)
        if self._hsts and scope["scheme"] == "https":
            more = (*more, (b"strict-transport-security", self._hsts))
        return more

    @property
    def is_full(self) -> bool:
        """As many requests are in hand as may be."""
        return self._in_hand >= self._most_requests

    def enter(self) -> None:
        """A request is in hand, until `leave`."""
        self._in_hand += 1

    def leave(self) -> None:
        """It is answered."""
        self._in_hand -= 1

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_full and scope["path"] not in ALWAYS:
            err = TooMany(
                f"{self._most_requests:,} requests are being answered already.",
                hint="Try again in a moment; the setting max_requests says how many.",
                field="max_requests",
            )
            err.retry_seconds = 1
            await refuse(send, err, path=scope["path"])
            return
        self.enter()
        try:
            await self._app(scope, receive, send)
        finally:
            self.leave()

    def _check(self, scope: Any, headers: Mapping[bytes, bytes]) -> None:
        if len(headers) != len(scope["headers"]):
            _check_once(scope["headers"])
        host = headers.get(HOST, b"")
        if host not in self._hosts:
            self._check_host(host)
        if len(scope["raw_path"] or b"") + len(scope["query_string"]) > self._most_url:
            raise _with_status(414, f"The address is longer than {self._most_url:,} bytes.", "max_url")
        if scope["method"] not in SAFE_METHODS and (ORIGIN in headers or SITE in headers):
            self._check_site(scope["scheme"], headers)

    def _check_host(self, host: bytes) -> None:
        text = host.decode("latin-1")
        name, _, port = text.rpartition(":") if ":" in text and not text.endswith("]") else (text, "", "")
        if name.lower() not in self._names or (port and not port.isascii()) or (port and not port.isdigit()):
            raise InvalidInput(
                f"This server does not answer to the host name {text[:200]!r}.",
                hint="Start it with --allowed-host NAME.",
                field="host",
            )
        if len(self._hosts) < MOST_HOSTS:
            self._hosts.add(host)

    def _check_site(self, scheme: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse what a page of another site has a browser send."""
        origin = headers.get(ORIGIN)
        if origin is not None and origin in self._origins:
            return
        if origin is not None and not _is_own(origin, scheme, headers.get(HOST, b"")):
            raise _foreign(f"the origin {origin.decode('latin-1')[:200]!r}")
        site = headers.get(SITE)
        if site is not None and site not in OWN_SITES:
            raise _foreign("another site")


def check_origin(text: str) -> str:
    """An origin as browsers write it; raises InvalidInput for what none would send, `*` among it."""
    parts = urlsplit(text.strip().lower())
    plain = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.hostname or plain != text.strip().lower() or "*" in plain:
        raise InvalidInput(
            f"{text!r} is not an origin.", hint="Write it like https://lab.example:8443, no path.", field="cors_origin"
        )
    return plain


def _is_own(origin: bytes, scheme: str, host: bytes) -> bool:
    """True for a page of this server. Behind a proxy that is not trusted, its https looks like http from here."""
    named, _, place = origin.lower().partition(b"://")
    return place == host.lower() and named in ((b"https",) if scheme == "https" else (b"http", b"https"))


def _foreign(what: str) -> NotAuthorised:
    return NotAuthorised(
        f"A page of {what} sent this, and it may not write here.",
        hint="Use this server's own pages, or list the origin in the setting cors_origin.",
        field="origin",
    )


def _check_once(headers: list[tuple[bytes, bytes]]) -> None:
    seen = [name for name, _ in headers]
    for name in ONCE_ONLY:
        if seen.count(name) > 1:
            raise InvalidInput(f"The header {name.decode()} came twice.", hint="Send it once.", field=name.decode())


def _bracketed(host: str) -> str:
    """A host as the Host header writes it: a bare IPv6 address stands in brackets there."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _with_status(status: int, message: str, setting: str) -> TooLarge:
    err = TooLarge(message, hint=f"The setting {setting} says how much the server takes.", field=setting)
    err.status = status
    return err


def _adding(send: Send, *more: Field) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return wrapped


def _is_preflight(scope: Any) -> bool:
    asks = any(name == b"access-control-request-method" for name, _ in scope["headers"])
    return asks and scope["method"] == "OPTIONS"


async def _preflight(send: Send, allowed: Field) -> None:
    """Tell a browser what a page of a configured origin may send. Never with cookies: such a page has a token of its own."""
    headers = [allowed, VARY, *PREFLIGHT]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
