"""`mlbox cron`: jobs that come again."""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import typer

from mlbox.cli.context import connect
from mlbox.cli.jobtable import span
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.cli.quantities import seconds
from mlbox.errors import InvalidInput
from mlbox.records import Cron, CronSpec, Firing

app = typer.Typer(no_args_is_help=True, help="Crons: jobs that come again, by time or when something happens.")
COLUMNS = (
    "spec.name",
    "spec.schedule",
    "spec.timezone",
    "spec.on",
    "paused",
    "next_at",
    "last_at",
    "last_outcome",
    "last_job",
    "owner",
)
FIRINGS = ("at", "cause", "outcome", "job_id", "reason")
Name = Annotated[str, typer.Argument(metavar="CRON", help="Its name, or its id.")]


@app.command(
    no_args_is_help=True, epilog='Example: mlbox cron add "0 3 * * *" job.toml --name nightly --timezone Europe/Berlin'
)
def add(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SCHEDULE] JOB.TOML", help="Minute, hour, day, month, weekday, in quotes; and a job file."
        ),
    ],
    name: Annotated[str, typer.Option(help="What to call it; the job's name when not given.")] = "",
    timezone: Annotated[str, typer.Option(help="Time zone of the schedule.")] = "UTC",
    on: Annotated[
        str, typer.Option(metavar="KIND:NAME", help="dataset:NAME for each new version, alert:MODEL when one fires.")
    ] = "",
    misfire: Annotated[
        Literal["once", "skip"], typer.Option(help="For times that the box was down: one job for all, or none.")
    ] = "once",
    misfire_within: Annotated[str, typer.Option(help="What is later than this is not made up for.")] = "1d",
    overlap: Annotated[
        Literal["skip", "queue", "replace"],
        typer.Option(
            help="While its last job has not ended: leave it out, submit another, or stop the last one first."
        ),
    ] = "skip",
    output: OutputOption = Output.table,
) -> None:
    """Submit a job again and again, with the code and the options of now."""
    from mlbox import context
    from mlbox.sdk import Box
    from mlbox.sdk.options import read_job_file

    schedule, path = ("", words[0]) if len(words) == 1 else words[:2]
    if len(words) > 2 or not path.endswith(".toml"):
        raise InvalidInput(
            "A schedule in quotes and a job file are wanted.",
            hint='Write it like: mlbox cron add "0 3 * * *" job.toml',
            field="job",
        )
    file = read_job_file(Path(path))
    with Box(*context.resolve()) as box:
        cron = box.cron(
            name or str(file.options.get("name", "")),
            file.command,
            schedule=schedule,
            timezone=timezone,
            on=on,
            misfire=misfire,
            misfire_seconds=round(seconds(misfire_within, field="misfire_within")),
            overlap=overlap,
            **file.options,
        )
    when = ("spec.on",) if cron.spec.on else ("spec.schedule", "spec.timezone", "next_at")
    show_one(cron, output, columns=("id", "spec.name", *when))


@app.command("ls", epilog="Example: mlbox cron ls")
def ls(output: OutputOption = Output.table) -> None:
    """List the crons of your teams."""
    with connect() as client:
        show(client.get("/api/v1/crons", list[Cron], limit=1000), COLUMNS, output)


@app.command("show", epilog="Example: mlbox cron show nightly")
def show_cron(
    name: Name,
    limit: Annotated[int, typer.Option(help="So many of its last times.")] = 10,
    output: OutputOption = Output.table,
) -> None:
    """Show a cron, its last times, and what came of each."""
    with connect() as client:
        cron = client.get(f"/api/v1/crons/{name}", Cron)
        firings = client.get(f"/api/v1/crons/{name}/firings", list[Firing], limit=limit)
    if output is not Output.table:
        show_one(cron, output)
        return
    show_one(_facts(cron))
    if firings:
        print()
        show(firings, FIRINGS)


def _facts(cron: Cron) -> dict[str, Any]:
    """A cron, what it submits, and its rules."""
    spec = cron.spec
    by_clock = {"schedule": spec.schedule, "timezone": spec.timezone, "misfire": _misfire(spec)} if not spec.on else {}
    return {
        "id": cron.id,
        "name": spec.name,
        "on": spec.on and spec.on.ref,
        **by_clock,
        "overlap": spec.overlap,
        "command": shlex.join(spec.job.command),
        "team": spec.job.team,
        "owner": cron.owner,
        "paused": cron.paused,
        "next_at": cron.next_at,
        "last_at": cron.last_at,
        "last_outcome": cron.last_outcome,
        "last_job": cron.last_job,
    }


def _misfire(spec: CronSpec) -> str:
    return (
        spec.misfire
        if spec.misfire == "skip"
        else f"{spec.misfire}, within {span(timedelta(seconds=spec.misfire_seconds))}"
    )


@app.command("preview", epilog='Example: mlbox cron preview "30 2 * * MON-FRI" --timezone Europe/Berlin')
def preview(
    schedule: Annotated[str, typer.Argument(help="Minute, hour, day, month, weekday.")],
    timezone: Annotated[str, typer.Option(help="Its time zone.")] = "UTC",
    count: Annotated[int, typer.Option(help="So many times.")] = 5,
    output: OutputOption = Output.table,
) -> None:
    """Say what a schedule means, and when its next times are."""
    with connect() as client:
        found = client.get("/api/v1/crons/preview", dict[str, Any], schedule=schedule, timezone=timezone, count=count)
    note(found["words"])
    show([_time(datetime.fromisoformat(at), timezone) for at in found["times"]], ("at", "local"), output)


@app.command(epilog="Example: mlbox cron pause nightly")
def pause(name: Name) -> None:
    """Let a cron rest."""
    _change(name, "pause")


@app.command(epilog="Example: mlbox cron resume nightly")
def resume(name: Name) -> None:
    """Let a cron go on."""
    _change(name, "resume")


@app.command(epilog="Example: mlbox cron fire nightly")
def fire(name: Name, output: OutputOption = Output.table) -> None:
    """Ask for a cron's job now."""
    with connect() as client:
        show_one(client.post(f"/api/v1/crons/{name}/fire", Firing), output)


@app.command("rm", epilog="Example: mlbox cron rm nightly")
def remove(name: Name) -> None:
    """Forget a cron; its jobs stay."""
    with connect() as client:
        client.send("DELETE", f"/api/v1/crons/{name}")
    note(f"The cron {name} is gone.")


def _time(at: datetime, timezone: str) -> dict[str, str]:
    """A moment, as programs and as people of a time zone read it."""
    return {
        "at": at.isoformat().replace("+00:00", "Z"),
        "local": f"{at.astimezone(ZoneInfo(timezone)):%a %Y-%m-%d %H:%M %Z}",
    }


def _change(name: str, verb: str) -> None:
    with connect() as client:
        cron = client.post(f"/api/v1/crons/{name}/{verb}", Cron)
    when = f"next {cron.next_at:%Y-%m-%d %H:%M} UTC" if cron.next_at else "asked for by what happens"
    note(f"The cron {cron.spec.name} {'rests' if cron.paused else f'goes on, {when}'}.")
