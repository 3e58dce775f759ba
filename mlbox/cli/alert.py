"""`mlbox alert`: alerts."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show
from mlbox.records import Alert, AlertState

app = typer.Typer(no_args_is_help=True, help="Alerts.")


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


@app.command("show", epilog="Example: mlbox alert show -o json")
def firing(output: OutputOption = Output.table) -> None:
    """Show the alerts that fire."""
    ls("firing", 1000, output)
