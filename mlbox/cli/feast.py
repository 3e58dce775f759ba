"""`mlbox feature import-feast`: a Feast repository's definitions as a file for `mlbox feature plan` and `apply`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlbox.cli.output import counted, note
from mlbox.errors import AlreadyExists, InvalidInput

if TYPE_CHECKING:
    from mlbox.transfer.feast import Imported


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox feature`."""
    app.command("import-feast", epilog="Example: mlbox feature import-feast feature_repo --to features.toml")(
        import_feast
    )


def import_feast(
    repo: Annotated[Path, typer.Argument(metavar="REPO", help="The folder of feature_store.yaml, or a registry file.")],
    to: Annotated[Path | None, typer.Option(help="A new .toml file; by default it is printed.")] = None,
    project: Annotated[
        str | None, typer.Option(help="Which project; by default the one that feature_store.yaml names.")
    ] = None,
) -> None:
    """Write what a Feast repository defines as a definition file, and say what cannot be carried over.

    Feast need not be installed, nothing of the repository is run, and nothing is sent: review the file, then
    `mlbox feature plan` and `apply` it, append the data, and materialize.
    """
    from mlbox.transfer.feast import convert
    from mlbox.transfer.feast_repo import open_repository

    if to is not None and to.suffix != ".toml":
        raise InvalidInput(f"{to.name} is not the name of a TOML file.", hint="End it in .toml.", field="to")
    found = convert(open_repository(repo, project=project))
    text = _text(found)
    if to is None:
        sys.stdout.write(text)
    else:
        _write(to, text)
    _tell(found, to)


def _text(found: Imported) -> str:
    from mlbox.transfer.definition_file import as_comment, to_toml

    head = as_comment("From a Feast repository. Review it, then `mlbox feature plan` and `mlbox feature apply` it.")
    drafts = [as_comment(draft.text) for draft in found.drafts]
    return "\n".join(part for part in (head, to_toml(found.definitions), *drafts) if part)


def _write(to: Path, text: str) -> None:
    """A new file; one that is there may have been changed by hand, and stays."""
    try:
        with to.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError as err:
        raise AlreadyExists(f"{to} exists.", hint="Remove it, or give another name.", field="to") from err
    except OSError as err:
        raise InvalidInput(f"{to} cannot be written: {err.strerror}.", hint="Give another file.", field="to") from err


def _tell(found: Imported, to: Path | None) -> None:
    defined = found.definitions
    counts = (
        counted(len(defined.sources), "source"),
        counted(len(defined.entities), "entity", "entities"),
        counted(len(defined.views), "view"),
        counted(len(defined.services), "service"),
    )
    note(f"{', '.join(counts)}{f' in {to}' if to else ''}.")
    for line in found.left:
        note(f"not carried over: {_one_line(line)}")
    for line in found.notes:
        note(f"note: {_one_line(line)}")
    for line in found.loads:
        note(f"to load: {_one_line(line)}")
    if found.loads:
        note("A file is taken whole or not at all: with exactly its source's columns, in their types.")


def _one_line(text: str) -> str:
    """Names come from a file of somebody's: one line, and nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
