"""What was deleted: who did it, until when it can be taken back, and the button that does."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page


def _fetch(view: View, after: str | None) -> dict[str, Any]:
    box = view.box
    found = box.retention.deleted(limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda one: one.place)
    return {
        "deleted": [(one, view.may("member", team=box.teams.team_of(one.owner))) for one in shown],
        "next": next_page(view, last),
        "days": box.retention.kept_for.days,
        "may_collect": view.may("admin"),
    }


@get("/deleted", include_in_schema=False, action="deleted.read")
async def deleted(view: View, after: str | None = None) -> Response[bytes]:
    """What was deleted, the latest first."""
    return await view.page("deleted.html", lambda: _fetch(view, after))


handlers: list[Any] = [deleted]
