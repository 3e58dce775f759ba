"""`mlbox dataset export --dvc` and `import-dvc`: versions as DVC's pointer files, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, counted, note, show_one
from mlbox.errors import AlreadyExists, InvalidInput
from mlbox.records import DatasetVersion
from mlbox.transfer.dvc_pointer import MAX_POINTER, Pointer, read_pointer, write_pointer


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox dataset`."""
    app.command(epilog="Example: mlbox dataset export flights@v3 --dvc")(export)
    app.command("import-dvc", epilog="Example: mlbox dataset import-dvc flights.dvc --name flights")(import_dvc)


def export(
    ref: Annotated[str, typer.Argument(metavar="NAME[@vN]", help="A version, or the latest of a name.")],
    dvc: Annotated[bool, typer.Option("--dvc", help="As a pointer file of DVC, to be kept in git.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="The pointer file, ending in .dvc; by default NAME.dvc in this folder.")
    ] = None,
) -> None:
    """Write a pointer file to a version: `dvc pull` brings its files from the box.

    One that points to the same files, or to another version of the same dataset, is replaced.
    """
    if not dvc:
        raise InvalidInput("The format is not named.", hint="Give --dvc.", field="dvc")
    if to is not None and to.suffix != ".dvc":
        raise InvalidInput(f"{to.name} is not the name of a pointer file.", hint="End it in .dvc.", field="to")
    with connect(timeout_seconds=600) as client:
        pointer = client.get(f"/api/v1/datasets/{ref}/dvc", Pointer)
    target = to or Path(f"{pointer.path}.dvc")
    _check_free(target, pointer)
    _write(target, write_pointer(msgspec.structs.replace(pointer, path=target.stem)))
    note(f"{target}: {pointer.dataset}, {counted(pointer.nfiles or 0, 'file')}, {pointer.size:,} bytes")
    note(f"Commit it, and `dvc pull {target}` from a remote with the address {client.url}/dvc.")


def import_dvc(
    pointer: Annotated[Path, typer.Argument(metavar="POINTER.dvc", help="As `dvc add` wrote it.")],
    name: Annotated[str, typer.Option(help="The dataset that it becomes a version of.")],
    output: OutputOption = Output.table,
) -> None:
    """Keep what a DVC pointer names as a version; its files are on the box already: `dvc push` brought them."""
    found = read_pointer(_text(pointer), name=pointer.name)
    with connect(timeout_seconds=600) as client:
        made = client.post(f"/api/v1/datasets/{name}/dvc", DatasetVersion, found)
    if output is not Output.table:
        show_one(made, output)
        return
    note(f"{made.ref}: {counted(len(made.files), 'file')}, {counted(made.rows, 'row')}, {made.hash[:12]}")
    if why := made.parameters.get("plain_files"):
        note(f"It is a version of plain files, without columns: {why}")


def _check_free(target: Path, pointer: Pointer) -> None:
    """Raise AlreadyExists for a file that points to something else, or is no pointer."""
    if not target.exists():
        return
    name = pointer.dataset.partition("@")[0]
    try:
        before = read_pointer(_text(target), name=target.name)
    except InvalidInput:
        before = Pointer()
    if before.md5 != pointer.md5 and before.dataset.partition("@")[0] != name:
        raise AlreadyExists(
            f"{target} exists, and points to no version of {name}.",
            hint="Remove it, or give another name: --to.",
            field="to",
        )


def _text(file: Path) -> str:
    try:
        with file.open("rb") as content:
            raw = content.read(MAX_POINTER + 1)
        if len(raw) <= MAX_POINTER:
            return raw.decode()
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(f"{file} cannot be read.", hint="Give a .dvc file.", field="pointer") from err
    raise InvalidInput(f"{file} is too large for a pointer file.", hint="Give a .dvc file.", field="pointer")


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as err:
        raise InvalidInput(f"{target} cannot be written: {err.strerror}.", hint="Give another.", field="to") from err
