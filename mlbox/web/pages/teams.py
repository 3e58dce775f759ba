"""Teams, their members, and what only they see."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.store.access.roles import ACTIONS, ROLES
from mlbox.store.access.teams import EVERYONE, KINDS
from mlbox.web.pages.view import View


def _fetch(view: View) -> dict[str, Any]:
    teams, who = view.box.teams, view.principal
    assert who is not None
    private: dict[str, list[tuple[str, str]]] = {}
    for kind, name in teams.private():
        private.setdefault(teams.team_of(name), []).append((kind, name))
    return {
        "teams": teams.teams(),
        "everyone": EVERYONE,
        "mine": {EVERYONE: who.role, **teams.roles_of(who)},
        "private": private,
        "users": [user.name for user in view.box.access.users()],
        "roles": ROLES,
        "kinds": KINDS,
        "actions": {role: [a.what for a in ACTIONS.values() if a.role == role] for role in ROLES},
        "may_admin": view.may("admin"),
    }


@get("/teams", include_in_schema=False, action="team.read")
async def teams(view: View) -> Response[bytes]:
    """Every team with its members; who may, changes them here."""
    return await view.page("teams.html", lambda: _fetch(view))


handlers: list[Any] = [teams]
