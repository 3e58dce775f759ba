"""For the job that runs a gate's command: what it judges, the version's files, and requests to replay."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get

from mlbox.errors import NotAuthorised, NotFound
from mlbox.records import GateTask, ModelVersion, Principal, RunArtifact
from mlbox.store.registry.gate_runs import GateRun
from mlbox.web.box import Box
from mlbox.web.downloads import send_file

LINES = "application/jsonl"


@get("/api/v1/gate", action="model.gate")
async def task(box: Box, principal: Principal) -> GateTask:
    """What the job that asks judges."""
    run, version, files = await box.call(_judged, box, principal)
    return GateTask(
        gate=run.gate,
        model=version.model,
        version=version.version,
        address=f"{version.model}@staging",
        features=version.features,
        files=tuple(files),
    )


@get("/api/v1/gate/files/{place:str}", action="model.gate")
async def file(request: Request[Any, Any, Any], box: Box, principal: Principal, place: str) -> Response[Any]:
    """One of the version's files, by its place in the task."""
    _, _, files = await box.call(_judged, box, principal)
    found = dict(enumerate(files)).get(int(place) if place.isdecimal() and len(place) < 10 else -1)
    if found is None:
        raise NotFound(f"The version has {len(files)} files, and none of place {place!r:.40}.", field="place")
    path = await box.call(box.artifacts.verified, found.sha256)
    return send_file(box, request, path, found.sha256, found.size, name=found.path.rpartition("/")[2])


@get("/api/v1/gate/requests", action="model.gate")
async def requests(box: Box, principal: Principal) -> Response[bytes]:
    """Requests to replay, as JSON lines."""

    def lines() -> bytes:
        run, _, _ = _judged(box, principal)
        found, source = box.requests.of(box.promotions.get(run.promotion_id))
        box.gate_runs.note_requests(run.job_id, len(found), source)
        return b"".join(msgspec.json.encode(one) + b"\n" for one in found)

    return Response(await box.call(lines), media_type=LINES)


def _judged(box: Box, principal: Principal) -> tuple[GateRun, ModelVersion, list[RunArtifact]]:
    """Which gate a job runs for, the version, and what that is made of."""
    run = box.gate_runs.of_job(principal.job_id) if principal.job_id is not None else None
    if run is None:
        raise NotAuthorised("This is for the job that runs a gate's command.", hint="A promotion begins it.")
    promotion = box.promotions.get(run.promotion_id)
    version = box.registry.version(promotion.model, promotion.version)
    files = box.registry.files(version.model, version.version)
    if not files and version.artifact is not None:
        files = [RunArtifact(path="model.onnx", sha256=version.artifact, size=version.size)]
    return run, version, files


handlers: list[Any] = [task, file, requests]
