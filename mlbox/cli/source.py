"""`mlbox source`: the append-only tables that features are made of."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, read_pairs, show, show_one
from mlbox.errors import InvalidInput
from mlbox.records import FILE_FORMATS, Column, DType, Pushed, Source, SourceFile

app = typer.Typer(no_args_is_help=True, help="Append-only tables that features are made of.")

COLUMNS = ("name", "rows", "event_time", "arrival_time", "created_at")
ROWS_AT_ONCE = 10_000


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
    folder: Annotated[
        str,
        typer.Option(
            help="Files to take as they appear, such as landing/orders/*.parquet, in a folder of the operator's."
        ),
    ] = "",
    output: OutputOption = Output.table,
) -> None:
    """Declare a source; types are BOOL, INT64, FP64, STRING and TIMESTAMP."""
    body = {
        "name": name,
        "columns": [read_column(text) for text in column],
        "event_time": event_time,
        "arrival_time": arrival_time,
        "folder": folder,
    }
    with connect() as client:
        show_one(client.post("/api/v1/sources", Source, body), output)


@app.command(epilog="Example: mlbox source files orders")
def files(name: str, output: OutputOption = Output.table) -> None:
    """Show the files of a source's watched folder: those taken, and those refused with the reason."""
    with connect() as client:
        show(
            client.get(f"/api/v1/sources/{name}/files", list[SourceFile]),
            ("path", "size", "rows", "taken_at", "error"),
            output,
        )


@app.command(epilog="Example: mlbox source append weather july.parquet")
def append(
    name: str,
    file: Path,
    format: Annotated[str | None, typer.Option(help="parquet, csv or arrow; by default from the file's name.")] = None,
) -> None:
    """Add a file's rows, all or none."""
    chosen = format or FILE_FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise InvalidInput(f"The name {file.name} does not say its format.", hint="Give --format.", field="format")
    with connect(timeout_seconds=600) as client, naming(file):
        answer = client.upload("POST", f"/api/v1/sources/{name}/rows", file, dict[str, int], format=chosen)
    note(f"{counted(answer['rows'], 'row')} added to {name}.")
    _tell_held(answer.get("quarantined", 0), name)


@app.command(epilog="Example: mlbox source push sales who=ann amount=12.5 bought=2026-01-02T10:00Z")
def push(
    name: str,
    row: Annotated[list[str] | None, typer.Argument(metavar="COLUMN=VALUE", help="One row.")] = None,
    file: Annotated[Path | None, typer.Option(help="Rows as JSON, one a line; - for standard input.")] = None,
    to: Annotated[str, typer.Option(help="online, offline or online_and_offline.")] = "online_and_offline",
) -> None:
    """Add rows that become known now: to the source, and online at once in views that look at each row alone."""
    with connect(timeout_seconds=600) as client:
        source = client.get(f"/api/v1/sources/{name}", Source)
        if (row is None) == (file is None):
            raise InvalidInput("There are no rows.", hint="Give COLUMN=VALUE of one row, or --file.", field="rows")
        rows = read_rows(file) if file is not None else [_typed_row(row or [], source)]
        total = Pushed(rows=0)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            body = {"rows": rows[start : start + ROWS_AT_ONCE], "to": to}
            with naming(file) if file is not None else contextlib.nullcontext():
                told = client.post(f"/api/v1/sources/{name}/push", Pushed, body)
            total = Pushed(
                rows=total.rows + told.rows,
                quarantined=total.quarantined + told.quarantined,
                online=total.online + told.online,
            )
    note(f"{counted(total.rows, 'row')} taken by {name}, {total.online:,} online at once.")
    _tell_held(total.quarantined, name)


def _tell_held(rows: int, name: str) -> None:
    if rows:
        note(f"{counted(rows, 'row')} broke an expectation, now in quarantine: `mlbox quality show {name}`.")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows as JSON, one a line; raises InvalidInput naming the line."""
    rows = []
    for number, line in enumerate(read_input(file).splitlines(), start=1):
        if line.strip():
            try:
                rows.append(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.MsgspecError as err:
                raise InvalidInput(
                    f"Line {number} is no row: {err}.", hint="One JSON object a line.", field="file"
                ) from err
    return rows


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Have an error in the rows of a file name the file: the box has seen nothing but what is in it."""
    try:
        yield
    except InvalidInput as err:
        if err.field not in ("features", "format") and not err.message.startswith(str(file)):
            err.message = f"{file}: {err.message}"
        raise


def read_input(file: Path) -> bytes:
    """What a file holds, or standard input where it is `-`; raises InvalidInput."""
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as err:
        raise InvalidInput(f"{file} cannot be read: {err.strerror}.", hint="Give another file.", field="file") from err


def _typed_row(pairs: list[str], source: Source) -> dict[str, Any]:
    dtypes = {column.name: column.dtype for column in source.columns}
    return {name: typed(name, text, dtypes.get(name, "STRING")) for name, text in read_pairs(pairs, name="row").items()}


def typed(name: str, text: str, dtype: str) -> Any:
    """A value as it is written on a command line, in its column's type; raises InvalidInput."""
    readers: dict[str, Callable[[str], Any]] = {"BOOL": msgspec.json.decode, "INT64": int, "FP64": float}
    try:
        return readers.get(dtype, str)(text)
    except (ValueError, msgspec.DecodeError) as err:
        raise InvalidInput(f"{name}={text} is no {dtype}.", hint="Give a value of that type.", field=name) from err


def read_column(text: str) -> Column:
    """`NAME:TYPE[:UNIT]` as a column; raises InvalidInput."""
    name, _, rest = text.partition(":")
    dtype, _, unit = rest.partition(":")
    if not name or not dtype:
        raise InvalidInput(f"{text!r} is not NAME:TYPE.", hint="For example temp:FP64:°F.", field="column")
    if dtype.upper() not in get_args(DType):
        known = ", ".join(get_args(DType))
        raise InvalidInput(f"{text!r} has the type {dtype!r}, which is none.", hint=f"One of {known}.", field="column")
    return Column(name=name, dtype=dtype.upper(), unit=unit)  # type: ignore[arg-type]  # one of them
