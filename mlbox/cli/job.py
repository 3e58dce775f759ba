"""`mlbox job`, and the verbs of every day: submit, ps, logs, stop."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, read_pairs, show, show_one
from mlbox.errors import MlboxError, TimedOut
from mlbox.records import Job, JobState, Priority, QueueEntry

app = typer.Typer(no_args_is_help=True, help="Jobs: submit, follow, stop, retry.")
COLUMNS = ("id", "spec.name", "state", "user", "spec.priority", "created_at", "reason")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `mlbox ps` shows it.")]


@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: mlbox submit --name mlp --dataset flights@v1 -- python train.py 5",
)
def submit(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    workdir: Annotated[Path, typer.Option(help="Folder with the code to send.")] = Path("."),
    gpus: Annotated[float, typer.Option(help="GPUs; 0.5 is half of one.")] = 0,
    cpus: Annotated[float, typer.Option(help="CPUs.")] = 1,
    memory_gb: Annotated[float, typer.Option(help="Memory in GiB.")] = 4,
    priority: Annotated[Priority, typer.Option(help="Which jobs go first.")] = "normal",
    retries: Annotated[
        int | None, typer.Option(help="Tries after a failure; the box's default when not given.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which it is ended.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Dataset version that it reads; may be given again.")
    ] = None,
    experiment: Annotated[str, typer.Option(help="Experiment that its run belongs to.")] = "",
    team: Annotated[str, typer.Option(help="Whose job it is; its members see it.", envvar="MLBOX_TEAM")] = "everyone",
    param: Annotated[list[str] | None, typer.Option(help="KEY=VALUE to record; may be given again.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for its environment; may be given again.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VARIABLE]", help="Secret for its environment; may be given again."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow its log and end as it ends.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Send the code in a folder to the box and run a command in it."""
    from mlbox import context
    from mlbox.sdk import Box

    with Box(*context.resolve()) as box:
        job = box.submit(
            command,
            name=name,
            workdir=workdir,
            gpus=gpus,
            cpus=cpus,
            memory_gb=memory_gb,
            priority=priority,
            retries=retries,
            timeout_seconds=timeout,
            datasets=dataset or (),
            experiment=experiment,
            team=team,
            hyperparameters=read_pairs(param or (), name="param"),
            env=read_pairs(env or (), name="env"),
            secrets=secret or (),
        )
    show_one(job, output, columns=("id", "state", "run_id"))
    if wait:
        _follow(job.id)


@app.command("ls", epilog="Example: mlbox job ls --state running")
def ls(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    user: Annotated[str | None, typer.Option(help="Only jobs of this user.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 30,
    output: OutputOption = Output.table,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        show(client.get("/api/v1/jobs", list[Job], state=state, user=user, limit=limit), COLUMNS, output)


@app.command(epilog="Example: mlbox ps")
def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """List the jobs that wait or run."""
    with connect() as client:
        jobs = client.get("/api/v1/jobs", list[Job], limit=1000)
    show([job for job in jobs if all_ or job.ended_at is None], COLUMNS, output)


@app.command(epilog="Example: mlbox queue")
def queue(output: OutputOption = Output.table) -> None:
    """Show what waits or runs, oldest first.

    Of another team's job it shows team, GPUs and expected end.
    """
    with connect() as client:
        entries = client.get("/api/v1/queue", list[QueueEntry])
    show(entries, ("id", "name", "user", "team", "state", "gpus", "expected_end", "reason"), output)


@app.command("show", epilog="Example: mlbox job show 0198c0ffee...")
def show_job(job_id: JobId, output: OutputOption = Output.table) -> None:
    """Show a job and its attempts."""
    with connect() as client:
        job = client.get(f"/api/v1/jobs/{job_id}", Job)
    show_one(job, output)
    if output is Output.table:
        show(job.attempts, ("number", "started_at", "ended_at", "exit_code", "gpus", "reason"), output)


@app.command(epilog="Example: mlbox logs -f 0198c0ffee...")
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and end as it ends.")
    ] = False,
    attempt: Annotated[int | None, typer.Option(help="Which attempt; the last when not given.")] = None,
) -> None:
    """Print what a job printed."""
    if follow:
        _follow(job_id)
        return
    with connect() as client:
        offset = 0
        while True:
            answer = client.exchange("GET", f"/api/v1/jobs/{job_id}/logs", query={"attempt": attempt, "offset": offset})
            if not answer.content:
                return
            sys.stdout.buffer.write(answer.content)
            offset = int(answer.headers["x-mlbox-offset"])


@app.command(epilog="Example: mlbox stop 0198c0ffee...")
def stop(job_id: JobId) -> None:
    """Take a job off the queue, or end it."""
    with connect() as client:
        note(f"The job is {client.post(f'/api/v1/jobs/{job_id}/stop', Job).state}.")


@app.command(epilog="Example: mlbox job retry 0198c0ffee...")
def retry(job_id: JobId) -> None:
    """Queue an ended job again."""
    with connect() as client:
        note(f"The job is {client.post(f'/api/v1/jobs/{job_id}/retry', Job).state}.")


def _follow(job_id: str) -> None:
    """Print a job's log until it ends; raises in its words when it did not succeed."""
    with connect() as client:
        offset = 0
        while True:
            answer = client.exchange("GET", f"/api/v1/jobs/{job_id}/logs", query={"offset": offset})
            sys.stdout.buffer.write(answer.content)
            sys.stdout.flush()
            offset = int(answer.headers["x-mlbox-offset"])
            if answer.headers["x-mlbox-ended"] == "1" and not answer.content:
                break
            if not answer.content:
                time.sleep(0.5)
        job = client.get(f"/api/v1/jobs/{job_id}", Job)
    if job.state == "timed_out":
        raise TimedOut(f"The job {job_id} {job.reason}.")
    if job.state != "succeeded":
        raise MlboxError(f"The job {job_id} {job.state}: {job.reason}.", hint="Its log above says more.")
