"""`mlbox run`: what training recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.exp import named
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.records import Run

app = typer.Typer(no_args_is_help=True, help="Runs: what training recorded.")


@app.command("ls", epilog="Example: mlbox run ls --experiment delay")
def ls(
    experiment: Annotated[str | None, typer.Option(help="Only runs of this experiment.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List runs, newest first."""
    with connect() as client:
        found = client.get("/api/v1/runs", list[Run], experiment=experiment, limit=limit)
        if experiment is not None and not found:
            named(client, experiment)  # raises NotFound where a name is mistyped
        show(found, ("id", "name", "status", "user", "dataset", "started_at", "params"), output)


@app.command(epilog="Example: mlbox run sync")
def sync() -> None:
    """Send what runs logged while their box was away, in order; what was sent before counts once."""
    from mlbox.errors import Conflict
    from mlbox.sdk.delivery import Delivery
    from mlbox.sdk.spool import Spool, left_over

    folders = left_over()
    with connect() as client:
        for folder in folders:
            try:
                spool = Spool(folder)
            except Conflict:
                note(f"{folder.name} is being sent by its own process.")
                continue
            delivery = Delivery(client, folder.name, spool)
            refused = []
            while not spool.empty:
                refused += delivery.step()
            spool.close()
            for error in refused:
                note(f"{folder.name}: not taken: {error}")
            note(f"{folder.name}: sent{f', {len(refused)} refused and kept in {folder}' if refused else ''}.")
    if not folders:
        note("Nothing waits to be sent.")


@app.command("show", epilog="Example: mlbox run show 0198c0ffee...")
def show_run(run_id: Annotated[str, typer.Argument(metavar="RUN")], output: OutputOption = Output.table) -> None:
    """Show a run with its parameters and the last value of each metric."""
    with connect() as client:
        show_one(client.get(f"/api/v1/runs/{run_id}", Run), output)


@app.command("points", epilog="Example: mlbox run points 0198c0ffee... points.parquet")
def points(
    run_id: Annotated[str, typer.Argument(metavar="RUN")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write them.")],
    key: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
) -> None:
    """Write every point of a run's metrics to a Parquet file: key, step, at, value."""
    with connect() as client:
        size = client.download(f"/api/v1/runs/{run_id}/points", target, key=key)
    note(f"{target}: {size:,} bytes.")


@app.command("rm", epilog="Example: mlbox run rm 0198c0ffee...")
def remove(run_id: Annotated[str, typer.Argument(metavar="RUN")]) -> None:
    """Delete a run; `mlbox restore` takes it back while the server keeps it."""
    with connect() as client:
        client.delete(f"/api/v1/runs/{run_id}")
    note(f"Deleted. `mlbox restore run:{run_id}` takes it back.")
