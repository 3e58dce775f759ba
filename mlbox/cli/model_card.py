"""`mlbox model card` and `governance`: what is said of a version, and who answers for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, read_pairs, show_one
from mlbox.cli.refs import Ref, split
from mlbox.errors import InvalidInput, said
from mlbox.records import Card, Governance


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox model`."""
    app.command(epilog="Example: mlbox model card churn/3 > README.md")(card)
    app.command(epilog="Example: mlbox model governance churn/3")(governance)


def card(
    ref: Ref,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PART=TEXT", help="Write a part anew; @FILE reads its text from a file."),
    ] = None,
) -> None:
    """Print a version's model card in Markdown with Hugging Face's YAML; with --set, write parts of it instead.

    Parts: license, intended_use, out_of_scope, limitations, ethics, contact. They are the model's; each change is audited.
    """
    model, version = split(ref)
    parts = {name: _text(name, given) for name, given in read_pairs(changes or (), name="set").items()}
    with connect() as client:
        if parts:
            client.post(f"/api/v1/models/{model}/card", Card, parts)
            note(f"Written: {', '.join(parts)}. `mlbox model card {ref}` shows the whole card.")
            return
        typer.echo(client.request("GET", f"/api/v1/models/{model}/versions/{version}/card").decode(), nl=False)


def governance(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show who trained a version, from what code and data, who approved it, what for, and when it served what share."""
    model, version = split(ref)
    with connect() as client:
        show_one(client.get(f"/api/v1/models/{model}/versions/{version}/governance", Governance), output)


def _text(name: str, given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(f"{given[1:]} cannot be read: {said(err)}.", hint="Name a text file.", field=name) from err
