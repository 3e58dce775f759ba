"""`mlbox search`: anything that has a name."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show
from mlbox.records import SearchResult

app = typer.Typer(help="Anything that has a name.")


@app.command("search", epilog="Example: mlbox search delay")
def search(
    words: Annotated[list[str], typer.Argument(help="All of them are in the name, id or description.")],
    limit: Annotated[int, typer.Option(help="At most so many of each kind.")] = 10,
    output: OutputOption = Output.table,
) -> None:
    """Find anything that has a name, by words."""
    with connect() as client:
        found = client.get("/api/v1/search", SearchResult, q=" ".join(words), limit=limit)
    for store in found.down:
        note(f"The {store} store is down: what it holds was not searched.")
    show(found.hits, ("kind", "name", "ref", "about", "at"), output)
