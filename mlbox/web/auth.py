"""Authentication around the whole app, with an explicit list of what is public.

Accepted: `Authorization: Bearer TOKEN`; `Authorization: Basic` with a token as the password; a browser session's
cookie, whose writes must carry the session's CSRF token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from mlbox.errors import InvalidInput, MlboxError, NotAuthenticated, NotAuthorised
from mlbox.records import Principal, Role
from mlbox.store.access import ROLES, Access
from mlbox.web.problems import body_of

PUBLIC = frozenset({"/livez", "/readyz", "/health", "/version", "/login", "/api/v1/login"})
PUBLIC_PREFIXES = ("/static/",)
"""The style and scripts of the sign-in page: the same files for everyone."""
COOKIE = "mlbox_session"
CSRF_HEADER = b"x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_public(path: str) -> bool:
    """True for what answers without a token."""
    return path in PUBLIC or path.startswith(PUBLIC_PREFIXES)


def require(principal: Principal, role: Role) -> None:
    """Raise NotAuthorised unless the principal has at least this role; a job's token never passes."""
    if principal.job_id is not None:
        raise NotAuthorised("A job's token may act for its own job only.", hint="Use a user's token.")
    if ROLES.index(principal.role) < ROLES.index(role):
        raise NotAuthorised(
            f"This takes the role {role}; {principal.name} is {principal.role}.",
            hint="Ask an admin for the role.",
        )


class AuthMiddleware:
    """Finds out who asks, checks the Host header, and turns everyone else away."""

    def __init__(self, app: ASGIApp, access: Access, allowed_hosts: frozenset[str]) -> None:
        self._app = app
        self._access = access
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate one connection, then pass it on."""
        if str(scope["type"]) == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._check_host(headers)
            if not is_public(scope["path"]):
                self._authenticate(scope, headers)
        except MlboxError as err:
            await self._turn_away(scope, headers, send, err)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() not in self._allowed_hosts:
            raise InvalidInput(
                f"This server does not answer to the host name {name!r}.",
                hint="Start it with --allowed-host NAME.",
                field="host",
            )

    def _authenticate(self, scope: Any, headers: Mapping[bytes, bytes]) -> None:
        scope.setdefault("state", {})
        if b"authorization" in headers:
            principal = self._access.authenticate(_secret_of(headers[b"authorization"]))
            scope["state"]["principal"] = principal
            return
        cookie = _cookie(headers.get(b"cookie", b""))
        session = self._access.session(cookie) if cookie else None
        if session is None:
            raise NotAuthenticated("A token is needed.", hint="Sign in at /login, or run `mlbox login URL`.")
        if scope["method"] not in SAFE_METHODS:
            given = headers.get(CSRF_HEADER, b"").decode("latin-1")
            if not hmac.compare_digest(given, session.csrf):
                raise NotAuthorised("The page's form token is missing or old.", hint="Reload the page.")
        scope["state"]["principal"] = session.principal
        scope["state"]["session"] = session

    async def _turn_away(self, scope: Any, headers: Mapping[bytes, bytes], send: Send, err: MlboxError) -> None:
        wants_page = b"text/html" in headers.get(b"accept", b"") and scope["method"] == "GET"
        if err.status == 401 and wants_page:
            target = quote(scope["path"], safe="/")
            await _respond(send, 303, [(b"location", f"/login?next={target}".encode())], b"")
            return
        extra = [(b"www-authenticate", b'Bearer realm="mlbox"')] if err.status == 401 else []
        await _respond(send, err.status, extra, msgspec.json.encode(body_of(err)))


def _secret_of(header: bytes) -> str:
    scheme, _, value = header.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError) as err:
            raise NotAuthenticated("The Authorization header is not valid Basic.") from err
    raise NotAuthenticated(f"The scheme {scheme[:20]!r} is not known.", hint="Send Authorization: Bearer TOKEN.")


def _cookie(header: bytes) -> str | None:
    try:
        morsel = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


async def _respond(send: Send, status: int, extra: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
