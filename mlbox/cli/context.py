"""`mlbox context`: which box the commands talk to; and `connect`, how they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlbox import context
from mlbox.cli.output import Output, OutputOption, note, show

if TYPE_CHECKING:
    from mlbox.client import Client

app = typer.Typer(no_args_is_help=True, help="Which box the commands talk to.")


def connect(*, timeout_seconds: float = 60) -> Client:
    """A client of the chosen box: from MLBOX_URL and MLBOX_TOKEN, else from the context file; use `with`.

    Raises NotAuthenticated when neither names a box.
    """
    # Imported here, because the HTTP client takes a fifth of a second: `--help` and a usage error go without it.
    from mlbox.client import Client

    url, token = context.resolve()
    return Client(url, token, timeout_seconds=timeout_seconds)


@app.command("ls", epilog="Example: mlbox context ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List the boxes that you logged in to, without their tokens."""
    rows = [{"name": found.name, "url": found.url, "current": found.current} for found in context.load()]
    show(rows, ("name", "url", "current"), output)


@app.command(epilog="Example: mlbox context use box:8265")
def use(name: Annotated[str, typer.Argument(help="As `mlbox context ls` shows it.")]) -> None:
    """Talk to another box from now on."""
    found = context.use(name)
    note(f"Commands now talk to {found.url}.")
