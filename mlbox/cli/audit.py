"""`mlbox audit`: what happened, and who did it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show
from mlbox.errors import Conflict
from mlbox.records import ChainReport, Event

app = typer.Typer(no_args_is_help=True, help="What happened, and who did it.")


@app.command("ls", epilog="Example: mlbox audit ls --subject model:flight-delay/1")
def ls(
    subject: Annotated[str | None, typer.Option(help="Only events about this, such as model:NAME/N.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only events of this user.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only events of this type.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List events, newest first."""
    with connect() as client:
        query = {"subject": subject, "actor": actor, "type": type_, "limit": limit}
        found = client.decode(client.request("GET", "/api/v1/audit", query=query), list[Event])
        show(found, ("at", "type", "subject", "actor", "data"), output)


@app.command(epilog="Example: mlbox audit verify --head access=120:5f0c...")
def verify(
    data_dir: Annotated[
        Path | None, typer.Option(help="Verify this data directory, served or not, without asking its server.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="ROOM=NUMBER:HASH as an earlier verification printed it; may be given again."),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Prove that no event of the log was changed, removed or cut off; the exit code is 1 where one was.

    Keep the heads that it prints out of reach of whoever can write to the data directory: with them it finds a log made anew.
    """
    kept = {room: value for room, _, value in (text.partition("=") for text in head or ())}
    if data_dir is not None:
        reports = _verify_here(data_dir, kept)
    else:
        with connect(timeout_seconds=600) as client:
            reports = client.get("/api/v1/audit/verify", list[ChainReport], head=head)
    show(reports, ("room", "events", "head", "problem"), output)
    broken = [report.room for report in reports if report.problem]
    if broken:
        raise Conflict(
            f"The audit log of {', '.join(broken)} is not whole.", hint="Compare it with an export or a backup."
        )


def _verify_here(data_dir: Path, kept: dict[str, str]) -> list[ChainReport]:
    from mlbox.store import audit

    return audit.verify(data_dir, {room: audit.head_of(text) for room, text in kept.items()})


@app.command(epilog="Example: mlbox audit export > audit.jsonl")
def export() -> None:
    """Print every event with its hashes, room by room and oldest first, as lines of JSON."""
    with connect(timeout_seconds=600) as client:
        for piece in client.stream("/api/v1/audit/export"):
            sys.stdout.buffer.write(piece)


@app.command("show", epilog="Example: mlbox audit show model:flight-delay/1")
def about(subject: Annotated[str, typer.Argument()], output: OutputOption = Output.table) -> None:
    """Show everything that happened to one thing."""
    ls(subject, None, None, 1000, output)
