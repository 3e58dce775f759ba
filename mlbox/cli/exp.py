"""`mlbox exp`: experiments, which group runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.client import Client
from mlbox.errors import NotFound, suggest
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
        show_one(named(client, name), output)


@app.command("rm", epilog="Example: mlbox exp rm delay")
def remove(name: Annotated[str, typer.Argument()]) -> None:
    """Delete an experiment with its runs; `mlbox restore` takes it back while the server keeps it."""
    with connect() as client:
        found = named(client, name)
        client.delete(f"/api/v1/experiments/{found.id}")
    note(f"Deleted. `mlbox restore experiment:{found.id}` takes it back.")


def named(client: Client, name: str) -> Experiment:
    found = {experiment.name: experiment for experiment in client.get("/api/v1/experiments", list[Experiment])}
    if name not in found:
        hint = suggest(name, found, otherwise="`mlbox exp ls` lists them.")
        raise NotFound(f"There is no experiment {name!r}.", hint=hint, field="name")
    return found[name]
