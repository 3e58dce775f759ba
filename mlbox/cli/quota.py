"""`mlbox quota` and `mlbox usage`: how many GPUs a team may hold and when, and what everyone has used."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show
from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import TeamQuota, TeamWeight, UsageRow

app = typer.Typer(no_args_is_help=True, help="Quotas: how many GPUs a team may hold, and when.")
COLUMNS = ("team", "name", "gpus", "share", "windows", "zone", "borrowable", "counts", "open_until")
KEY = ("team", "name")
TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="As `mlbox team ls` shows it.")]
QuotaName = Annotated[str, typer.Option(help="Which of the team's quotas; it may have several, for different windows.")]
_AGO = re.compile(r"(\d+)([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@app.command("ls", epilog="Example: mlbox quota ls --team vision")
def ls(
    team: Annotated[str | None, typer.Option(help="Only this team's.")] = None, output: OutputOption = Output.table
) -> None:
    """List quotas, and whether each counts now."""
    with connect() as client:
        show(client.get("/api/v1/quotas", list[TeamQuota], team=team), COLUMNS, output, key=KEY)


@app.command("show", epilog="Example: mlbox quota show vision")
def show_quotas(team: TeamName, output: OutputOption = Output.table) -> None:
    """Show a team's quotas, and whether each counts now."""
    with connect() as client:
        show(client.get("/api/v1/quotas", list[TeamQuota], team=team), COLUMNS, output, key=KEY)


@app.command("set", epilog="Example: mlbox quota set vision 40% --window 'mon-fri 09:00-18:00' --zone Europe/Berlin")
def set_quota(
    team: TeamName,
    amount: Annotated[str, typer.Argument(metavar="GPUS|SHARE%", help="GPUs, such as 3, or a share, such as 40%.")],
    name: QuotaName = "default",
    window: Annotated[
        list[str] | None, typer.Option(help="When it counts, such as 'mon-fri 09:00-18:00'; may be given again.")
    ] = None,
    zone: Annotated[str, typer.Option(help="The time zone of the windows.")] = "UTC",
    borrowable: Annotated[
        bool, typer.Option("--borrowable", help="May be passed while others idle; what passes it gives way first.")
    ] = False,
) -> None:
    """Say how many GPUs a team may hold, always or in windows of the week, as an admin of the box."""
    body = {**_amount(amount), "windows": window or [], "zone": zone, "borrowable": borrowable}
    with connect() as client:
        kept = client.put(f"/api/v1/quotas/{quote(team, safe='')}/{quote(name, safe='')}", TeamQuota, body)
    when = f" in {', '.join(kept.windows)} ({kept.zone})" if kept.windows else ""
    note(f"The team {team} may hold {amount.rstrip('%')}{' % of the' if kept.share is not None else ''} GPUs{when}.")


@app.command(epilog="Example: mlbox quota rm vision --name day")
def rm(
    team: Annotated[str, typer.Argument(metavar="TEAM", help="Or TEAM/NAME, as `mlbox quota ls -o id` prints it.")],
    name: QuotaName = "default",
) -> None:
    """Take a quota away."""
    team, slash, named = team.partition("/")
    name = named if slash else name
    with connect() as client:
        client.delete(f"/api/v1/quotas/{quote(team, safe='')}/{quote(name, safe='')}")
    note(f"The team {team} has no quota {name} any more.")


@app.command(epilog="Example: mlbox quota weight vision 2")
def weight(
    team: TeamName,
    weight: Annotated[float, typer.Argument(help="2 gets twice as much as 1, while both have work. Each begins at 1.")],
) -> None:
    """Say how much of the box a team gets beside others that want it, too."""
    with connect() as client:
        client.put(f"/api/v1/team-weights/{quote(team, safe='')}", TeamWeight, {"weight": weight})
    note(f"The team {team} weighs {weight:g}.")


@app.command(epilog="Example: mlbox quota weights")
def weights(output: OutputOption = Output.table) -> None:
    """List the teams whose weight is not 1."""
    with connect() as client:
        show(client.get("/api/v1/team-weights", list[TeamWeight]), ("team", "weight"), output)


@app.command("usage", epilog="Example: mlbox usage --since 30d")
def usage(
    since: Annotated[str, typer.Option(help="Since when: 12h, 7d, 4w ago, or a moment in ISO 8601.")] = "7d",
    until: Annotated[str | None, typer.Option(help="Until when; now when not given.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the GPU-hours of each team and person."""
    now = datetime.now(UTC)
    query = {
        "since": _moment(since, now, "since").isoformat(),
        "until": _moment(until, now, "until").isoformat() if until else None,
    }
    with connect() as client:
        found = client.get("/api/v1/usage", list[UsageRow], **query)
    show(found, ("team", "user", "gpu_hours", "cpu_hours", "jobs"), output, key=("team", "user"))


def _amount(text: str) -> dict[str, float]:
    share = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError as err:
        raise InvalidInput(
            f"{text!r:.40} is no amount.", hint="Give GPUs, such as 3, or a share, such as 40%."
        ) from err
    return {"share": number / 100} if share else {"gpus": number}


def _moment(text: str, now: datetime, field: str) -> datetime:
    match = _AGO.fullmatch(text)
    if match is None:
        return parse_time(text, field=field)
    try:
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError as err:
        raise InvalidInput(f"{text} ago is before all time.", hint="Give less.", field=field) from err
