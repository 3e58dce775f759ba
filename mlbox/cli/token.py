"""`mlbox token`: bearer tokens, whose secret is shown once."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, Row, note, show, show_one
from mlbox.records import NewToken, Principal, Role, Token

app = typer.Typer(no_args_is_help=True, help="Bearer tokens.")

COLUMNS = ("name", "user", "may", "expires_at", "used_at", "created_at", "id")


@app.command("ls", epilog="Example: mlbox token ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List tokens, without their secrets: your own, or everyone's as an admin; each may do no more than its user."""
    with connect() as client:
        found = client.get("/api/v1/tokens", list[Token], limit=1000)
    rows: list[Row] = list(found)
    if output is Output.table:
        rows = [
            msgspec.structs.asdict(one) | {"may": _most(one), "expires_at": one.expires_at or "never"} for one in found
        ]
    show(rows, COLUMNS, output, key=("id",))


def _most(token: Token) -> str:
    """The highest role is no ceiling: its user decides."""
    return "what its user may" if token.role == "admin" else f"at most {token.role}"


@app.command(epilog="Example: mlbox token create --name ci --role viewer --expires 30d -o id")
def create(
    name: Annotated[str, typer.Option(help="What it is for.")],
    user: Annotated[str | None, typer.Option(help="Whose; yours when not given.")] = None,
    role: Annotated[Role | None, typer.Option(help="The most it may do; all that its user may when not given.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long it lives: 90m, 12h, 30d, 52w; for ever when not given.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Make a token and show its secret, this once; `-o id` prints the secret alone."""
    with connect() as client:
        owner = user or client.get("/api/v1/whoami", Principal).name
        body = {"user": owner, "name": name, "role": role, "expires": expires}
        made = client.post("/api/v1/tokens", NewToken, body)
    if output is Output.id:
        typer.echo(made.secret)
    else:
        show_one(made, output)
        note("The secret is not shown again.")


@app.command(epilog="Example: mlbox token revoke 019a3c5e7b8f7d10a4e2c9d8b7f60123")
def revoke(token_id: Annotated[str, typer.Argument(metavar="ID", help="As `mlbox token ls` shows it.")]) -> None:
    """End a token: who holds it is turned away at once."""
    with connect() as client:
        client.delete(f"/api/v1/tokens/{token_id}")
    note(f"The token {token_id} is revoked.")
