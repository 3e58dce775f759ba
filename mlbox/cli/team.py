"""`mlbox team`: who works together, in which role, and what only they see."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show
from mlbox.errors import Conflict
from mlbox.records import Kind, Member, Record, Role, Team

app = typer.Typer(no_args_is_help=True, help="Teams: members, roles, and what is private.")

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="As `mlbox team ls` shows it.")]
UserName = Annotated[str, typer.Argument(metavar="USER", help="As `mlbox user ls` shows it.")]
KindName = Annotated[
    Kind, typer.Argument(metavar="KIND", help="experiment, source, view, service, label, dataset or model.")
]
Name = Annotated[str, typer.Argument(help="Its name, which begins with its team's: vision.flights.")]


class Line(Record, frozen=True, kw_only=True):
    """One member of one team."""

    team: str
    user: str
    role: Role | None


class PrivateLine(Record, frozen=True, kw_only=True):
    """Something that only its team sees."""

    kind: Kind
    name: str
    team: str


@app.command("ls", epilog="Example: mlbox team ls -o csv")
def ls(output: OutputOption = Output.table) -> None:
    """List teams and their members; `everyone` is the team of every account."""
    with connect() as client:
        teams = client.get("/api/v1/teams", list[Team])
    if output is Output.id:
        typer.echo("\n".join(team.name for team in teams))
        return
    nobody = (Member(user="", role="viewer"),)
    lines = [
        Line(team=team.name, user=member.user, role=member.role if member.user else None)
        for team in teams
        for member in team.members or nobody
    ]
    show(lines, ("team", "user", "role"), output)


@app.command(epilog="Example: mlbox team create vision")
def create(team: Annotated[str, typer.Argument(metavar="TEAM", help="Letters, digits, '_' and '-'.")]) -> None:
    """Add a team, as an admin of the box; it owns every name that begins with its own and a dot."""
    with connect() as client:
        client.post("/api/v1/teams", Team, {"name": team})
    note(f"The team {team} owns what is named {team}.NAME. `mlbox team add {team} USER` takes someone in.")


@app.command(epilog="Example: mlbox team rm vision bea")
def rm(
    team: TeamName,
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Who leaves; nobody: the team itself.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take the team away though it has members.")] = False,
) -> None:
    """Take a user out of a team, or without a user the team away: what it owned belongs to everyone."""
    if user is not None:
        remove(team, user)
        return
    with connect() as client:
        members = [] if force else client.get(f"/api/v1/teams/{quote(team, safe='')}", Team).members
        if members:
            raise Conflict(
                f"The team {team} has members: {', '.join(member.user for member in members[:10])}.",
                hint=f"`mlbox team rm {team} USER` takes one out; --force takes the team away with its members.",
            )
        client.delete(f"/api/v1/teams/{quote(team, safe='')}")
    note(f"The team {team} is gone.")


@app.command(epilog="Example: mlbox team add vision bea --role approver")
def add(
    team: TeamName,
    user: UserName,
    role: Annotated[
        Role, typer.Option(help="What they may do in it; each role may do what those before it may.")
    ] = "member",
) -> None:
    """Take a user into a team, or give a member another role."""
    with connect() as client:
        client.put(f"/api/v1/teams/{quote(team, safe='')}/members/{quote(user, safe='')}", Team, {"role": role})
    note(f"{user} is {role} in {team}.")


@app.command(hidden=True, epilog="Example: mlbox team rm vision bea")
def remove(team: TeamName, user: UserName) -> None:
    """Take a user out of a team."""
    with connect() as client:
        client.delete(f"/api/v1/teams/{quote(team, safe='')}/members/{quote(user, safe='')}")
    note(f"{user} is not in {team}.")


@app.command(epilog="Example: mlbox team hide dataset vision.faces")
def hide(kind: KindName, name: Name) -> None:
    """Let only the owning team know of an object; it may be named before it is made."""
    with connect() as client:
        client.request("PUT", f"/api/v1/private/{kind}/{quote(name, safe='')}")
    note(f"Only its team sees the {kind} {name}.")


@app.command(epilog="Example: mlbox team share dataset vision.faces")
def share(kind: KindName, name: Name) -> None:
    """Let every account know of an object again."""
    with connect() as client:
        client.delete(f"/api/v1/private/{kind}/{quote(name, safe='')}")
    note(f"Everyone sees the {kind} {name}.")


@app.command(epilog="Example: mlbox team private -o json")
def private(output: OutputOption = Output.table) -> None:
    """List what only your teams see."""
    with connect() as client:
        show(client.get("/api/v1/private", list[PrivateLine]), ("kind", "name", "team"), output)
