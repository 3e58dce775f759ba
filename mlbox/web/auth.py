"""Authentication around the whole app, with an explicit list of what is public.

Accepted: `Authorization: Bearer TOKEN`; `Authorization: Basic` with a password, or with a token as the password; a browser
session's cookie, whose writes must carry the session's CSRF token.

It runs on every request, so what was verified within the last minute is found with one hash and one look into a dictionary
(`Access.recall`), and no header is decoded that is not needed. `bench/auth.py` measures it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from litestar.types import ASGIApp, Receive, Send

from mlbox.errors import MlboxError, NotAuthenticated, NotAuthorised
from mlbox.records import Principal, Role
from mlbox.store.access.roles import ROLES
from mlbox.web.door import Door
from mlbox.web.form_token import fits
from mlbox.web.problems import refuse

PUBLIC = frozenset(
    {
        "/livez",
        "/readyz",
        "/ping",
        "/health",
        "/version",
        "/v2/health/live",
        "/v2/health/ready",
        "/login",
        "/login/oidc",
        "/login/oidc/callback",
        "/api/v1/login",
    }
)
PUBLIC_PREFIXES = ("/static/",)
"""The style and scripts of the sign-in page: the same files for everyone."""
COOKIE = "mlbox_session"
CSRF_HEADER = b"x-csrf-token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE_PREFIX = COOKIE.encode() + b"="
_CHALLENGE = (b"www-authenticate", b'Bearer realm="mlbox"')
"""No offer of Basic, which is taken all the same: browsers would ask for a password in a window of their own."""


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
    """Finds out who asks, and turns everyone else away."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door
        self._recall = door.access.recall

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Authenticate one connection, then pass it on."""
        path = scope["path"] if scope["type"] != "lifespan" else "/livez"
        if path in PUBLIC or path.startswith(PUBLIC_PREFIXES):
            await self._app(scope, receive, send)
            return
        credential = cookie = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                credential = value
                break
            if name == b"cookie":
                cookie = value
        try:
            if credential is not None:
                principal = self._recall(credential) or await self._door.admit(credential, peer_of(scope))
                if "state" not in scope:
                    scope["state"] = {}
                scope["state"]["principal"] = principal
            else:
                self._by_session(scope, cookie)
        except MlboxError as err:
            await _turn_away(scope, send, err)
            return
        await self._app(scope, receive, send)

    def _by_session(self, scope: Any, cookies: bytes | None) -> None:
        secret = session_cookie(cookies) if cookies else None
        session = self._door.access.session(secret) if secret else None
        if session is None:
            raise NotAuthenticated(
                "A token is needed.",
                hint="Send the header Authorization: Bearer TOKEN, or sign in, at /login or by `mlbox login URL`.",
            )
        if scope["method"] not in SAFE_METHODS:
            given = next((value for name, value in scope["headers"] if name == CSRF_HEADER), b"")
            if not fits(given, session.csrf):
                raise NotAuthorised("The page's form token is missing or old.", hint="Reload the page.")
        state = scope.setdefault("state", {})
        state["principal"], state["session"] = session.principal, session


def peer_of(scope: Any) -> str:
    """The address that asks: the client's where a trusted proxy says so."""
    client = scope.get("client")
    return client[0] if client else ""


def session_cookie(header: bytes) -> str | None:
    """The session's secret in a Cookie header."""
    for part in header.split(b";"):
        pair = part.strip()
        if pair.startswith(_COOKIE_PREFIX):
            return pair[len(_COOKIE_PREFIX) :].strip(b'"').decode("latin-1")
    return None


async def _turn_away(scope: Any, send: Send, err: MlboxError) -> None:
    """Say why; a person who followed a link is sent to the sign-in, which leads back."""
    path: str = scope["path"]
    if err.status == 401 and scope["method"] == "GET" and _accepts_html(scope):
        target = path + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        where = (b"location", f"/login?next={quote(target, safe='/')}".encode())
        await send({"type": "http.response.start", "status": 303, "headers": [where, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    await refuse(send, err, *([_CHALLENGE] if err.status == 401 else []), path=path)


def _accepts_html(scope: Any) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
