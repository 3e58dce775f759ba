"""`mlbox audit`: what happened, and who did it."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show
from mlbox.records import Event

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


@app.command("show", epilog="Example: mlbox audit show model:flight-delay/1")
def about(subject: Annotated[str, typer.Argument()], output: OutputOption = Output.table) -> None:
    """Show everything that happened to one thing."""
    ls(subject, None, None, 1000, output)
