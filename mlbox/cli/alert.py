"""`mlbox alert`: alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.cli.quantities import seconds
from mlbox.errors import InvalidInput
from mlbox.records import Alert, AlertGroup, AlertState, Delivery, Silence, WrittenRules

app = typer.Typer(no_args_is_help=True, help="Alerts.")
SILENCE_COLUMNS = ("id", "labels", "author", "reason", "created_at", "expires_at")


@app.command("ls", epilog="Example: mlbox alert ls --state firing")
def ls(
    state: Annotated[AlertState | None, typer.Option(help="Only alerts in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List alerts, newest first."""
    with connect() as client:
        found = client.get("/api/v1/alerts", list[Alert], state=state, limit=limit)
        show(found, ("fired_at", "state", "name", "summary", "resolved_at"), output)


@app.command(epilog="Example: mlbox alert groups")
def groups(output: OutputOption = Output.table) -> None:
    """Show what fires by model, the worst first."""
    with connect() as client:
        found = client.get("/api/v1/alerts/groups", list[AlertGroup])
    if output is not Output.table:
        show(found, (), output)
        return
    rows = [
        {
            "name": one.name,
            "firing": one.firing,
            "since": one.since,
            "worst": one.worst.summary,
            "alerts": _counted(one),
        }
        for one in found
    ]
    show(rows, ("name", "firing", "alerts", "worst", "since"), output)


def _counted(group: AlertGroup) -> str:
    return ", ".join(f"{times} {name}" for name, times in group.counts.items())


@app.command("show", epilog="Example: mlbox alert show -o json")
def firing(output: OutputOption = Output.table) -> None:
    """Show the alerts that fire."""
    ls("firing", 1000, output)


@app.command(epilog='Example: mlbox alert silence model=flight-delay --for 2h --reason "backfill"')
def silence(
    labels: Annotated[list[str], typer.Argument(help="LABEL=VALUE that an alert must have; alertname is its name.")],
    hold: Annotated[str, typer.Option("--for", help="For how long, such as 2h or 7d.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever wonders.")],
    output: OutputOption = Output.table,
) -> None:
    """Tell nobody of some alerts for a while."""
    wanted = dict(part.split("=", 1) for part in labels if "=" in part)
    if len(wanted) != len(labels):
        raise InvalidInput("A label is written LABEL=VALUE.", hint="Such as model=flight-delay.", field="labels")
    body = {"labels": wanted, "for_seconds": seconds(hold, field="for"), "reason": reason}
    with connect() as client:
        show([client.post("/api/v1/silences", Silence, body)], SILENCE_COLUMNS, output)


@app.command(epilog="Example: mlbox alert silences")
def silences(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30, output: OutputOption = Output.table
) -> None:
    """List silences, newest first."""
    with connect() as client:
        show(client.get("/api/v1/silences", list[Silence], limit=limit), SILENCE_COLUMNS, output)


@app.command(epilog="Example: mlbox alert unsilence 0197f2a0c0de7000a000000000000001")
def unsilence(silence_id: Annotated[str, typer.Argument(metavar="SILENCE", help="Its id.")]) -> None:
    """End a silence now."""
    with connect() as client:
        client.delete(f"/api/v1/silences/{silence_id}")
    note(f"Ended {silence_id}.")


@app.command(epilog="Example: mlbox alert rules --set rules.toml")
def rules(
    new: Annotated[
        Path | None,
        typer.Option("--set", exists=True, dir_okay=False, help="Put what this file says in force, over the server's."),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show the rules that are written over those of the server's file, or write them."""
    with connect() as client:
        if new is None:
            found = client.get("/api/v1/alerts/rules/text", WrittenRules)
        else:
            found = client.put("/api/v1/alerts/rules/text", WrittenRules, {"text": new.read_text()})
    if output is not Output.table:
        show_one(found, output)
        return
    print(found.text, end="")
    note(f"Revision {found.revision}{f', over {found.file}' if found.file else ''}.")
    if found.error:
        note(f"What is written is wrong, and the rules before it stay in force: {found.error}")


@app.command(epilog="Example: mlbox alert test ops")
def test(channel: Annotated[str, typer.Argument(help="A channel of the alert rules.")]) -> None:
    """Send a made-up message over a channel."""
    with connect() as client:
        client.post(f"/api/v1/alerts/channels/{channel}/test", Delivery)
    note(f"Queued; `mlbox alert deliveries {channel}` says what became of it.")


@app.command(epilog="Example: mlbox alert deliveries ops")
def deliveries(
    channel: Annotated[str, typer.Argument(help="A channel of the alert rules.")],
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List what was sent over a channel, newest first."""
    with connect() as client:
        found = client.get(f"/api/v1/alerts/channels/{channel}/deliveries", list[Delivery], limit=limit)
        show(found, ("created_at", "state", "status", "tries", "text"), output)
