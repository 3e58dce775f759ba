"""Records of the commands that judge a version: what a policy registers, and what came of it."""

from __future__ import annotations

from typing import Literal

from mlbox.records.base import Record
from mlbox.records.jobs import JobState
from mlbox.records.tracking import RunArtifact

CommandGate = Literal["test", "integration"]
"""Before Staging, with the version's files; or in Staging, against what answers there."""


class GateCommand(Record, frozen=True, kw_only=True):
    """A command that judges a version, run as a job: it passes by exiting with 0."""

    command: tuple[str, ...]
    code: str = ""
    """SHA-256 of its code as a tar.gz, unpacked where it runs. It is the policy's and not the version's: whoever trains a
    model does not choose what judges it."""
    timeout_seconds: float = 1800
    cpus: float | None = None
    memory_gb: float | None = None
    gpus: float = 0


class CommandRun(Record, frozen=True, kw_only=True):
    """What came of a gate's command: kept with its promotion, however long the job's own log is."""

    gate: CommandGate
    command: tuple[str, ...]
    code: str = ""
    job: str = ""
    """Empty where none could be started; `reason` says why."""
    state: JobState
    exit_code: int | None = None
    seconds: float | None = None
    reason: str = ""
    log: str = ""
    """The end of what it printed."""
    requests: int = 0
    """That it was given to replay."""
    requests_from: str = ""


class GateTask(Record, frozen=True, kw_only=True):
    """What the job of a gate's command is about."""

    gate: CommandGate
    model: str
    version: int
    address: str
    """Under which the version answers once it is in Staging."""
    features: tuple[str, ...]
    files: tuple[RunArtifact, ...]
