"""`mlbox transform`: on-demand transforms, one function at training and at serving."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import InvalidInput, said
from mlbox.records import Record, Transform, TransformSpec

app = typer.Typer(no_args_is_help=True, help="On-demand transforms: one function at training and at serving.")
COLUMNS = ("ref", "inputs", "outputs", "owner", "description")
File = Annotated[Path, typer.Argument(help="TOML or JSON with a list `transforms`.")]


class Transforms(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A definition file."""

    transforms: tuple[TransformSpec, ...]


@app.command("ls", epilog="Example: mlbox transform ls")
def ls(output: OutputOption = Output.table) -> None:
    """List all versions of all transforms, by name."""
    with connect() as client:
        found = list(client.pages("/api/v1/features/transforms", Transform, key="ref"))
    if output is Output.table:
        rows = [{**_facts(one), "inputs": _names(one.inputs), "outputs": _names(one.outputs)} for one in found]
        show(rows, COLUMNS, output)
    else:
        show(found, COLUMNS, output)


@app.command("show", epilog="Example: mlbox transform show ratio@v1")
def show_transform(
    ref: Annotated[str, typer.Argument(metavar="TRANSFORM", help="NAME, or NAME@vN for one version.")],
    output: OutputOption = Output.table,
) -> None:
    """Show a transform: its inputs, its outputs and its code."""
    with connect() as client:
        found = client.get(f"/api/v1/features/transforms/{ref}", Transform)
    if output is not Output.table:
        show_one(found, output)
        return
    show_one({**_facts(found), "inputs": _names(found.inputs), "outputs": _names(found.outputs)}, output)
    note("")
    note(found.code)


@app.command(epilog="Example: mlbox transform apply transforms.toml")
def apply(file: File, output: OutputOption = Output.table) -> None:
    """Bring the box to what a file defines: a changed function is the next version, the rest stays."""
    wanted = _read(file)
    with connect() as client:
        made = [client.post("/api/v1/features/transforms", Transform, one) for one in wanted.transforms]
    show([{"kind": "transform", "ref": one.ref} for one in made], ("kind", "ref"), output)


@app.command("try", epilog='Example: mlbox transform try transforms.toml \'{"amount": 3.5, "limit": 10}\'')
def try_out(
    file: File,
    rows: Annotated[list[str], typer.Argument(help="JSON objects, one for each row of inputs.")],
    name: Annotated[str | None, typer.Option(help="Which of the file's transforms; by default the first.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Run a transform on a few rows, without keeping it."""
    found = [one for one in _read(file).transforms if name in (None, one.name)]
    if not found:
        raise InvalidInput(f"{file} has no transform {name!r}.", hint="Name one of the file's.", field="name")
    try:
        given = [msgspec.json.decode(row, type=dict[str, Any]) for row in rows]
    except msgspec.MsgspecError as err:
        raise InvalidInput(f"A row is no JSON object: {err}.", hint="Write '{\"amount\": 1}'.", field="rows") from err
    with connect() as client:
        body = {"transform": found[0], "rows": given}
        answer = client.post("/api/v1/features/transforms/try", list[dict[str, Any]], body)
    show(answer, tuple(column.name for column in found[0].outputs), output)


def _facts(one: Transform) -> dict[str, Any]:
    return {"ref": one.ref, "owner": one.owner, "description": one.description, "created_by": one.created_by}


def _names(columns: tuple[Any, ...]) -> str:
    return ", ".join(column.name for column in columns)


def _read(file: Path) -> Transforms:
    try:
        text = file.read_text()
        raw: Any = msgspec.json.decode(text) if file.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(raw, Transforms)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{file} holds no transforms: {said(err)}.", hint="It has a list `transforms`.", field="file"
        ) from err
