"""`mlbox exp`: experiments, which group runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.errors import NotFound
from mlbox.records import Experiment

app = typer.Typer(no_args_is_help=True, help="Experiments: named groups of runs.")


@app.command("ls", epilog="Example: mlbox exp ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List experiments by name."""
    with connect() as client:
        show(client.get("/api/v1/experiments", list[Experiment]), ("name", "created_at"), output)


@app.command("show", epilog="Example: mlbox exp show delay")
def show_experiment(name: Annotated[str, typer.Argument()], output: OutputOption = Output.table) -> None:
    """Show one experiment; `mlbox run ls --experiment NAME` lists its runs."""
    with connect() as client:
        found = client.get("/api/v1/experiments", list[Experiment])
    for experiment in found:
        if experiment.name == name:
            show_one(experiment, output)
            return
    raise NotFound(f"There is no experiment {name!r}.", hint="`mlbox exp ls` lists them.", field="name")
