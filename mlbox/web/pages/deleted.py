"""What was deleted: who did it, until when it can be taken back, and the button that does; and what the prediction log keeps."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page, part

MOST_MODELS = 100
MOST_ROWS = 20


def _kept(view: View) -> dict[str, Any]:
    """The prediction log: how long each model's is kept, what is held, and what was removed."""
    box = view.box
    models = box.keeping.every()
    member = view.may("member", team=None)
    return {
        "default": box.keeping.days,
        "models": models[:MOST_MODELS],
        "more": max(0, len(models) - MOST_MODELS),
        "holds": box.keeping.rows.holds(limit=MOST_ROWS) if member else [],
        "removals": box.keeping.rows.removals(limit=MOST_ROWS) if member else [],
        "member": member,
    }


def _fetch(view: View, after: str | None) -> dict[str, Any]:
    box = view.box
    found = box.retention.deleted(limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda one: one.place)
    return {
        "deleted": [(one, view.may("member", team=box.teams.team_of(one.owner))) for one in shown],
        "next": next_page(view, last),
        "without_logs": [] if after else box.jobs.without_logs(limit=PAGE_SIZE),
        "days": box.retention.kept_for.days,
        "log": part(lambda: _kept(view)),
        "may_collect": view.may("admin"),
    }


@get("/deleted", include_in_schema=False, action="deleted.read")
async def deleted(view: View, after: str | None = None) -> Response[bytes]:
    """What was deleted, the latest first, and which jobs have no log any more."""
    return await view.page("deleted.html", lambda: _fetch(view, after))


handlers: list[Any] = [deleted]
