"""`mlbox clock`: domain time, which a box in replay mode holds still until it is advanced."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show_one
from mlbox.clock import parse_time

app = typer.Typer(no_args_is_help=True, help="Domain time of a box in replay mode.")


@app.command("show", epilog="Example: mlbox clock show -o json")
def show_clock(output: OutputOption = Output.table) -> None:
    """Show domain time and real time."""
    with connect() as client:
        show_one(client.get("/api/v1/clock", dict[str, Any]), output)


@app.command(epilog="Example: mlbox clock advance 2013-07-01T00:00Z")
def advance(
    to: Annotated[str, typer.Argument(metavar="TIME", help="ISO 8601 with a zone; not before domain time.")],
    output: OutputOption = Output.table,
) -> None:
    """Move domain time forward, as an admin."""
    moment = parse_time(to, field="to")
    with connect() as client:
        show_one(client.post("/api/v1/clock", dict[str, Any], {"to": moment}), output)
