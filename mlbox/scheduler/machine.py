"""What a job ran on, in words that can be compared: the machine, its Python and what is installed there."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

import psutil

from mlbox import __version__
from mlbox.records import Gpu, Job

_DIGITS = 12
_LABEL = re.compile(r"^[0-9:]+ (\(virtual\) )?")
"""Which GPU it was (`Gpu.label`), before what it is called."""


@functools.cache
def this_machine() -> Mapping[str, str]:
    """This one; `packages` is a hash over everything installed beside mlbox."""
    installed = sorted({_name_and_version(each) for each in distributions()})
    return {
        "host": platform.node(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.4g} GiB",
        "python": platform.python_version(),
        "mlbox": __version__,
        "packages": hashlib.sha256("\n".join(installed).encode()).hexdigest()[:_DIGITS],
    }


def with_gpus(machine: Mapping[str, str], gpus: Iterable[Gpu]) -> dict[str, str]:
    """A machine, and the GPUs that an attempt was given."""
    names = ", ".join(f"{gpu.label} {gpu.name}".strip() for gpu in gpus)
    return {**machine, **({"gpus": names} if names else {})}


def differences(
    job: Job, machine: Mapping[str, str], gpus: Sequence[Gpu], is_built: Callable[[str], bool]
) -> list[str]:
    """What is not now as it was when a job last ran, in words: the reasons why it may come out otherwise.

    `is_built` says whether an environment is there.
    """
    if not job.attempts:
        return ["it never ran"]
    then = job.attempts[-1].ran_on
    own = bool(job.spec.environment)
    found = [
        f"{name} was {then[name]}, and is {now}"
        for name, now in machine.items()
        if name in then and then[name] != now and not (own and name == "packages")
    ]
    names = {gpu.name for gpu in gpus}
    lost = [each for each in then.get("gpus", "").split(", ") if each and _LABEL.sub("", each) not in names]
    found += [f"it ran on GPU {each}, of a kind that the box has no more" for each in lost]
    if own and not is_built(job.spec.environment):
        found.append("its environment is built anew: what it does not pin may come in another version, or not at all")
    if job.spec.git_commit is None:
        found.append("its code was in no git commit: only the copy that the box keeps says what it was")
    return found


def _name_and_version(package: Distribution) -> str:
    """As its metadata says. They are parsed as an e-mail where one asks for them: a fifth of a second for all packages."""
    text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
    found = dict(re.findall(r"^(Name|Version):[ \t]*(.*?)[ \t]*$", text.partition("\n\n")[0], re.MULTILINE))
    return f"{found.get('Name')}=={found.get('Version')}".lower()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Processor"):
            return value.strip()
    return platform.processor()
