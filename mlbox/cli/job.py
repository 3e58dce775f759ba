"""`mlbox job`, and the verbs of every day: ps, show, logs, stop, retry, wait."""

from __future__ import annotations

import shlex
import sys
import time
from typing import Annotated, Any, get_args

import typer

from mlbox.cli import jobtable, live
from mlbox.cli.context import connect
from mlbox.cli.follow import exit_code, follow, read
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.cli.quantities import moment, seconds
from mlbox.errors import Conflict, MlboxError, NotAuthorised, NotFound, TimedOut
from mlbox.records import WAITS, Job, JobSpec, JobState, Outlook

app = typer.Typer(no_args_is_help=True, help="Jobs: list, show, follow, stop, retry, wait.")
ATTEMPTS = ("number", "started_at", "ended_at", "outcome", "exit_code", "gpus", "reason")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its name, its id, or what begins or ends its id alone.")]
MOST = 1000
_IN_ASKS = frozenset({"gpus", "gpu_memory_gb", "cpus", "memory_gb"})


@app.command("ls", epilog="Example: mlbox job ls --state running")
def ls(
    state: Annotated[
        JobState | None,
        typer.Option(metavar="STATE", help=f"Only jobs in this state: {', '.join(get_args(JobState))}."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only jobs of this user.")] = None,
    team: Annotated[str | None, typer.Option(help="Only jobs of this team.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List jobs, ended ones too, newest first."""
    with connect() as client:
        show_jobs(client.get("/api/v1/jobs", list[Job], state=state, user=user, team=team, limit=limit), output)


@app.command(epilog="Example: mlbox ps -w")
def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, until Ctrl-C: without a terminal, with what has changed.")
    ] = False,
    user: Annotated[str | None, typer.Option(help="Only jobs of this user.")] = None,
    team: Annotated[str | None, typer.Option(help="Only jobs of this team.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """List the jobs that wait or run, newest first."""
    with connect() as client:

        def look() -> list[Job]:
            query: dict[str, Any] = {"open": None if all_ else "true", "user": user, "team": team, "limit": MOST}
            return client.get("/api/v1/jobs", list[Job], **query)

        if watch:
            live.watch_jobs(look, output)
        else:
            show_jobs(look(), output)


def show_jobs(jobs: list[Job], output: Output) -> None:
    """Print jobs: lines for people, or all there is to know."""
    if output is Output.table:
        show(jobtable.rows(jobs), jobtable.COLUMNS)
    else:
        show(jobs, ("id",), output)


@app.command(epilog="Example: mlbox top")
def top(
    once: Annotated[bool, typer.Option("--once", help="Look once, as without a terminal.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show the GPUs, what runs on them and what waits, live in a terminal."""
    with connect() as client:
        live.top(client, once=once, output=output)


@app.command("show", epilog="Example: mlbox show mlp")
def show_job(job_id: JobId, output: OutputOption = Output.table) -> None:
    """Show a job: what it runs and asks for, why it waits or who waits for it, and its attempts."""
    with connect() as client:
        job = client.get(f"/api/v1/jobs/{job_id}", Job)
        if output is not Output.table:
            show_one(job, output)
            return
        outlook = client.get(f"/api/v1/jobs/{job.id}/explain", Outlook)
    show_one(_facts(job, outlook))
    if job.attempts:
        print()
        show(job.attempts, ATTEMPTS)
        if job.attempts[-1].ran_on:
            print()
            show_one(job.attempts[-1].ran_on)


def _facts(job: Job, outlook: Outlook) -> dict[str, Any]:
    """What there is to know of a job, less what is as always."""
    spec = job.spec
    usual = JobSpec(command=spec.command, name=spec.name)
    said = {field: getattr(spec, field) for field in spec.__struct_fields__ if field not in _IN_ASKS}
    said = {field: value for field, value in said.items() if value != getattr(usual, field)}
    said["seed"] = None if spec.seed is None else str(spec.seed)
    waits = {
        "waits_for": outlook.words,
        "expected_at": outlook.expected_at,
        "held_up": ", ".join(outlook.names.get(id, id[-jobtable.SHORT_ID :]) for id in outlook.held_up)
        or (outlook.held_up_in_all or None),
    }
    return {
        "id": job.id,
        "name": spec.name,
        "state": job.state,
        "reason": "" if job.reason == WAITS else job.reason,
        **waits,
        "user": job.user,
        "command": shlex.join(spec.command),
        "asks": jobtable.asks(spec),
        **said,
        "run_id": job.run_id,
        "created_at": job.created_at,
        "ended_at": job.ended_at,
        "exit_code": job.exit_code,
    }


@app.command(epilog="Example: mlbox logs -f --tail 100 mlp")
def logs(
    job_id: JobId,
    follow_log: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end with its exit code.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last so many lines.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what was printed since, such as 10m ago or 2026-01-31T08:00Z.")
    ] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Which attempt; the last when not given.")] = None,
) -> None:
    """Print what a job printed."""
    start = {"tail": tail, "since": moment(since, field="since").isoformat() if since else None}
    where: dict[str, Any] = {name: value for name, value in start.items() if value is not None} or {"offset": 0}
    if follow_log:
        raise typer.Exit(follow(job_id, attempt=attempt, **where))
    with connect() as client:
        content = b"-"
        while content:
            offset, content = read(client, job_id, attempt, where)
            where = {"offset": offset}
            sys.stdout.buffer.write(content)
            sys.stdout.flush()


@app.command(epilog="Example: mlbox stop mlp")
def stop(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB", help="As `mlbox ps` shows them, or by name.")],
    output: OutputOption = Output.table,
) -> None:
    """Take jobs off the queue, or end them."""
    _each(job_ids, "stop", output)


@app.command(epilog="Example: mlbox retry mlp")
def retry(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB", help="As `mlbox ps -a` shows them, or by name.")],
    output: OutputOption = Output.table,
) -> None:
    """Queue ended jobs again, each as another attempt of the same job."""
    _each(job_ids, "retry", output)


def _each(job_ids: list[str], verb: str, output: Output) -> None:
    """Ask it of each job, also where it cannot be of one before; ends with the exit code of the first that it cannot be of."""
    jobs: list[Job] = []
    refused: list[MlboxError] = []
    with connect() as client:
        for job_id in job_ids:
            try:
                jobs.append(client.post(f"/api/v1/jobs/{job_id}/{verb}", Job))
            except (Conflict, NotFound, NotAuthorised) as err:
                if len(job_ids) == 1:
                    raise
                note(f"mlbox: {job_id}: {err}")
                refused.append(err)
    if output is not Output.table:
        show(jobs, ("id",), output)
    else:
        for job in jobs:
            note(f"The job {jobtable.called(job)} is {job.state}.")
    if refused:
        raise typer.Exit(refused[0].exit_code)


@app.command(epilog="Example: mlbox wait mlp && mlbox model ls")
def wait(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB", help="As `mlbox ps` shows them, or by name.")],
    timeout: Annotated[str | None, typer.Option(help="Longest wait, such as 2h; none when not given.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Wait until jobs have ended, and end with the exit code of the first that failed."""
    from mlbox.sdk.runs import patiently

    end = time.monotonic() + seconds(timeout, field="timeout") if timeout else None
    done: list[Job] = []
    with connect() as client:
        ids = [client.get(f"/api/v1/jobs/{job_id}", Job).id for job_id in job_ids]  # a name may come to mean another
        for job_id in ids:
            while (job := patiently(lambda: client.get(f"/api/v1/jobs/{job_id}", Job))).ended_at is None:  # noqa: B023
                if end is not None and time.monotonic() > end:
                    raise TimedOut(f"The job {jobtable.called(job)} is {job.state}.", hint="Wait longer.")
                time.sleep(live.POLL_SECONDS)
            done.append(job)
    show_jobs(done, output)
    raise typer.Exit(next((code for job in done if (code := exit_code(job))), 0))
