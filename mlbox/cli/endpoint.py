"""`mlbox endpoint`: what serves, and predictions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, read_pairs, show
from mlbox.records import Endpoint, Prediction

app = typer.Typer(no_args_is_help=True, help="What serves, and predictions.")
COLUMNS = (
    "model",
    "champion",
    "candidate",
    "state",
    "percent",
    "standing",
    "champion_predictions",
    "candidate_predictions",
)


@app.command("ls", epilog="Example: mlbox endpoint ls")
def ls(output: OutputOption = Output.table) -> None:
    """List what serves and how the candidates stand."""
    with connect() as client:
        show(client.get("/api/v1/endpoints", list[Endpoint]), COLUMNS, output)


@app.command(
    epilog="Example: mlbox endpoint predict flight-delay -e carrier=UA -e origin=EWR -e dest=IAH -e tailnum=N14228"
)
def predict(
    model: Annotated[str, typer.Argument()],
    entity: Annotated[list[str], typer.Option("--entity", "-e", help="KEY=VALUE of the entity; may be given again.")],
    output: OutputOption = Output.table,
) -> None:
    """Ask for one prediction by the entity's ids."""
    ids = {key: int(value) if value.isdigit() else value for key, value in read_pairs(entity, name="entity").items()}
    with connect() as client:
        found = client.post(f"/api/v1/models/{model}/predict", list[dict[str, Any]], {"entities": [ids]})
        show(found, ("score", "version", "role", "id"), output)


@app.command("log", epilog="Example: mlbox endpoint log flight-delay -o jsonl")
def log(
    model: Annotated[str, typer.Argument()],
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List a model's last predictions, newest first."""
    with connect() as client:
        found = client.get("/api/v1/predictions", list[Prediction], model=model, limit=limit)
        show(found, ("domain_at", "version", "role", "score", "entity", "latency_ms"), output)
