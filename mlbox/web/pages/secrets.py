"""Secrets for jobs, by name."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.store.access.teams import EVERYONE
from mlbox.web.pages.view import View


def _fetch(view: View) -> dict[str, Any]:
    teams = view.box.teams
    assert view.principal is not None
    mine = [EVERYONE, *teams.roles_of(view.principal)]
    return {
        "secrets": view.box.secrets.all(),
        "teams": [team for team in mine if view.may("member", team=team)],
    }


@get("/secrets", include_in_schema=False, action="secret.read")
async def secrets(view: View) -> Response[bytes]:
    """The secrets of one's teams; a value goes in here and is never shown."""
    return await view.page("secrets.html", lambda: _fetch(view))


handlers: list[Any] = [secrets]
