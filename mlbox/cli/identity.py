"""`mlbox identity`: whose account a person of the sign-in provider uses."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import Identity

app = typer.Typer(no_args_is_help=True, help="Whose account a person of the sign-in provider uses.")

COLUMNS = ("user", "subject", "issuer", "created_at")

Subject = Annotated[str, typer.Argument(help="The provider's claim `sub`, as the sign-in page or `ls` shows it.")]
Issuer = Annotated[str | None, typer.Option(help="The provider, where it is not the one that the box is set up with.")]


@app.command("ls", epilog="Example: mlbox identity ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List who of the sign-in provider uses which account, as an admin."""
    with connect() as client:
        found = client.get("/api/v1/identities", list[Identity])
    if output is Output.id:
        typer.echo("\n".join(one.subject for one in found))
        return
    show(found, COLUMNS, output)


@app.command(epilog="Example: mlbox identity link bea 248289761001")
def link(
    user: Annotated[str, typer.Argument(metavar="USER", help="As `mlbox user ls` shows it.")],
    subject: Subject,
    issuer: Issuer = None,
    output: OutputOption = Output.table,
) -> None:
    """Let a person of the sign-in provider use an account that is there already, as an admin."""
    with connect() as client:
        body = {"user": user, "subject": subject, "issuer": issuer}
        show_one(client.post("/api/v1/identities", Identity, body), output, columns=COLUMNS)


@app.command(epilog="Example: mlbox identity unlink 248289761001")
def unlink(subject: Subject, issuer: Issuer = None) -> None:
    """Take a person of the sign-in provider off their account, and end its sessions, as an admin."""
    with connect() as client:
        client.delete("/api/v1/identities", subject=subject, issuer=issuer)
    note(f"{subject} uses no account now.")
