"""The scheduler over HTTP: snapshots of code, jobs, their logs, GPUs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.clock import parse_time
from mlbox.errors import NotFound
from mlbox.records import (
    Delivery,
    Gpu,
    Job,
    JobPlan,
    JobSpec,
    JobState,
    LogMatches,
    Outlook,
    Principal,
    QueueEntry,
    Record,
    Rerun,
)
from mlbox.scheduler.log_search import find_lines
from mlbox.store.jobs.states import ENDED
from mlbox.web import bodies
from mlbox.web.box import Box
from mlbox.web.downloads import send_file
from mlbox.web.fast.routes import Call, Fast, Reply
from mlbox.web.uploads import receive_artifact

Limit = Annotated[int, Parameter(ge=1, le=1000)]
OFFSET, ENDED_HEADER = "X-Mlbox-Offset", "X-Mlbox-Ended"


class Snapshot(Record, frozen=True, kw_only=True):
    """Code that was sent: name it in a job."""

    sha256: str
    size: int


@post("/api/v1/snapshots", request_max_body_size=None, action="snapshot.create")
async def put_snapshot(request: Request[Any, Any, Any], box: Box, principal: Principal) -> Snapshot:
    """Keep a tar.gz of code."""
    sha256, size = await receive_artifact(box, request, box.settings.max_artifact)
    return Snapshot(sha256=sha256, size=size)


@post("/api/v1/jobs", action="job.submit")
async def submit(box: Box, principal: Principal, data: JobSpec) -> Job:
    """Queue a job."""
    return await box.submit((data, principal))


def _read(box: Box, call: Call) -> bool:
    call.read = bodies.decoded(call.body, JobSpec)
    return False


async def _submit_fast(box: Box, call: Call) -> Reply:
    return Reply(msgspec.json.encode(await box.submit((call.read, call.principal))))


@post("/api/v1/job-plan", status_code=200, action="job.submit")
async def plan(box: Box, principal: Principal, data: JobSpec) -> JobPlan:
    """Where and when a job would run, or why it would wait; nothing is queued."""
    return await box.call(box.admission.plan, data, principal=principal)


@get("/api/v1/jobs", action="job.read")
async def list_jobs(
    box: Box,
    state_: Annotated[JobState | None, QueryParameter(name="state")] = None,
    user: str | None = None,
    team: str | None = None,
    open_: Annotated[bool, QueryParameter(name="open")] = False,
    limit: Limit = 100,
    after: str | None = None,
) -> list[Job]:
    """Jobs, newest first; with `open` those that have not ended. Of those that wait it is told what they wait for."""

    def found() -> list[Job]:
        page = box.scheduler.jobs(state=state_, user=user, team=team, open_only=open_, limit=limit, after=after)
        return box.scheduler.with_reasons(page)

    return await box.call(found)


@get("/api/v1/queue", action="job.read")
async def queue(
    box: Box, limit: Limit = 100, after: Annotated[int, Parameter(ge=0, le=2**63 - 1)] = 0
) -> list[QueueEntry]:
    """What waits or runs, oldest first, from behind a place; of another team's job its team, GPUs and expected end."""
    return await box.call(box.scheduler.queue, limit=limit, after=after)


@get("/api/v1/jobs/{job_id:str}", action="job.read")
async def get_job(box: Box, job_id: str) -> Job:
    """One job, with its attempts; by its id, its name, or a part of its id that is its alone."""
    return await box.call(box.scheduler.find, job_id)


@get("/api/v1/jobs/{job_id:str}/explain", action="job.read")
async def explain(box: Box, job_id: str) -> Outlook:
    """What a job waits for, in words, or which jobs wait for what it holds."""
    job = await box.call(box.scheduler.find, job_id)
    return await box.call(box.scheduler.why, job.id)


def _check_whose(box: Box, principal: Principal, job: Job) -> None:
    """Of another's job an admin of the team may dispose."""
    if job.user != principal.name:
        box.teams.require(principal, "job.change-any", team=job.spec.team)


@post("/api/v1/jobs/{job_id:str}/stop", status_code=200, action="job.change")
async def stop(box: Box, principal: Principal, job_id: str) -> Job:
    """End a job; its user may, and an admin."""
    job = await box.call(box.scheduler.find, job_id)
    _check_whose(box, principal, job)
    return await box.call(box.scheduler.stop, job.id, actor=principal.name)


@post("/api/v1/jobs/{job_id:str}/retry", status_code=200, action="job.change")
async def retry(box: Box, principal: Principal, job_id: str) -> Job:
    """Queue an ended job again; its user may, and an admin."""
    job = await box.call(box.scheduler.find, job_id)
    _check_whose(box, principal, job)
    return await box.call(box.scheduler.retry, job.id, actor=principal.name)


class RerunBody(Record, frozen=True, kw_only=True):
    """How a repeated job is to differ."""

    name: str | None = None


@post("/api/v1/jobs/{job_id:str}/rerun", action="job.submit")
async def rerun(box: Box, principal: Principal, job_id: str, data: RerunBody) -> Rerun:
    """Submit a job again as it was, as a new job of whoever asks; with what is not as it was."""
    job = await box.call(box.scheduler.find, job_id)
    return await box.call(box.admission.rerun, job, principal=principal, name=data.name)


@get("/api/v1/jobs/{job_id:str}/code", action="job.read")
async def get_code(box: Box, request: Request[Any, Any, Any], job_id: str) -> Response[Any]:
    """The code that a job runs, as a tar.gz."""
    job = await box.call(box.scheduler.find, job_id)
    return await _kept(box, request, job.spec.snapshot, f"{job.spec.name or job.id}.tar.gz", "code")


@get("/api/v1/jobs/{job_id:str}/diff", action="job.read")
async def get_diff(box: Box, request: Request[Any, Any, Any], job_id: str) -> Response[Any]:
    """What of a job's code differed from its commit, as a patch."""
    job = await box.call(box.scheduler.find, job_id)
    return await _kept(box, request, job.spec.git_diff, f"{job.spec.name or job.id}.diff", "diff")


async def _kept(box: Box, request: Request[Any, Any, Any], sha256: str | None, name: str, what: str) -> Response[Any]:
    if sha256 is None:
        raise NotFound(f"The job has no {what}.", hint="It was submitted without.", field="job")
    path = await box.call(box.artifacts.path, sha256)
    return send_file(box, request, path, sha256, path.stat().st_size, name=name)


@get("/api/v1/jobs/{job_id:str}/logs", action="job.read")
async def logs(
    box: Box,
    job_id: str,
    attempt: Annotated[int | None, Parameter(ge=1)] = None,
    offset: Annotated[int, Parameter(ge=0)] = 0,
    tail: Annotated[int | None, Parameter(ge=0)] = None,
    since: str | None = None,
) -> Response[bytes]:
    """What an attempt printed, from an offset in bytes, or only the last lines, or what was printed since a moment.

    A header says where to go on, and one whether the job has ended.
    """
    job = await box.call(box.scheduler.find, job_id)
    if tail is not None or since is not None:
        moment = parse_time(since, field="since") if since is not None else None
        offset = await box.call(box.scheduler.log_start, job.id, attempt, lines=tail, since=moment)
    content = await box.call(box.scheduler.log, job.id, attempt, offset=offset)
    headers = {OFFSET: str(offset + len(content)), ENDED_HEADER: "1" if job.state in ENDED else "0"}
    return Response(content, media_type="text/plain; charset=utf-8", headers=headers)


@get("/api/v1/jobs/{job_id:str}/logs/search", action="job.read")
async def search_log(
    box: Box,
    job_id: str,
    text: str,
    attempt: Annotated[int | None, Parameter(ge=1)] = None,
    after: Annotated[int, Parameter(ge=0)] = 0,
    limit: Limit = 200,
) -> LogMatches:
    """The lines of an attempt's log that have a text, from the offset `after`; capitals count where the text has some."""
    job = await box.call(box.scheduler.find, job_id)

    def look() -> LogMatches:
        return find_lines(
            lambda offset: box.scheduler.log(job.id, attempt, offset=offset), text, after=after, limit=limit
        )

    return await box.call(look)


@get("/api/v1/jobs/{job_id:str}/deliveries", action="job.read")
async def deliveries(box: Box, job_id: str) -> list[Delivery]:
    """Whom a job's `notify` told what, newest first, and what was answered."""
    job = await box.call(box.scheduler.find, job_id)
    return await box.call(box.outbox.of, f"job:{job.id}")


@get("/api/v1/gpus", action="job.read")
async def list_gpus(box: Box) -> list[Gpu]:
    """The GPUs of the box: what they do, who has them, and whether someone else uses them."""
    return await box.call(box.scheduler.gpus)


handlers: list[Any] = [
    put_snapshot,
    submit,
    plan,
    list_jobs,
    explain,
    queue,
    get_job,
    stop,
    retry,
    logs,
    search_log,
    deliveries,
    list_gpus,
    rerun,
    get_code,
    get_diff,
]
fast = [Fast(submit, _read, later=_submit_fast)]
