"""One's own account: who one is, the password, tokens, and where one is signed in."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from mlbox.store.access.roles import ROLES, at_least
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page

LIVES = (("12h", "12 hours"), ("7d", "7 days"), ("30d", "30 days"), ("365d", "a year"), ("", "until it is revoked"))
"""What the page offers for a new token's life; the command takes any."""

BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
"""The first that a browser claims to be is the one that it is: each claims those after it, too."""
SYSTEMS = (
    *(("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iOS"), ("Windows", "Windows")),
    *(("Mac OS X", "macOS"), ("Linux", "Linux")),
)


def browser_of(agent: str) -> str:
    """A User-Agent header in the words of a person: Firefox on Linux."""
    browser = next((name for mark, name in BROWSERS if mark in agent), agent[:40] or "unknown")
    system = next((name for mark, name in SYSTEMS if mark in agent), "")
    return f"{browser} on {system}" if system else browser


def _fetch(view: View, current: str, after: str | None) -> dict[str, Any]:
    access, who = view.box.access, view.principal
    assert who is not None
    found = access.tokens(who.name, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda token: token.id)
    return {
        "account": access.user(who.name),
        "teams": view.box.teams.roles_of(who),
        "has_password": access.password_hash(who.name) is not None,
        "shortest": access.passwords.shortest,
        "whole": who.ceiling == "admin",
        "ceilings": [role for role in ROLES if at_least(who.ceiling, role)],
        "lives": LIVES,
        "tokens": shown,
        "next": next_page(view, last),
        "sessions": access.sessions(who.name),
        "current": current,
        "browser_of": browser_of,
    }


@get("/account", include_in_schema=False, action="account.change")
async def account(request: Request[Any, Any, Any], view: View, after: str | None = None) -> Response[Any]:
    """Whoever asks sees their own, and no other's."""
    session = request.scope["state"].get("session")
    return await view.page("account.html", lambda: _fetch(view, session.id if session else "", after))


handlers: list[Any] = [account]
