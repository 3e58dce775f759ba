"""Teams, their members, and what only they see."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.store.access.roles import ACTIONS, ROLES
from mlbox.store.access.teams import EVERYONE, KINDS
from mlbox.web.pages.view import View

FEW = 6
"""Teams that are shown with all their members at once."""


def _fetch(view: View, chosen: str | None) -> dict[str, Any]:
    teams, who = view.box.teams, view.principal
    assert who is not None
    known, own = teams.teams(), teams.memberships(who.name)
    opened = [team for team in known if (team.name == chosen if chosen else len(known) <= FEW or team.name in own)]
    if chosen and not opened:
        opened = [teams.team(chosen)]
    private: dict[str, list[tuple[str, str]]] = {}
    for kind, name in teams.private():
        private.setdefault(teams.team_of(name), []).append((kind, name))
    return {
        "teams": opened,
        "others": [team for team in known if team not in opened],
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
async def teams(view: View, team: str | None = None) -> Response[bytes]:
    """Teams with their members, whom who may changes here: one's own and the one that was chosen, the others by name."""
    return await view.page("teams.html", lambda: _fetch(view, team))


handlers: list[Any] = [teams]
