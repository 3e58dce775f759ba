"""`mlbox model score`: a dataset, or what a query selects, scored by a version in a job."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show_one
from mlbox.errors import InvalidInput
from mlbox.records import DatasetVersion, Job, ModelVersion

EXAMPLE = "Example: mlbox model score fraud@3 --dataset transactions@v12"


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(epilog=EXAMPLE)(score)


def score(
    ref: Annotated[str, typer.Argument(metavar="MODEL@VERSION", help="For example fraud@3.")],
    dataset: Annotated[str, typer.Option(metavar="REF", help="The dataset version to score.")] = "",
    query: Annotated[
        str,
        typer.Option(
            metavar="SQL", help="Or a SELECT of join keys and event_time: its features are put together first."
        ),
    ] = "",
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name of the result; default: MODEL-scores.")] = "",
    team: Annotated[str, typer.Option(metavar="TEAM", help="Whose job it is; default: the model's team.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Score a dataset in a job; the scores become a dataset version.

    The version may be in any stage: nothing is served by it.
    """
    model, _, number = ref.replace("@", "/").rpartition("/")
    version = number.removeprefix("v")
    if not model or not version.isdigit():
        raise InvalidInput(f"{ref!r} is not MODEL@VERSION.", hint="For example fraud@3.", field="ref")
    if bool(dataset) == bool(query):
        raise InvalidInput("What is to be scored?", hint="Give either --dataset or --query.", field="dataset")
    path = f"/api/v1/models/{model}/versions/{version}"
    with connect() as client:
        if query:
            found = client.get(path, ModelVersion)
            spec = {"name": f"{name or f'{model}-scores'}-input", "spine": query, "features": found.features}
            dataset = client.post("/api/v1/datasets", DatasetVersion, spec).ref
        body = {"dataset": dataset, "name": name, "team": team}
        show_one(client.post(f"{path}/score", Job, body), output)
