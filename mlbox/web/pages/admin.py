"""People, tokens and the state of the box."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.store.access.roles import ROLES
from mlbox.web.box import Box
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page


def _stores(box: Box) -> list[tuple[str, str]]:
    """Each store, and why it is down or nothing."""
    found = []
    for name, check in sorted(box.checks().items()):
        try:
            check()
            found.append((name, ""))
        except Exception as err:
            found.append((name, str(err) or type(err).__name__))
    return found


def _fetch(view: View, after: str | None, user: str | None) -> dict[str, Any]:
    access, who = view.box.access, view.principal
    assert who is not None
    whose = (user or None) if view.may("admin") else who.name
    found = access.tokens(whose, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda token: token.id)
    return {
        "users": access.users(),
        "tokens": shown,
        "whose": whose or "",
        "next": next_page(view, last),
        "roles": ROLES,
        "stores": _stores(view.box),
        "isolation": view.box.isolation,
        "may_admin": view.may("admin"),
    }


@get("/admin", include_in_schema=False, action="box.read")
async def admin(view: View, after: str | None = None, user: str | None = None) -> Response[bytes]:
    """Users and tokens; an admin sees everyone's tokens or a user's, others their own."""
    return await view.page("admin.html", lambda: _fetch(view, after, user))


handlers: list[Any] = [admin]
