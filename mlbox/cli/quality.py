"""`mlbox quality`: what is expected of a source's rows, and those that were held back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, show, show_one
from mlbox.errors import InvalidInput, said
from mlbox.records import Expectation, Quality, Quarantined, Record

app = typer.Typer(no_args_is_help=True, help="Expectations of sources, and the rows that broke them.")
COLUMNS = ("column", "dtype", "min", "max", "values", "pattern", "max_nulls")
Source = Annotated[str, typer.Argument(metavar="SOURCE")]


class Expected(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of expectations."""

    expectations: tuple[Expectation, ...] = ()


@app.command("show", epilog="Example: mlbox quality show weather")
def show_quality(source: Source, output: OutputOption = Output.table) -> None:
    """Show what is expected of a source, and how many rows broke which rule."""
    with connect() as client:
        found = client.get(f"/api/v1/sources/{source}/quality", Quality)
    if output is not Output.table:
        show_one(found, output)
        return
    show(found.expectations, COLUMNS, output)
    note(f"{counted(found.quarantined, 'row')} in quarantine.")
    for reason, rows in found.reasons.items():
        note(f"  {rows:,}  {reason}")


@app.command("set", epilog="Example: mlbox quality set weather expectations.toml")
def set_expectations(
    source: Source, file: Annotated[Path, typer.Argument(help="TOML or JSON with a list `expectations`.")]
) -> None:
    """Set all expectations of a source, for what is loaded from now on."""
    expected = _read(file)
    with connect() as client:
        found = client.put(f"/api/v1/sources/{source}/expectations", Quality, expected.expectations)
    note(f"{counted(len(found.expectations), 'expectation')} of {source} set.")


@app.command("rows", epilog="Example: mlbox quality rows weather -o jsonl")
def rows(
    source: Source,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    after: Annotated[int, typer.Option(help="From the one after this id.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """List rows in quarantine, with their reasons."""
    with connect() as client:
        path = f"/api/v1/sources/{source}/quarantine"
        found = client.get(path, list[Quarantined], limit=limit, after=after)
    show(found, ("id", "at", "by", "reasons", "values"), output)


@app.command(epilog='Example: mlbox quality resubmit weather --correct \'{"17": {"temp": 21.5}}\'')
def resubmit(
    source: Source,
    row: Annotated[list[int] | None, typer.Option("--row", help="An id, once for each; by default all rows.")] = None,
    correct: Annotated[
        str | None, typer.Option(help="JSON: corrected values by id and column; without --row only these are sent.")
    ] = None,
) -> None:
    """Send rows of the quarantine again; those that meet what is expected now go into the source."""
    try:
        corrections = msgspec.json.decode(correct, type=dict[int, dict[str, Any]], strict=False) if correct else {}
    except msgspec.MsgspecError as err:
        raise InvalidInput(
            f"--correct is no such JSON: {err}.", hint='{"17": {"temp": 21.5}}', field="correct"
        ) from err
    ids = row or (list(corrections) if corrections else None)
    with connect(timeout_seconds=600) as client:
        body = {"ids": ids, "corrections": corrections}
        answer = client.post(f"/api/v1/sources/{source}/quarantine/resubmit", dict[str, int], body)
    note(f"{counted(answer['rows'], 'row')} added to {source}; {answer['quarantined']:,} in quarantine.")


def _read(file: Path) -> Expected:
    try:
        text = file.read_text()
        raw: Any = msgspec.json.decode(text) if file.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(raw, Expected)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{file} holds no expectations: {said(err)}.", hint="It has a list `expectations`.", field="file"
        ) from err
