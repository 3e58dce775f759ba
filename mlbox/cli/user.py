"""`mlbox user`: people and services that may sign in."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.records import Role, User

app = typer.Typer(no_args_is_help=True, help="People and services that may sign in.")

COLUMNS = ("name", "role", "created_at")


@app.command("ls", epilog="Example: mlbox user ls -o id")
def ls(output: OutputOption = Output.table) -> None:
    """List users, by name."""
    with connect() as client:
        show(client.get("/api/v1/users", list[User], limit=1000), COLUMNS, output)


@app.command(epilog="Example: mlbox user create bea --role approver")
def create(
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_' and '-'.")],
    role: Annotated[Role, typer.Option(help="What they may do; each role may do what those before it may.")] = "member",
    output: OutputOption = Output.table,
) -> None:
    """Add a user, as an admin; `mlbox token create` then lets them in."""
    with connect() as client:
        show_one(client.post("/api/v1/users", User, {"name": name, "role": role}), output, columns=COLUMNS)
