"""`mlbox deleted`, `mlbox restore` and `mlbox gc`: what was deleted, taking it back, and freeing its bytes."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import Collected, Deleted

app = typer.Typer(no_args_is_help=True, help="What was deleted.")


@app.command("deleted", epilog="Example: mlbox deleted")
def ls(
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    output: OutputOption = Output.table,
) -> None:
    """List what was deleted and can be taken back."""
    with connect() as client:
        found = client.get("/api/v1/deleted", list[Deleted], limit=limit)
    show(found, ("id", "name", "owner", "deleted_at", "deleted_by", "goes_at"), output)


@app.command(epilog="Example: mlbox restore run:0198c0ffee...")
def restore(item: Annotated[str, typer.Argument(metavar="KIND:ID", help="As `mlbox deleted` lists it.")]) -> None:
    """Take a deletion back."""
    with connect() as client:
        found = client.post(f"/api/v1/deleted/{quote(item, safe='')}/restore", Deleted)
    note(f"{found.id}{f' ({found.name})' if found.name else ''} is back.")


@app.command(epilog="Example: mlbox gc --dry-run")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    older_than: Annotated[
        float | None, typer.Option(help="Days since the deletion; the server's deleted_days where left out.")
    ] = None,
    grace: Annotated[float, typer.Option(help="Seconds for which a file that came into use stays.")] = 3600,
    output: OutputOption = Output.table,
) -> None:
    """Remove for good what was deleted long ago, and free its files."""
    body = {"older_than_days": older_than, "grace_seconds": grace, "dry_run": dry_run}
    with connect(timeout_seconds=3600) as client:
        show_one(client.post("/api/v1/gc", Collected, body=body), output)
