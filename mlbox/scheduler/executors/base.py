"""The seam between the scheduler, which decides, and whatever runs attempts: this machine, or a cluster.

What an executor promises
- An attempt that was given to `start` any number of times, by any number of servers, runs at most once.
- `state` knows it again after a restart of the server, by job and number alone: never by a number of the engine's own.
- Whatever becomes of an attempt, its `state` comes to `ended`, and then holds nothing of the machine any more.

Above the seam nobody knows a process, a folder or a host.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from mlbox.records import DatasetVersion, Gpu, JobSpec
from mlbox.scheduler.policy import Box


class Ref(NamedTuple):
    """Which attempt."""

    job_id: str
    number: int


class Mount(NamedTuple):
    """A dataset version, and where the artifact store has each of its files."""

    version: DatasetVersion
    sources: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """An attempt that is to run."""

    ref: Ref
    spec: JobSpec
    """What its user asked for; who submitted it had it checked."""
    grace_seconds: float
    """Between SIGTERM and SIGKILL."""
    devices: tuple[str, ...] = ()
    """The GPUs that it was given, by their ids."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What is ours in its environment, and no user overrides."""
    private: Mapping[str, str] = field(default_factory=dict)
    """The same, of what must not lie on any disk."""
    mask: Mapping[str, str] = field(default_factory=dict)
    """What must not stand in its log, by the name that replaces it."""
    snapshot: Path | None = None
    """A tar.gz of its code."""
    mounts: Sequence[Mount] = ()
    environment: Path | None = None
    """The virtual environment whose Python it finds first; None for the box's own."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended."""

    exit_code: int | None
    timed_out: bool = False
    stopped: bool = False
    out_of_memory: bool = False
    disk_full: bool = False
    """It was ended because it held the most of a disk on which too little was left."""
    lost: bool = False
    """Nobody saw how it ended."""
    error: str = ""
    """What was wrong, in words, where the command did not run, or nobody saw its end."""

    @property
    def reason(self) -> str:
        """In words."""
        if self.error:
            return self.error
        if self.timed_out:
            return "ran out of time"
        if self.out_of_memory:
            return (
                "ran out of memory: it may hold twice what it asked for, and no more than the box shares; ask for more"
            )
        if self.disk_full:
            return (
                "it filled the disk: of all jobs it held the most when too little was left, and its files were removed"
            )
        if self.exit_code is None:
            return "its processes are gone without a trace: they were killed from outside"
        if self.exit_code < 0:
            return f"ended by {signal_name(-self.exit_code)}"
        return f"exit status {self.exit_code}"


def signal_name(number: int) -> str:
    """SIGTERM for 15; real-time signals have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True)
class Observed:
    """What an executor sees of an attempt."""

    phase: Literal["absent", "starting", "running", "ended"]
    """`absent`: it knows nothing of it, and it has not run."""
    number: int | None = None
    """What the engine calls it, to be shown to people: here a process id."""
    ended: Ended | None = None
    """With the phase `ended`."""
    checkpoint_at: datetime | None = None
    """When it last wrote to its folder for checkpoints."""


ABSENT, STARTING = Observed("absent"), Observed("starting")


@dataclass(frozen=True, slots=True)
class Supply:
    """What an executor has to give."""

    box: Box
    gpus: tuple[Gpu, ...] = ()
    no_gpus: str = ""
    """Why there are none, where somebody may have expected some."""
    machine: Mapping[str, str] = field(default_factory=dict)
    """What attempts run on, by name, in words."""


class Executor(Protocol):
    """Runs attempts."""

    @property
    def epoch(self) -> str:
        """What was started in another epoch and has left no trace may have run all the same: of one machine, its boot.

        Empty where a trace is never lost.
        """

    def open(self, changed: Callable[[Ref], None]) -> None:
        """Begin. From then on `changed` is called, in any thread, for an attempt whose state may be another one now."""

    def capacity(self, held: Collection[str] = ()) -> Supply:
        """What it has to give; `held` are the devices that attempts have now, by their ids."""

    def check(self, spec: JobSpec) -> None:
        """Raise InvalidInput, naming the field, for a job that asks for what this executor can never do."""

    def start(self, launch: Launch) -> None:
        """Let an attempt run; one that runs or ran already is left alone. Raises what makes it impossible."""

    def state(self, ref: Ref) -> Observed:
        """What is known of an attempt."""

    def stop(self, ref: Ref) -> None:
        """Have an attempt end: SIGTERM, and SIGKILL after its grace. Told again, or of one that is over, it does nothing.

        One whose command has not started never starts: it is absent then, whoever may still `start` it, or has ended as stopped.
        """

    def missing(self) -> int:
        """Bytes of disk that attempts have taken of what they are to leave; 0 where all is well, or nobody knows."""

    def held(self, ref: Ref) -> int:
        """Bytes of that disk in the folders of an attempt, and in that for its job's checkpoints."""

    def evict(self, ref: Ref) -> None:
        """Have an attempt end at once, with `disk_full` for why."""

    def relieve(self, ref: Ref) -> None:
        """Remove of an attempt that is over, and filled the disk, all but its log and its end, and say so in the log.

        Then, while that is not enough, its job's checkpoints, the oldest first. Raises OSError for what cannot be removed.
        """

    def measure(self, ref: Ref, devices: Sequence[str]) -> Mapping[str, float]:
        """What a running attempt on these devices uses, by MLflow's names of system metrics; nothing where nobody knows."""

    def log(self, ref: Ref, offset: int, limit: int) -> bytes:
        """What the attempt printed, from an offset in bytes; nothing where there is no more."""

    def log_start(self, ref: Ref, *, lines: int | None = None, since: datetime | None = None) -> int:
        """The offset where the last lines of a log begin, or what was printed since a moment or shortly before it."""

    def clear(self, ref: Ref) -> None:
        """Remove what only a running attempt has use for; its end is in the store."""

    def discard(self, job_id: str, attempts: int, *, checkpoints: bool, logs: bool = False) -> None:
        """Remove what the attempts of a job that is over left, but for their logs and their ends; with `checkpoints` these, too.

        With `logs` a log is one line, which says that it was removed. Told again, it does nothing. Raises OSError for what
        cannot be removed.
        """

    def say(self, ref: Ref, line: str) -> None:
        """Put a line of the scheduler's into the log of an attempt: why there was nothing to run."""

    def close(self) -> None:
        """End; what runs goes on."""
