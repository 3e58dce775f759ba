"""`mlbox lineage`: where something comes from."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.records import FeatureLineage

app = typer.Typer(no_args_is_help=True, help="Where something comes from.")


@app.callback()
def nouns() -> None:
    """Where something comes from."""


@app.command(epilog="Example: mlbox lineage prediction 019e2f0c7d3b7c5a8f00d1b2c3d4e5f6")
def prediction(
    prediction_id: Annotated[str, typer.Argument(metavar="ID", help="As it was answered with.")],
    output: OutputOption = Output.table,
) -> None:
    """Show what a prediction comes from: model version, run, job, code, dataset, features, sources and labels."""
    with connect() as client:
        found = client.get(f"/api/v1/predictions/{quote(prediction_id, safe='')}/lineage", FeatureLineage)
    if output is Output.json:
        show_one(found, output)
        return
    origins: dict[str, list[str]] = {}
    for origin, user in found.edges:
        origins.setdefault(user, []).append(origin)
    rows: list[dict[str, Any]] = [
        {"kind": node.kind, "name": node.name, "from": ", ".join(origins.get(node.id, ()))} for node in found.nodes
    ]
    show(rows, ("kind", "name", "from"), output)
