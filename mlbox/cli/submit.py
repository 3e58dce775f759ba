"""`mlbox submit` and `mlbox rerun`: a job, new or once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlbox.cli.divergence import METAVAR, read_rules
from mlbox.cli.follow import follow
from mlbox.cli.jobtable import asks, called, rows
from mlbox.cli.output import Output, OutputOption, note, read_pairs, show, show_one
from mlbox.cli.quantities import gigabytes, seconds
from mlbox.errors import InvalidInput, suggest
from mlbox.records import Job, JobPlan, Priority

if TYPE_CHECKING:
    from mlbox.sdk.options import JobOptions

app = typer.Typer(no_args_is_help=True, help="Jobs: submit, submit again.")
FollowOption = Annotated[
    bool,
    typer.Option(
        "--follow", "-f", help="Print its log until it ends, and end with its exit code; Ctrl-C lets it go on."
    ),
]


@app.command(
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},
    epilog="Example: mlbox submit --name mlp --gpus 1 --dataset flights@v1 --follow -- python train.py --lr 0.1",
)
def submit(
    command: Annotated[
        list[str], typer.Argument(help="A job file (TOML), or after -- the command; or both, and the command counts.")
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it, unique among the team's jobs that have not ended.")
    ] = None,
    code: Annotated[Path | None, typer.Option(help="Folder of code to send; --workdir when not given.")] = None,
    workdir: Annotated[Path | None, typer.Option(help="Folder to run in, in --code; this one when not given.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of its environment; may be given again.")
    ] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs: whole ones, or a share such as 0.5.")] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="GPU memory instead of a share, such as 20GB; with --gpus the least on each."),
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs; one per 4 GB of memory when not given.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory, such as 16GB; 32GB when not given.")] = None,
    image: Annotated[str | None, typer.Option(help="Container image to run in, by podman or docker.")] = None,
    procs: Annotated[int | None, typer.Option(help="Ranks on the box, as torchrun counts them.")] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            help="Python packages: box has the box's own, auto takes uv.lock, requirements.txt or pyproject.toml of the code;"
            " or a path to one."
        ),
    ] = None,
    priority: Annotated[Priority | None, typer.Option(help="Which jobs go first.")] = None,
    queue: Annotated[str | None, typer.Option(help="Queue to stand in.")] = None,
    team: Annotated[str | None, typer.Option(help="Whose job it is; its members see it.", envvar="MLBOX_TEAM")] = None,
    retries: Annotated[
        int | None, typer.Option(help="Tries after a failure; the box's default when not given.")
    ] = None,
    retry_on: Annotated[
        list[int] | None, typer.Option(help="Exit code after which it is tried again; any but 0 when not given.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="How long an attempt may take, such as 2h30m.")] = None,
    grace: Annotated[str | None, typer.Option(help="Time between SIGTERM and SIGKILL, such as 30s.")] = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="It saves its progress to MLBOX_CHECKPOINT_DIR and goes on from there."),
    ] = False,
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="To record; may be given again.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Dataset version that it reads; may be given again.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VARIABLE]", help="Secret for its environment; may be given again."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment that its run belongs to.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="On its run; may be given again.")] = None,
    notify: Annotated[
        list[str] | None, typer.Option(help="Address that is told of its end; may be given again.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar=METAVAR,
            help="When it diverges: nonfinite, no_better METRIC STEPS or above METRIC BOUND; with stop it is ended. May be given"
            " again; none for no rules.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="MLBOX_SEED for it; drawn, and kept, when not given.")] = None,
    follow_log: FollowOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say where and when it would run, or why it would wait.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Send the code in a folder to the box and run a command in it.

    Flags stand above what a job file says.
    """
    said = {
        "name": name,
        "code": code,
        "workdir": workdir,
        "gpus": gpus,
        "cpus": cpus,
        "image": image,
        "procs": procs,
        "environment": environment,
        "priority": priority,
        "queue": queue,
        "team": team,
        "retries": retries,
        "experiment": experiment,
        "seed": seed,
        "checkpoints": checkpoints or None,
        "gpu_memory_gb": gigabytes(gpu_memory, field="gpu_memory") if gpu_memory else None,
        "memory_gb": gigabytes(memory, field="memory") if memory else None,
        "timeout_seconds": seconds(timeout, field="timeout") if timeout else None,
        "grace_seconds": seconds(grace, field="grace") if grace else None,
        "retry_exit_codes": retry_on,
        "datasets": dataset,
        "secrets": secret,
        "notify": notify,
        "rules": read_rules(rule) if rule else None,
        "env": read_pairs(env or (), name="env"),
        "hyperparameters": read_pairs(param or (), name="param"),
        "tags": read_pairs(tag or (), name="tag"),
    }
    words, options = _with_file(command, {key: value for key, value in said.items() if value not in (None, {})})
    _submit(words, options, follow_log=follow_log, dry_run=dry_run, output=output)


@app.command(epilog="Example: mlbox rerun mlp --follow")
def rerun(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="As `mlbox ps -a` shows it, or by name.")],
    name: Annotated[str | None, typer.Option(help="Another name for it.")] = None,
    follow_log: FollowOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Submit a job again as it was, as a new one, and say what is not as it was."""
    from mlbox import context
    from mlbox.sdk import Box

    with Box(*context.resolve()) as box:
        again = box.rerun(job_id, name=name)
        page = f"{box.url}/jobs/{again.job.id}"
    for each in again.differs:
        note(f"Not as it was: {each}.")
    _tell(again.job, page, follow_log=follow_log, output=output)


def _with_file(command: list[str], flags: dict[str, Any]) -> tuple[tuple[str, ...], JobOptions]:
    """The command and the options of a job file, where the first word names one, below what the flags say."""
    from mlbox.sdk.options import JobOptions, read_job_file

    if not command[0].endswith(".toml"):
        _named_a_program(command[0])
        return tuple(command), JobOptions(**flags)  # type: ignore[typeddict-item]  # the flags' names are its keys
    file = read_job_file(Path(command[0]))
    words = tuple(command[1:]) or file.command
    if not words:
        raise InvalidInput(f"{command[0]} says no command.", hint='Write command = "python train.py".', field="command")
    options: dict[str, Any] = {**file.options}
    if "workdir" in flags or "code" in flags:
        options.pop("code", None)
        options.pop("workdir", None)
    for key, value in flags.items():
        options[key] = {**options.get(key, {}), **value} if isinstance(value, dict) else value
    return words, JobOptions(**options)  # type: ignore[typeddict-item]  # as above


def _named_a_program(word: str) -> None:
    """Refuse what is no program: a mistyped option, or a script, which is only found by ./ or the PATH."""
    if word.startswith("-"):
        from mlbox.sdk.options import JobOptions  # not needed by a command that goes well

        known = [f"--{name.replace('_', '-')}" for name in JobOptions.__annotations__]
        hint = suggest(word, known, otherwise="See `mlbox submit --help`.")
        raise InvalidInput(f"No such option: {word}.", hint=hint, field="command")
    if "/" not in word and word.endswith((".py", ".ipynb")):
        raise InvalidInput(
            f"{word} is no program.", hint=f"Write it like: mlbox submit -- python {word}", field="command"
        )


def _submit(command: tuple[str, ...], options: JobOptions, *, follow_log: bool, dry_run: bool, output: Output) -> None:
    from mlbox import context
    from mlbox.sdk import Box

    with Box(*context.resolve()) as box:
        if dry_run:
            if output is Output.id:
                raise InvalidInput(
                    "A dry run makes no job, so there is no id.", hint="Ask for another output.", field="output"
                )
            plan = box.plan(command, **options)
            show_one(plan if output is not Output.table else _plan(plan), output)
            return
        job = box.submit(command, **options)
        page = f"{box.url}/jobs/{job.id}"
    _tell(job, page, follow_log=follow_log, output=output)


def _plan(plan: JobPlan) -> dict[str, Any]:
    """What a dry run says to people."""
    return {
        "starts_now": plan.starts_now,
        "on_gpus": plan.gpus,
        "waits_for": "" if plan.starts_now else plan.words,
        "expected_at": plan.expected_at,
        "asks": asks(plan.spec),
    }


def _tell(job: Job, page: str, *, follow_log: bool, output: Output) -> None:
    """Say which job it is: on stdout, or where its log goes there, on stderr."""
    name = called(job)
    if not follow_log:
        if output is Output.table:
            show(rows([job]), ("job", "name", "command", "state", "team", "asks"))
            note(f"`mlbox logs -f {name}` follows it, and {page} shows it.")
        else:
            show_one(job, output)
        return
    note(f"The job {name} is {job.state}: {page}")
    raise typer.Exit(follow(job.id))
