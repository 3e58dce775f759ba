"""`mlbox queue`: what waits, and how the lines share the box."""

from __future__ import annotations

from itertools import islice
from typing import Annotated
from urllib.parse import quote

import typer

from mlbox.cli.context import connect
from mlbox.cli.jobtable import SHORT_ID
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.errors import NotFound
from mlbox.records import JobQueue, QueueEntry

app = typer.Typer(invoke_without_command=True, help="Queues: what waits, and how the lines share the box.")
COLUMNS = ("name", "weight", "max_gpus", "max_running", "slice_minutes", "waiting", "running")
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="As `mlbox queue ls` shows it.")]
NONE = "none"
PAGE = 1000
"""Asked for at a time."""


@app.callback(epilog="Example: mlbox queue")
def queue(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    output: OutputOption = Output.table,
) -> None:
    """Queues: what waits, and how the lines share the box.

    Alone, it shows what waits or runs, oldest first; of another team's job team, GPUs and expected end.
    """
    if ctx.invoked_subcommand is not None:
        return
    with connect() as client:
        found = list(
            islice(client.pages("/api/v1/queue", QueueEntry, key="place", limit=min(limit + 1, PAGE)), limit + 1)
        )
    entries = found[:limit]
    if len(found) > limit:
        note(f"More wait or run: --limit shows more than {limit:,}, `mlbox queue ls` how many.")
    if output is Output.id:  # another team's jobs have none to tell
        entries = [entry for entry in entries if entry.id]
    if output is not Output.table:
        show(entries, ("id",), output)
        return
    columns = ("name", "user", "team", "state", "gpus", "expected_end", "reason")
    show(
        [
            {"job": (entry.id or "")[-SHORT_ID:], **{name: getattr(entry, name) for name in columns}}
            for entry in entries
        ],
        ("job", *columns),
    )


@app.command("ls", epilog="Example: mlbox queue ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List the queues, with how many jobs wait and run in each."""
    with connect() as client:
        show(client.get("/api/v1/queues", list[JobQueue]), COLUMNS, output)


@app.command("show", epilog="Example: mlbox queue show experiments")
def show_queue(name: QueueName, output: OutputOption = Output.table) -> None:
    """Show one queue."""
    with connect() as client:
        show_one(client.get(f"/api/v1/queues/{quote(name, safe='')}", JobQueue), output)


@app.command("set", epilog="Example: mlbox queue set production-retraining --weight 3 --max-gpus 4")
def set_queue(
    name: QueueName,
    weight: Annotated[
        float | None, typer.Option(help="3 gets three times the GPU time of 1, while both are full.")
    ] = None,
    max_gpus: Annotated[str | None, typer.Option(help="Most GPUs that its jobs hold together, or none.")] = None,
    max_running: Annotated[str | None, typer.Option(help="Most jobs of it that run at a time, or none.")] = None,
    slice_minutes: Annotated[
        str | None, typer.Option(help="Minutes of a turn, for jobs that checkpoint; none lets each run to its end.")
    ] = None,
) -> None:
    """Make a queue or change one, as an admin of the box; what is not given stays."""
    path = f"/api/v1/queues/{quote(name, safe='')}"
    given = {"weight": weight, "max_gpus": max_gpus, "max_running": max_running, "slice_minutes": slice_minutes}
    with connect() as client:
        try:
            former = client.get(path, JobQueue)
        except NotFound:
            former = JobQueue(name=name)
        body = {field: _limit(text) if text is not None else getattr(former, field) for field, text in given.items()}
        client.put(path, JobQueue, body)
    note(f"The queue {name} is set. `mlbox submit --queue {name}` puts a job into it.")


@app.command(epilog="Example: mlbox queue rm nightly")
def rm(name: QueueName) -> None:
    """Take a queue away in which no job waits or runs."""
    with connect() as client:
        client.delete(f"/api/v1/queues/{quote(name, safe='')}")
    note(f"The queue {name} is gone.")


def _limit(text: str | float) -> int | float | None:
    if text == NONE:
        return None
    try:
        number = float(text)
    except ValueError as err:
        raise typer.BadParameter(f"{text!r} is neither a number nor {NONE}.") from err
    return int(number) if number.is_integer() else number
