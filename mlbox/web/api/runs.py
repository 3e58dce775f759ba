"""The tracker over HTTP: experiments, runs, metrics, artifacts."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post, put
from litestar.params import Parameter

from mlbox.clock import from_us, to_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import MAX_STEP, Experiment, Metric, Principal, Record, Run, RunArtifact, RunStatus, check_point
from mlbox.store.artifacts import check_path
from mlbox.store.tracking.series import Point as Place
from mlbox.web.box import Box
from mlbox.web.downloads import IMAGES, send_file
from mlbox.web.uploads import receive_artifact

Step = Annotated[int | None, Parameter(ge=-MAX_STEP, le=MAX_STEP)]
Limit = Annotated[int, Parameter(ge=1, le=1000)]
Points = Annotated[int, Parameter(ge=1, le=10_000)]
NEXT = "X-Mlbox-Next"


class NewExperiment(Record, frozen=True, kw_only=True):
    """An experiment's name."""

    name: str


class NewRun(Record, frozen=True, kw_only=True):
    """A run to begin."""

    experiment: str
    id: str | None = None
    """Made by the client: the same request again begins no other run."""
    name: str = ""
    dataset: str | None = None
    git_commit: str | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    started_ms: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)] | None = None
    """Milliseconds since 1970, of a run that began earlier, such as one that is brought from elsewhere."""


class Point(Record, frozen=True, kw_only=True):
    """One value of a metric. JSON has no NaN and no infinity: they are the strings NaN, Infinity and -Infinity."""

    key: str
    value: float | str
    step: int = 0
    at: datetime | None = None


class Batch(Record, frozen=True, kw_only=True):
    """What a run logs at once, all or none."""

    metrics: tuple[Point, ...] = ()
    params: dict[str, str] = {}
    tags: dict[str, str] = {}


class End(Record, frozen=True, kw_only=True):
    """How a run ended."""

    status: RunStatus = "FINISHED"


ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@post("/api/v1/experiments", action="experiment.create")
async def create_experiment(box: Box, principal: Principal, data: NewExperiment) -> Experiment:
    """The experiment of this name, made if it is new."""
    box.teams.require(principal, "experiment.create", name=data.name)
    return await box.call(box.tracker.experiment, data.name, actor=principal.name)


@get("/api/v1/experiments", action="experiment.read")
async def list_experiments(box: Box) -> list[Experiment]:
    """All experiments by name."""
    return await box.call(box.tracker.experiments)


@post("/api/v1/runs", action="run.create")
async def start_run(box: Box, principal: Principal, data: NewRun) -> Run:
    """Begin a run. A job has one already and needs none of its own."""
    box.teams.require(principal, "run.create", name=data.experiment)
    dataset = None if data.dataset is None else (await box.call(box.datasets.version, data.dataset)).ref
    return await box.call(
        box.tracker.start_run,
        experiment=data.experiment,
        run_id=data.id,
        user=principal.name,
        name=data.name,
        datasets=() if dataset is None else (dataset,),
        git_commit=data.git_commit,
        params=data.params,
        tags=data.tags,
        started=None if data.started_ms is None else from_us(data.started_ms * 1000),
    )


@get("/api/v1/runs", action="run.read")
async def list_runs(box: Box, experiment: str | None = None, limit: Limit = 100, after: str | None = None) -> list[Run]:
    """Runs, newest first."""
    return await box.call(box.tracker.runs, experiment=experiment, limit=limit, after=after)


@get("/api/v1/runs/{run_id:str}", action="run.read")
async def get_run(box: Box, run_id: str) -> Run:
    """One run, with the last value of each metric."""
    return await box.call(box.tracker.run, run_id)


@post("/api/v1/runs/{run_id:str}/log", status_code=204, action="run.write")
async def log(box: Box, principal: Principal, run_id: str, data: Batch) -> None:
    """Add points, parameters and tags; the same point again changes nothing."""
    now = box.clock.real()
    metrics = [Metric(key=p.key, value=_value(p), step=p.step, at=p.at or now) for p in data.metrics]
    await box.call(box.tracker.log, run_id, metrics=metrics, params=data.params, tags=data.tags)


def _value(point: Point) -> float:
    if isinstance(point.value, str):
        if point.value not in ODD:
            raise InvalidInput(
                f"{point.value!r:.60} is no number.",
                hint=f"A number, or one of {', '.join(ODD)}.",
                field="metrics.value",
            )
        return ODD[point.value]
    return float(point.value)


@post("/api/v1/runs/{run_id:str}/end", status_code=200, action="run.write")
async def end_run(box: Box, principal: Principal, run_id: str, data: End) -> Run:
    """End a run as FINISHED, FAILED or KILLED."""
    return await box.call(box.tracker.end_run, run_id, data.status)


@get("/api/v1/runs/{run_id:str}/metrics/{key:path}", action="run.read")
async def history(
    box: Box, run_id: str, key: str, limit: Points = 1000, after: str | None = None
) -> Response[list[Metric]]:
    """A metric's points, by step and time; a value that is no number is null. X-Mlbox-Next is `after` of the next page."""
    name = key.removeprefix("/")
    last = _position(name, after) if after is not None else None
    points = await box.call(box.tracker.history, run_id, name, limit=limit, after=last)
    more = len(points) == limit
    found = [Metric(key=name, value=point.value, step=point.step, at=from_us(point.at_us)) for point in points]
    return Response(found, headers={NEXT: _cursor(points[-1])} if more else {})


def _cursor(point: Place) -> str:
    return f"{point.step},{point.at_us},{point.value!r}"


def _position(key: str, cursor: str) -> Place:
    try:
        step, at_us, value = cursor.split(",")
        point = Place(int(step), to_us(from_us(int(at_us))), float(value))
    except (ValueError, OverflowError) as err:
        raise InvalidInput(
            f"{cursor[:80]!r} is no place in a history.", hint=f"Send what {NEXT} said.", field="after"
        ) from err
    check_point(key, point.step)
    return point


class CurvePoints(Record, frozen=True, kw_only=True):
    """A metric for a picture: steps and finite values, in order."""

    steps: tuple[int, ...]
    values: tuple[float, ...]
    whole: bool
    """False when points were left out: then these are the least and the greatest of each bucket of steps."""


@get("/api/v1/runs/{run_id:str}/curves/{key:path}", action="run.read")
async def curve(
    box: Box,
    run_id: str,
    key: str,
    most: Annotated[int, Parameter(ge=2, le=2000)] = 2000,
    first: Step = None,
    last: Step = None,
) -> CurvePoints:
    """At most about `most` points of a metric, from step `first` to `last`, with every extreme."""
    found = await box.call(box.tracker.curve, run_id, key.removeprefix("/"), most=most, first=first, last=last)
    return CurvePoints(
        steps=tuple(step for step, _ in found.points),
        values=tuple(value for _, value in found.points),
        whole=found.whole,
    )


@get("/api/v1/runs/{run_id:str}/artifacts", action="run.read")
async def list_artifacts(box: Box, run_id: str) -> list[RunArtifact]:
    """A run's files, by path."""
    return await box.call(box.tracker.artifacts_of, run_id)


@put("/api/v1/runs/{run_id:str}/artifacts/{path:path}", request_max_body_size=None, action="run.write")
async def put_artifact(
    request: Request[Any, Any, Any], box: Box, principal: Principal, run_id: str, path: str
) -> RunArtifact:
    """Keep the body as one of the run's files, streamed."""
    plain = check_path(path.removeprefix("/"))
    owner = await box.call(box.tracker.experiment_of, run_id)
    sha256, size = await receive_artifact(box, request, box.settings.max_artifact, owner=owner)
    return await box.call(box.tracker.add_artifact, run_id, plain, sha256, size)


@get("/api/v1/runs/{run_id:str}/artifacts/{path:path}", action="run.read")
async def get_artifact(request: Request[Any, Any, Any], box: Box, run_id: str, path: str) -> Response[Any]:
    """One file of a run, or the part of it that the header Range asks for."""
    found = await box.call(box.tracker.artifact, run_id, path.removeprefix("/"))
    file = await box.call(box.artifacts.path, found.sha256)
    return send_file(box, request, file, found.sha256, found.size, name=found.path.rpartition("/")[2])


@get("/api/v1/runs/{run_id:str}/images/{path:path}", action="run.read")
async def get_image(request: Request[Any, Any, Any], box: Box, run_id: str, path: str) -> Response[Any]:
    """A picture of a run for a page to show; opened by itself it is a download, and may run nothing."""
    found = await box.call(box.tracker.artifact, run_id, path.removeprefix("/"))
    media_type = IMAGES.get(PurePosixPath(found.path).suffix.lower())
    if media_type is None:
        raise NotFound(
            f"{found.path[:200]!r} is no picture.", hint=f"Pictures end in {', '.join(IMAGES)}.", field="path"
        )
    file = await box.call(box.artifacts.path, found.sha256)
    name = found.path.rpartition("/")[2]
    return send_file(box, request, file, found.sha256, found.size, name=name, media_type=media_type)


handlers: list[Any] = [
    *(create_experiment, list_experiments, start_run, list_runs, get_run, log, end_run, history, curve),
    *(list_artifacts, put_artifact, get_artifact, get_image),
]
