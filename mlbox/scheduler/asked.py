"""What a job asks for: what it gets where it did not say, and what no job can have."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterator

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import JobSpec, check_name
from mlbox.scheduler.executors import Supply
from mlbox.scheduler.policy import DEFAULT_QUEUE, Box, Need, State, impossible
from mlbox.scheduler.policy.types import ReasonKind
from mlbox.store.artifacts import check_path

MEMORY_GB = 32.0
GB_PER_CPU = 4.0
MOST_RETRIES = 100
MOST_PROCS = 1024
MOST_TIMEOUT = 3650 * 86400
"""Longer ones end when no calendar goes on, and no decision could be made beside them."""
MOST_GRACE = 3600
"""Who needs the GPUs waits so long for a job that does not end by itself."""
SEEDS = 2**32
"""NumPy takes no larger ones."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = re.compile(r"[0-9a-f]{32}")


def settle(spec: JobSpec, box: Box) -> JobSpec:
    """The spec with nothing left open: a GPU where there is one, 32 GB, a CPU per 4 GB, all capped to the box; a seed."""
    memory = spec.memory_gb
    if memory is None:
        memory = min(MEMORY_GB, math.floor(box.memory_gb * 10) / 10)
    cpus = spec.cpus if spec.cpus is not None else min(float(max(1, math.ceil(memory / GB_PER_CPU))), box.cpus)
    gpus = spec.gpus
    if gpus is None:
        gpus = float(bool(box.devices) and not spec.gpu_memory_gb)
    seed = spec.seed if spec.seed is not None else secrets.randbelow(SEEDS)
    return msgspec.structs.replace(spec, gpus=gpus, cpus=cpus, memory_gb=memory, seed=seed)


def need(spec: JobSpec) -> Need:
    """What of the box a settled spec takes."""
    return Need(
        gpus=spec.gpus or 0.0,
        cpus=spec.cpus or 0.0,
        memory_gb=spec.memory_gb or 0.0,
        gpu_memory_gb=spec.gpu_memory_gb,
    )


def check(spec: JobSpec) -> None:
    """Raises InvalidInput, with the field, for what makes no sense on any box."""
    if not spec.command or not spec.command[0]:
        raise InvalidInput("The command is empty.", hint="Give at least a program.", field="command")
    for field, words in (("command", spec.command), ("env", spec.env.values())):
        if any("\0" in word for word in words):
            raise InvalidInput(
                "There is a NUL character in it, with which the system lets nothing start.",
                hint="Leave it out, or give it in a file.",
                field=field,
            )
    if spec.name:
        _check_job_name(spec.name)
    if spec.workdir:
        check_path(spec.workdir, field="workdir")
    for variable in (*spec.env, *spec.secrets):
        if not _VARIABLE.fullmatch(variable):
            raise InvalidInput(
                f"{variable!r:.80} cannot be the name of an environment variable.",
                hint="Use letters, digits and '_', not beginning with a digit.",
                field="env",
            )
    for field, wrong in _out_of_bounds(spec):
        raise InvalidInput(f"{field} is {getattr(spec, field)}.", hint=wrong, field=field)


_FIELDS: dict[ReasonKind, str] = {
    "gpu_memory": "gpu_memory_gb",
    "cpus": "cpus",
    "memory": "memory_gb",
    "queue_running": "queue",
    "turns": "queue",
}
_HINTS: dict[ReasonKind, str] = {
    "team_quota": "Ask for less, or ask an admin of the box for more: `mlbox quota ls` shows it.",
    "queue_gpus": "Ask for less, or submit it to another queue: `mlbox queue ls`.",
    "queue_running": "Submit it to another queue: `mlbox queue ls`.",
    "turns": "Submit it with --checkpoints if it saves its progress, or to another queue.",
}


def check_size(spec: JobSpec, supply: Supply, rules: State) -> None:
    """Raises InvalidInput, with the field, for a settled spec that no empty box, queue or quota would ever let run."""
    wants = need(spec)
    queue = spec.queue or DEFAULT_QUEUE
    never = impossible(wants, rules, team=spec.team, queue=queue, checkpoints=spec.checkpoints)
    if never is None:
        return
    if wants.wants_gpu and not supply.gpus:
        missing = f" ({supply.no_gpus})" if supply.no_gpus else ""
        raise InvalidInput(
            f"The job asks for {wants.count} GPU{'' if wants.count == 1 else 's'} and this box has none{missing}.",
            hint="Submit without --gpus, or install NVIDIA's driver and restart the server.",
            field="gpus",
        )
    raise InvalidInput(
        f"The job could never run: {never.words}.",
        hint=_HINTS.get(never.kind, "Ask for less."),
        field=_FIELDS.get(never.kind, "gpus"),
    )


def _check_job_name(name: str) -> None:
    check_name(name)
    if _ID.fullmatch(name):
        raise InvalidInput(f"{name!r} looks like the id of a job.", hint="Choose another name.", field="name")


def _out_of_bounds(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Fields with a number that cannot be, and what it may be."""
    yield from _amounts_out_of_bounds(spec)
    if spec.timeout_seconds is not None and not 0 < spec.timeout_seconds <= MOST_TIMEOUT:
        yield "timeout_seconds", f"Give seconds above 0, up to {MOST_TIMEOUT:,} (ten years), or none for no limit."
    if spec.grace_seconds is not None and not 0 <= spec.grace_seconds <= MOST_GRACE:
        yield "grace_seconds", f"Give 0 to {MOST_GRACE:,} seconds: so long who needs the GPUs may have to wait."
    if spec.retries is not None and not 0 <= spec.retries <= MOST_RETRIES:
        yield "retries", f"Use 0 to {MOST_RETRIES}."
    if not all(1 <= code <= 255 for code in spec.retry_exit_codes):
        yield "retry_exit_codes", "Exit codes are 1 to 255."
    if not 1 <= spec.procs <= MOST_PROCS:
        yield "procs", f"Use 1 to {MOST_PROCS}."
    if spec.seed is not None and not 0 <= spec.seed < SEEDS:
        yield "seed", f"Use 0 to {SEEDS - 1}."


def _amounts_out_of_bounds(spec: JobSpec) -> Iterator[tuple[str, str]]:
    for field in ("gpus", "gpu_memory_gb", "cpus", "memory_gb"):
        value = getattr(spec, field) or 0.0
        if not 0 <= value < math.inf:
            yield field, "Use 0 or more."
    if spec.memory_gb == 0:  # it could not be held to twice of nothing, and so would have all there is
        yield "memory_gb", "Say how much the job needs, such as 0.5, or nothing for the default."
    gpus = spec.gpus or 0.0
    if gpus >= 1 and gpus != round(gpus):
        yield "gpus", "Ask for part of one, or for whole ones."
