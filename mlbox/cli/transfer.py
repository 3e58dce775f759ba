"""`mlbox export` and `mlbox import`: experiments, runs and models, between boxes and from MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlbox import context
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show
from mlbox.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from mlbox.transfer.importer import Result
    from mlbox.transfer.items import Source

app = typer.Typer(no_args_is_help=True, help="Bring experiments, runs and models from MLflow or another box.")

Experiments = Annotated[list[str] | None, typer.Option("--experiment", help="Only this one; may be given again.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only this model; may be given again.")]
Into = Annotated[str, typer.Option(help="The team that is to own it: names begin with TEAM.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what is there.")]


@app.command("export", hidden=True, epilog="Example: mlbox export backup/ --experiment delay")
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    experiment: Experiments = None,
    model: Models = None,
) -> None:
    """Write experiments, runs and models to a folder.

    All their points and files are in it, and `mlbox import folder` reads it.
    """
    from mlbox.transfer.folder import Writer
    from mlbox.transfer.rest import Rest

    url, token = context.resolve()
    source = Rest(url, token=token)
    try:
        writer = Writer(folder)
        writer.write(source, experiments=_names(experiment), models=_names(model))
    except OSError as err:
        raise InvalidInput(f"{folder} cannot be written: {err.strerror}.", hint="Give another folder.") from err
    finally:
        source.close()
    note(f"{folder}: " + ", ".join(f"{count:,} {kind}" for kind, count in writer.counts.items()) + ".")
    if writer.problems:
        for problem in writer.problems:
            note(problem)
        raise Conflict(f"{len(writer.problems)} things could not be exported whole.", hint="They are named above.")


@app.command("mlflow", epilog="Example: mlbox import mlflow http://mlflow:5000")
def mlflow(
    url: Annotated[str, typer.Argument(help="An MLflow server, or another box.")],
    experiment: Experiments = None,
    model: Models = None,
    into: Into = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.table,
) -> None:
    """Bring everything from an MLflow server, by its REST API. Run it again to go on after a break, or for what is new.

    It signs in there as MLflow's own client does: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and _PASSWORD.
    """
    from mlbox.transfer.rest import Rest

    source = Rest(url)
    try:
        _import(source, experiment, model, into, dry_run, output)
    finally:
        source.close()


@app.command("folder", epilog="Example: mlbox import folder backup/")
def folder(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `mlbox export` wrote.")],
    experiment: Experiments = None,
    model: Models = None,
    into: Into = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.table,
) -> None:
    """Bring what another box exported. Run it again to go on after a break."""
    from mlbox.transfer.folder import Folder

    _import(Folder(path), experiment, model, into, dry_run, output)


def _import(
    source: Source,
    experiment: list[str] | None,
    model: list[str] | None,
    into: str,
    dry_run: bool,
    output: Output,
) -> None:
    from mlbox.transfer.importer import Importer, Wanted

    _, token = context.resolve()
    wanted = Wanted(_names(experiment), _names(model), into)
    with connect(timeout_seconds=600) as client:
        result = Importer(client, token, source, wanted, dry_run=dry_run, tell=note).run()
    _report(result, output)


def _report(result: Result, output: Output) -> None:
    show(result.lines, ("kind", "found", "imported", "whole_before", "problems"), output)
    for line in result.notes:
        note(line)
    for line in result.problems:
        note(f"not whole: {line}")
    if not result.ok:
        raise Conflict(
            f"{len(result.problems)} things are not here as they are there.",
            hint="Mend what is said, and run it again.",
        )


def _names(given: list[str] | None) -> frozenset[str] | None:
    return frozenset(given) if given else None
