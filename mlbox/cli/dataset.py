"""`mlbox dataset`: dataset versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import DatasetVersion

app = typer.Typer(no_args_is_help=True, help="Dataset versions.")
Ref = Annotated[str, typer.Argument(metavar="NAME[@vN]", help="A version, or the latest of a name.")]


@app.command("ls", epilog="Example: mlbox dataset ls")
def ls(
    name: Annotated[str | None, typer.Option(help="Only versions of this dataset.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """List versions, newest first."""
    with connect() as client:
        found = client.get("/api/v1/datasets", list[DatasetVersion], name=name)
        show(found, ("name", "version", "rows", "views", "label_set", "created_by", "created_at"), output)


@app.command("show", epilog="Example: mlbox dataset show flights@v1")
def show_version(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show what a version is made of."""
    with connect() as client:
        show_one(client.get(f"/api/v1/datasets/{ref}", DatasetVersion), output)


@app.command(epilog="Example: mlbox dataset pull flights@v1 --to data/")
def pull(ref: Ref, to: Annotated[Path, typer.Option(help="Folder to put the files into.")] = Path(".")) -> None:
    """Fetch a version's Parquet files."""
    to.mkdir(parents=True, exist_ok=True)
    with connect() as client:
        found = client.get(f"/api/v1/datasets/{ref}", DatasetVersion)
        for file in found.files:
            client.download(f"/api/v1/datasets/{found.ref}/files/{file.path}", to / file.path)
            note(f"{to / file.path}: {file.rows:,} rows")
