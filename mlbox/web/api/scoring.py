"""Batch scoring over HTTP: a dataset scored by a version in a job, which reads the model and nothing else here."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post

from mlbox.errors import InvalidInput, NotAuthorised
from mlbox.records import DatasetVersion, Job, JobSpec, ModelVersion, Principal, Record
from mlbox.serve.inference.runtime import not_tabular, score_output
from mlbox.web.box import Box
from mlbox.web.downloads import send_file

COMMAND = ("python", "-P", "-m", "mlbox.sdk.score_job")
MODEL, RESULT = "mlbox.score", "mlbox.score.as"
"""The job's tags that say what it scores with, and what the result is called."""
SCORE = "score"


class Scoring(Record, frozen=True, kw_only=True):
    """What to score, and what the dataset version that comes of it is called; by default MODEL-scores."""

    dataset: str
    name: str = ""
    team: str = ""
    """Whose job it is; by default the model's team."""


class ScoreTask(Record, frozen=True, kw_only=True):
    """What a job is to score, and how a score is read from what the model gives."""

    model: str
    version: int
    dataset: str
    name: str
    features: tuple[str, ...]
    input: str
    output: str


@post("/api/v1/models/{model:str}/versions/{version:int}/score", status_code=201, action="model.score")
async def score(box: Box, principal: Principal, model: str, version: int, data: Scoring) -> Job:
    """Have a dataset scored by a version, whatever its stage, in a job; the scores become a dataset version."""
    found = await box.call(box.registry.version, model, version)
    dataset = await box.call(box.datasets.version, data.dataset)
    check(found, dataset)
    name = data.name or f"{model}-scores"
    box.teams.require(principal, "dataset.create", name=name)
    spec = JobSpec(
        command=COMMAND,
        name=f"score-{model}-v{version}",
        team=data.team or box.teams.team_of(model),
        datasets=(dataset.ref,),
        tags={MODEL: found.ref, RESULT: name},
    )
    return await box.call(lambda: box.admission.submit(spec, principal=principal))


def check(version: ModelVersion, dataset: DatasetVersion) -> None:
    """Raise InvalidInput unless a version gives a score for each row of a dataset."""
    if version.artifact is None or not version.features or not_tabular(version.inputs, version.outputs):
        raise InvalidInput(
            f"{version.ref} does not score rows of features.",
            hint="Batch scoring takes an ONNX model that names its features.",
            field="version",
        )
    there = {column.name for column in dataset.columns}
    missing = next((name for name in version.features if name not in there), None)
    if missing is not None:
        raise InvalidInput(
            f"{dataset.ref} has no column {missing!r}, which {version.ref} takes.",
            hint="Build the dataset with the features that the version was trained with.",
            field="dataset",
        )
    if SCORE in there:
        raise InvalidInput(
            f"{dataset.ref} has a column {SCORE!r} already.", hint="Build it under another name.", field="dataset"
        )


@get("/api/v1/scoring", action="model.scoring")
async def task(box: Box, principal: Principal) -> ScoreTask:
    """What the job that asks is to score."""
    job, version = await box.call(_task_of, box, principal)
    return ScoreTask(
        model=version.model,
        version=version.version,
        dataset=job.spec.datasets[0],
        name=job.spec.tags[RESULT],
        features=version.features,
        input=version.inputs[0].name,
        output=score_output(version.outputs),
    )


@get("/api/v1/scoring/model", action="model.scoring")
async def model_file(request: Request[Any, Any, Any], box: Box, principal: Principal) -> Response[Any]:
    """The ONNX file that the job that asks scores with."""
    _, version = await box.call(_task_of, box, principal)
    assert version.artifact is not None
    path = await box.call(box.artifacts.verified, version.artifact)
    return send_file(box, request, path, version.artifact, version.size, name="model.onnx")


def _task_of(box: Box, principal: Principal) -> tuple[Job, ModelVersion]:
    """A job and its version. Tags are anyone's to set, so this gives no more than whoever submitted the job may see anyway."""
    job = box.scheduler.job(principal.job_id) if principal.job_id is not None else None
    model, _, number = (job.spec.tags.get(MODEL, "") if job else "").rpartition("/")
    if job is None or not model or not number.isdigit() or RESULT not in job.spec.tags or not job.spec.datasets:
        raise NotAuthorised(
            "This is for the job that scores a dataset.", hint="Begin one with `mlbox model score NAME@VERSION`."
        )
    version = box.registry.version(model, int(number[:18]))
    check(version, box.datasets.version(job.spec.datasets[0]))
    return job, version


handlers: list[Any] = [score, task, model_file]
