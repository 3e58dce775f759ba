"""`mlbox label`: label sets."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.records import LabelSet

app = typer.Typer(no_args_is_help=True, help="Label sets.")


@app.command("ls", epilog="Example: mlbox label ls")
def ls(output: OutputOption = Output.table) -> None:
    """List label sets."""
    with connect() as client:
        show(client.get("/api/v1/labels", list[LabelSet]), ("name", "keys", "value", "rows"), output)


@app.command("show", epilog="Example: mlbox label show arrived_late")
def show_set(name: Annotated[str, typer.Argument()], output: OutputOption = Output.table) -> None:
    """Show a label set and how many outcomes are known."""
    with connect() as client:
        show_one(client.get(f"/api/v1/labels/{name}", dict[str, Any]), output)
