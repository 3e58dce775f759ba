"""`mlbox backup`: a copy of all that a box keeps, made while it runs, proven, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import Backup

app = typer.Typer(no_args_is_help=True, help="Backups: made while the box runs, proven, restored.")
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A backup, on this machine.")]


@app.command(epilog="Example: mlbox backup create -o id")
def create(output: OutputOption = Output.table) -> None:
    """Have the box copy all that it keeps into its folder of backups, as an admin; `-o id` prints the backup's folder."""
    with connect(timeout_seconds=24 * 3600) as client:
        made = client.post("/api/v1/backups", Backup)
    if output is Output.id:
        typer.echo(made.path)
    else:
        show_one(made, output)
        note("The keys of secrets and erasures are not in it: keep a copy of the folder keys elsewhere.")


@app.command("ls", epilog="Example: mlbox backup ls")
def ls(output: OutputOption = Output.table) -> None:
    """List the backups in the folder that the box makes them in, the newest first."""
    with connect() as client:
        found = client.get("/api/v1/backups", list[Backup])
    if output is Output.id:
        typer.echo("".join(f"{backup.path}\n" for backup in found), nl=False)
    else:
        show(found, ("name", "made_at", "release", "files", "size", "path"), output)


@app.command(epilog="Example: mlbox backup verify /backup/20260101T020000.000000Z")
def verify(folder: Folder, output: OutputOption = Output.table) -> None:
    """Read every file of a backup and compare it with the manifest; needs no server."""
    from mlbox.store import backup

    show_one(backup.verify(folder), output)
    note("Every file is what it was when the backup was made.")


@app.command(epilog="Example: mlbox backup restore /backup/20260101T020000.000000Z --data-dir /srv/mlbox")
def restore(
    folder: Folder,
    data_dir: Annotated[Path, typer.Option(help="A new or empty folder.")],
) -> None:
    """Make a data directory of a backup, comparing each file on its way; needs no server."""
    from mlbox.store import backup

    made = backup.restore(folder, data_dir)
    note(f"{data_dir} is the box of {made.made_at:%Y-%m-%d %H:%M} UTC. `mlbox serve --data-dir {data_dir}` serves it.")
