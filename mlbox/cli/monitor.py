"""`mlbox monitor`: drift of what is served."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show
from mlbox.records import DriftResult, DriftSummary, SkewResult

app = typer.Typer(no_args_is_help=True, help="Drift of what is served.")
COLUMNS = (
    *("feature", "statistic", "verdict", "reference_rows", "current_rows"),
    *("current_missing", "missing_risen", "p_value"),
)
SUMMARY_COLUMNS = (
    *("model", "version", "checked_at", "features", "drifting"),
    *("missing_risen", "worst_feature", "worst_statistic"),
)
Model = Annotated[str, typer.Argument(help="The model's name.")]


@app.command("ls", epilog="Example: mlbox monitor ls")
def ls(limit: Annotated[int, typer.Option(help="At most so many.")] = 100, output: OutputOption = Output.table) -> None:
    """List the models in Production with their last check."""
    with connect() as client:
        show(client.get("/api/v1/monitoring", list[DriftSummary], limit=limit), SUMMARY_COLUMNS, output)


@app.command(epilog="Example: mlbox monitor check flight-delay")
def check(model: Model, output: OutputOption = Output.table) -> None:
    """Compare what is served with what the model in Production learned from."""
    with connect() as client:
        _show(client.post(f"/api/v1/monitoring/{model}/check", list[DriftResult]), output)


@app.command("show", epilog="Example: mlbox monitor show flight-delay")
def show_latest(model: Model, output: OutputOption = Output.table) -> None:
    """Show the last check."""
    with connect() as client:
        _show(client.get(f"/api/v1/monitoring/{model}", list[DriftResult]), output)


@app.command(epilog="Example: mlbox monitor skew flight-delay --check")
def skew(
    model: Model,
    check: Annotated[bool, typer.Option("--check", help="Measure now, instead of showing the last time.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show which share of what was served is what the history says of the same moments."""
    path = f"/api/v1/monitoring/{model}/skew"
    with connect() as client:
        found = client.post(path, list[SkewResult]) if check else client.get(path, list[SkewResult])
    show(found, ("feature", "share", "verdict", "equal", "rows", "served", "recomputed", "entity"), output)


def _show(found: list[DriftResult], output: Output) -> None:
    worst_first = sorted(found, key=lambda result: -(result.statistic or 0))
    show(worst_first, COLUMNS, output)
