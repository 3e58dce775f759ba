"""What can be said of a job when it is submitted: as keywords, as flags, or as the keys of a job file."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, get_type_hints

import msgspec

from mlbox.errors import InvalidInput, said, suggest, unknown_names
from mlbox.records import DivergenceRule, JobSpec, Priority

_FILES = "docs/how-to/submit.md says what a job file may have, repeat-jobs.md its rules."


class JobOptions(TypedDict, total=False):
    """The keywords of `submit`, all of them optional. What is not said the box decides; numbers carry their unit."""

    name: str
    """Unique among the team's jobs that have not ended, and good wherever a job's id is."""
    code: str | Path
    """The folder of code that is sent; `workdir` when not given."""
    workdir: str | Path
    """The folder that the command runs in, `code` or below it; this one when not given."""
    env: Mapping[str, str]
    gpus: float
    """Whole GPUs, or a share of one such as 0.5."""
    gpu_memory_gb: float
    cpus: float
    memory_gb: float
    image: str
    """A container image, where the box has podman or docker."""
    procs: int
    """Ranks, as torchrun counts them."""
    environment: str
    """`box` for the box's own Python, `auto` for the code's uv.lock, requirements.txt or pyproject.toml, or one such file."""
    queue: str
    priority: Priority
    team: str
    retries: int
    retry_exit_codes: Sequence[int]
    timeout_seconds: float
    grace_seconds: float
    checkpoints: bool
    """It saves its progress to MLBOX_CHECKPOINT_DIR and goes on from there."""
    hyperparameters: Mapping[str, Any]
    datasets: Sequence[str]
    secrets: Sequence[str]
    """NAME or NAME=VARIABLE, of the job's team or of everyone, or TEAM/NAME=VARIABLE."""
    experiment: str
    tags: Mapping[str, str]
    notify: Sequence[str]
    rules: Sequence[DivergenceRule]
    seed: int


LOCAL = ("code", "workdir", "environment", "secrets")
"""What says where things are here, and is something else in the job's spec."""


class JobFile(NamedTuple):
    """A job as a TOML file says it."""

    command: tuple[str, ...]
    options: JobOptions


def read_job_file(path: Path) -> JobFile:
    """A job file: `command`, and the keywords of `submit` as keys; folders are relative to the file.

    Raises InvalidInput, with the key, for what is no TOML, an unknown key, or a value of the wrong kind.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        hint = "Give another file." if isinstance(err, OSError) else "Write it as TOML."
        raise InvalidInput(f"{path} cannot be read: {said(err)}.", hint=hint, field="file") from err
    kinds = {"command": str | tuple[str, ...], **get_type_hints(JobOptions)}
    for key in content:
        if key not in kinds:
            hint = suggest(key, kinds, otherwise=f"It knows {', '.join(kinds)}.")
            raise InvalidInput(f"{path} has an unknown key {key!r}.", hint=hint, field=key)
    command = words(_convert(content.pop("command", ()), kinds["command"], "command"))
    found = {key: _convert(value, kinds[key], key) for key, value in content.items()}
    for key in ("code", "workdir"):
        if key in found:
            found[key] = path.parent / found[key]
    if "code" not in found and "workdir" not in found:
        found["code"] = path.parent
    if found.get("environment", "box") not in ("auto", "box"):
        found["environment"] = str(path.parent / found["environment"])
    return JobFile(command, JobOptions(**found))  # type: ignore[typeddict-item]  # its keys were looked at above


def _convert(value: Any, kind: Any, key: str) -> Any:
    if kind == str | Path:
        kind = str
    try:
        found = msgspec.convert(value, kind)
    except msgspec.ValidationError as err:
        what, _, place = str(err).partition(" - at `$")
        where = f"{key}{place.rstrip('`')}"
        raise InvalidInput(f"{where} cannot be used: {what[:1].lower()}{what[1:]}.", hint=_FILES, field=key) from err
    for odd, known in unknown_names(value, msgspec.to_builtins(found), key):
        name = odd.rpartition(".")[2]
        raise InvalidInput(f"There is no {odd}.", hint=suggest(name, known, otherwise=_FILES), field=key)
    return found


def words(command: str | Sequence[str]) -> tuple[str, ...]:
    """A command as its words; raises InvalidInput for a line with an open quote."""
    try:
        return tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as err:
        raise InvalidInput(
            f"The command {command!r} is no line: {err}.", hint="Close the quote.", field="command"
        ) from err


def spec_of(command: str | Sequence[str], options: JobOptions) -> JobSpec:
    """What was asked for as the box is asked, without the code; raises InvalidInput, with the field, for what is no option."""
    said: dict[str, Any] = {**options}
    known = get_type_hints(JobOptions)
    for key in said:
        if key not in known:
            hint = suggest(key, known, otherwise=f"It knows {', '.join(known)}.")
            raise InvalidInput(f"A job has no {key!r}.", hint=hint, field=key)
    given = {key: value for key, value in said.items() if key not in LOCAL}
    if "hyperparameters" in given:
        given["hyperparameters"] = {key: str(value) for key, value in given["hyperparameters"].items()}
    given["secrets"] = by_variable(options.get("secrets", ()))
    fields = {**given, "command": words(command)}
    try:
        return msgspec.convert(msgspec.to_builtins(fields), JobSpec)
    except (msgspec.ValidationError, TypeError) as err:
        raise InvalidInput(
            f"This is no job: {err}.", hint="Mind the kinds of the values.", field=_path(str(err))
        ) from err


def _path(said: str) -> str | None:
    """The field that msgspec names at the end of what it says."""
    _, found, path = said.rpartition("$.")
    return path.rstrip("`").split("[")[0].split(".")[0] if found else None


def folders(options: JobOptions) -> tuple[Path, str]:
    """The folder to send, and where in it the command runs; raises InvalidInput where one is not in the other."""
    inner = Path(options.get("workdir", "."))
    code = Path(options["code"]) if "code" in options else inner
    if "workdir" not in options:
        return code, ""
    if not inner.is_dir():
        raise InvalidInput(f"{inner} is no folder.", hint="Give the folder to run in.", field="workdir")
    try:
        below = inner.resolve().relative_to(code.resolve())
    except ValueError as err:
        raise InvalidInput(f"{inner} is not in {code}.", hint="Send a folder that holds it.", field="workdir") from err
    return code, "" if below == Path() else below.as_posix()


def by_variable(secrets: Sequence[str]) -> dict[str, str]:
    """Secrets as NAME or NAME=VARIABLE, by variable; raises InvalidInput for two in one."""
    found: dict[str, str] = {}
    for text in secrets:
        name, _, variable = text.partition("=")
        variable = variable or name.rpartition("/")[2]
        if variable in found:
            raise InvalidInput(
                f"Two secrets are to be in the variable {variable!r}.", hint="Write NAME=VARIABLE.", field="secrets"
            )
        found[variable] = name
    return found
