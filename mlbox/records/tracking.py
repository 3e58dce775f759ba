"""Experiments, runs, and what they record."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mlbox.errors import InvalidInput
from mlbox.records.base import Record

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]


MAX_KEY = 256
"""Characters in the name of a metric, a parameter, a tag or a run."""


MAX_STEP = 2**63 - 1


def check_point(key: str, step: int) -> None:
    """A metric's name and step fit the store; raises InvalidInput with the field otherwise."""
    if not 0 < len(key) <= MAX_KEY:
        raise InvalidInput(
            f"A metric's name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field="metrics.key"
        )
    if abs(step) > MAX_STEP:
        raise InvalidInput(f"The step {step} does not fit 64 bits.", hint="Count in steps.", field="metrics.step")


DEFAULT_EXPERIMENT = "Default"
"""Where a run goes whose experiment nobody names: MLflow's experiment 0, so that its clients and ours meet in one."""


class Experiment(Record, frozen=True, kw_only=True):
    """A named group of runs."""

    id: str
    """A number; the one of the default experiment is 0."""
    name: str
    created_at: datetime
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    """When it was deleted, softly, if it was."""
    tags: dict[str, str] = {}


class Metric(Record, frozen=True, kw_only=True):
    """One measured value of a run."""

    key: str
    value: float | None
    """None over the API when it is NaN or infinite, which JSON does not have."""
    step: int
    at: datetime


class Run(Record, frozen=True, kw_only=True):
    """One execution of training code and everything recorded of it."""

    id: str
    experiment_id: str
    name: str
    user: str
    status: RunStatus
    started_at: datetime
    ended_at: datetime | None = None
    job_id: str | None = None
    dataset: str | None = None
    """`NAME@vN` of the dataset version that it trained on."""
    datasets: tuple[str, ...] = ()
    """All dataset versions that it reads, the one above first."""
    git_commit: str | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, Metric] = {}
    """The last value of each metric."""
    extremes: dict[str, tuple[float, float]] = {}
    """The least and the greatest value of each metric that has a number at all."""
    deleted_at: datetime | None = None
    """When it was deleted, softly, if it was."""


class RunArtifact(Record, frozen=True, kw_only=True):
    """A file of a run, by its path."""

    path: str
    sha256: str
    size: int


class DatasetInput(Record, frozen=True, kw_only=True):
    """Data that a run says it read, wherever it is; one that names a dataset version of the box is `Run.dataset`."""

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str = ""
    profile: str = ""
    tags: dict[str, str] = {}


class RunModel(Record, frozen=True, kw_only=True):
    """A logged model that a run read (`input`) or made (`output`), at a step."""

    model_id: str
    role: Literal["input", "output"]
    step: int = 0


LoggedModelStatus = Literal["PENDING", "READY", "FAILED"]


class ModelMetric(Record, frozen=True, kw_only=True):
    """The last value of a metric that a run measured of a logged model, on a dataset if it said so."""

    key: str
    value: float
    step: int
    at: datetime
    run_id: str
    dataset_name: str = ""
    dataset_digest: str = ""


class LoggedModel(Record, frozen=True, kw_only=True):
    """A model that a run logged, before or without registration. Its id is `m-` and 32 hexadecimal digits."""

    id: str
    experiment_id: str
    name: str
    type: str = ""
    status: LoggedModelStatus
    message: str = ""
    run_id: str | None = None
    user: str = ""
    created_at: datetime
    updated_at: datetime
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: tuple[ModelMetric, ...] = ()
