"""Teams over HTTP: who is in which role, and what only its team sees."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post, put

from mlbox.records import Kind, Principal, Record, Role, Team
from mlbox.web.box import Box


class NewTeam(Record, frozen=True, kw_only=True):
    """A team to add."""

    name: str


class Membership(Record, frozen=True, kw_only=True):
    """A member's role."""

    role: Role = "member"


class Private(Record, frozen=True, kw_only=True):
    """Something that only its team sees."""

    kind: Kind
    name: str
    team: str


@get("/api/v1/teams", action="team.read")
async def list_teams(box: Box) -> list[Team]:
    """All teams with their members: `everyone` first, then by name."""
    return await box.call(box.teams.teams)


@get("/api/v1/teams/{team:str}", action="team.read")
async def get_team(box: Box, team: str) -> Team:
    """One team with its members."""
    return await box.call(box.teams.team, team)


@post("/api/v1/teams", action="team.create")
async def create_team(box: Box, principal: Principal, data: NewTeam) -> Team:
    """Add a team; it owns whatever has a name that begins with its own and a dot."""
    return await box.call(box.teams.create, data.name, actor=principal.name)


@delete("/api/v1/teams/{team:str}", action="team.create")
async def remove_team(box: Box, principal: Principal, team: str) -> None:
    """Take a team away; what it owned belongs to everyone."""
    await box.call(box.teams.remove, team, actor=principal.name)


@put("/api/v1/teams/{team:str}/members/{user:str}", action="team.change")
async def add_member(box: Box, principal: Principal, team: str, user: str, data: Membership) -> Team:
    """Take a user into a team, or give a member another role."""
    return await box.call(box.teams.add_member, team, user, data.role, actor=principal.name)


@delete("/api/v1/teams/{team:str}/members/{user:str}", status_code=200, action="team.change")
async def remove_member(box: Box, principal: Principal, team: str, user: str) -> Team:
    """Take a user out of a team."""
    return await box.call(box.teams.remove_member, team, user, actor=principal.name)


@get("/api/v1/private", action="team.read")
async def list_private(box: Box) -> list[Private]:
    """What only its team sees, of your teams."""
    found = await box.call(box.teams.private)
    return [Private(kind=kind, name=name, team=box.teams.team_of(name)) for kind, name in found]


@put("/api/v1/private/{kind:str}/{name:str}", status_code=204, action="team.hide")
async def hide(box: Box, principal: Principal, kind: Kind, name: str) -> None:
    """Let only the owning team know of an object: for everyone else it is not there."""
    box.teams.require(principal, "team.hide", name=name)
    await box.call(box.teams.set_private, kind, name, True, actor=principal.name)


@delete("/api/v1/private/{kind:str}/{name:str}", action="team.hide")
async def share(box: Box, principal: Principal, kind: Kind, name: str) -> None:
    """Let every account know of an object again."""
    box.teams.require(principal, "team.hide", name=name)
    await box.call(box.teams.set_private, kind, name, False, actor=principal.name)


handlers: list[Any] = [
    *(list_teams, get_team, create_team, remove_team, add_member, remove_member, list_private, hide, share),
]
