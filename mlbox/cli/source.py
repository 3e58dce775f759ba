"""`mlbox source`: the append-only tables that features are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import Column, Source

app = typer.Typer(no_args_is_help=True, help="Append-only tables that features are made of.")

COLUMNS = ("name", "rows", "event_time", "arrival_time", "created_at")
FORMATS = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow"}


@app.command("ls", epilog="Example: mlbox source ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List sources, by name."""
    with connect() as client:
        show(list(client.pages("/api/v1/sources", Source, key="name")), COLUMNS, output)


@app.command("show", epilog="Example: mlbox source show weather")
def show_source(name: str, output: OutputOption = Output.table) -> None:
    """Show a source and its columns."""
    with connect() as client:
        source = client.get(f"/api/v1/sources/{name}", Source)
    show_one(source, output)
    if output is Output.table:
        note("")
        show(source.columns, ("name", "dtype", "unit", "description"), output)


@app.command(
    epilog="Example: mlbox source create weather -c origin:STRING -c hour:TIMESTAMP -c temp:FP64:°F --event-time hour"
)
def create(
    name: str,
    column: Annotated[list[str], typer.Option("--column", "-c", help="NAME:TYPE or NAME:TYPE:UNIT, once for each.")],
    event_time: Annotated[str, typer.Option(help="The TIMESTAMP column that says when a row happened.")],
    arrival_time: Annotated[
        str | None, typer.Option(help="The one that says when it became known, if that is later.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Declare a source; types are BOOL, INT64, FP64, STRING and TIMESTAMP."""
    body = {
        "name": name,
        "columns": [read_column(text) for text in column],
        "event_time": event_time,
        "arrival_time": arrival_time,
    }
    with connect() as client:
        show_one(client.post("/api/v1/sources", Source, body), output)


@app.command(epilog="Example: mlbox source append weather july.parquet")
def append(
    name: str,
    file: Path,
    format: Annotated[str | None, typer.Option(help="parquet, csv or arrow; by default from the file's name.")] = None,
) -> None:
    """Add a file's rows, all or none."""
    chosen = format or FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise InvalidInput(f"The name {file.name} does not say its format.", hint="Give --format.", field="format")
    with connect(timeout_seconds=600) as client:
        answer = client.upload("POST", f"/api/v1/sources/{name}/rows", file, dict[str, int], format=chosen)
    note(f"{answer['rows']:,} rows added to {name}.")
    if held := answer.get("quarantined"):
        note(f"{held:,} rows broke an expectation and are in quarantine: `mlbox quality show {name}`.")


def read_column(text: str) -> Column:
    """`NAME:TYPE[:UNIT]` as a column; raises InvalidInput."""
    name, _, rest = text.partition(":")
    dtype, _, unit = rest.partition(":")
    if not name or not dtype:
        raise InvalidInput(f"{text!r} is not NAME:TYPE.", hint="For example temp:FP64:°F.", field="column")
    return Column(name=name, dtype=dtype.upper(), unit=unit)  # type: ignore[arg-type]  # the server checks it
