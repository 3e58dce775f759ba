"""Jobs: the queue, the GPUs, and one job with its attempts and its log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.errors import InvalidInput
from mlbox.records import Gpu, Job, JobState, Outlook
from mlbox.store.jobs.states import ACTIVE, WAITING
from mlbox.web.box import Box
from mlbox.web.pages.file_view import code_diff
from mlbox.web.pages.run_charts import curve_sets
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page, part

State = Annotated[str | None, QueryParameter(name="state")]
"""Litestar keeps the plain name for itself."""
MOST_HELD_UP = 20
NEXT, MOST_NEXT = 8, 500
"""Jobs of the queue that are shown beside all jobs, and by themselves."""
MACHINE = {"os": "OS", "cpu": "CPU", "cpus": "CPUs", "gpus": "GPUs", "mlbox": "mlbox"}
"""What an attempt ran on, where its name does not only begin with a capital."""
OPEN: tuple[JobState, ...] = (*WAITING, *ACTIVE)


def _list(view: View, state: str | None, user: str | None, after: str | None) -> dict[str, Any]:
    scheduler = view.box.scheduler
    hidden, others = scheduler.others(limit=PAGE_SIZE)
    wanted = _state(state)
    found = scheduler.jobs(state=wanted, user=user or None, limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda job: job.id)
    counts = scheduler.counts()
    return {
        "jobs": shown,
        **_queue(view, counts, wanted, user),
        "next": next_page(view, last),
        "states": get_args(JobState),
        "state": wanted,
        "user": user or "",
        "may_submit": view.may_somewhere("member"),
        "counts": counts,
        "others": others,
        "hidden": hidden,
        "gpus": part(lambda: held_gpus(view.box)),
    }


def held_gpus(box: Box) -> list[tuple[Gpu, list[Job]]]:
    """Each GPU with the jobs on it that whoever asks may know of."""
    return [(gpu, [box.scheduler.job(id) for id in gpu.jobs]) for gpu in box.scheduler.gpus()]


def _queue(view: View, counts: Mapping[JobState, int], state: JobState | None, user: str | None) -> dict[str, Any]:
    """Who is next: the first of all, or, where only jobs that wait are asked for, everyone."""
    whole = state == "queued"
    if not (whole or state is None) or (user and not whole):
        return {"line": (), "waiting": 0, "whole": False}
    found = part(lambda: view.box.scheduler.line(limit=MOST_NEXT if whole else NEXT)).value or []
    line = [(place, job) for place, job in enumerate(found, 1) if not user or job.user == user]
    return {"line": line, "waiting": sum(counts[one] for one in WAITING), "whole": whole}


def _state(text: str | None) -> JobState | None:
    if not text:
        return None
    for state in get_args(JobState):
        if state == text:
            found: JobState = state
            return found
    raise InvalidInput(
        f"{text[:40]!r} is no state of a job.", hint=f"One of {', '.join(get_args(JobState))}.", field="state"
    )


@get("/jobs", include_in_schema=False, action="job.read")
async def jobs(view: View, state_: State = None, user: str | None = None, after: str | None = None) -> Response[bytes]:
    """All jobs, newest first."""
    return await view.page("jobs.html", lambda: _list(view, state_, user, after))


def _job(view: View, job_id: str, attempt: int | None) -> dict[str, Any]:
    job: Job = view.box.scheduler.find(job_id)
    outlook: Outlook = view.box.scheduler.why(job.id)
    mine = view.principal is not None and job.user == view.principal.name
    may_act = view.may("member" if mine else "admin", team=job.spec.team)
    shown = attempt or (job.attempts[-1].number if job.attempts else None)
    run_id = job.run_id
    run = part(lambda: view.box.tracker.run(run_id)).value if run_id else None
    ran_on = job.attempts[-1].ran_on if job.attempts else {}
    return {
        "job": job,
        "lead": "" if outlook.words and job.state == "queued" else job.reason,
        "machine": [(MACHINE.get(name, name.capitalize()), value) for name, value in ran_on.items()],
        "usage": [one for one in curve_sets(view.box, [run]) if one.system] if run is not None else [],
        "diff": code_diff(view.box, job),
        "active": job.state in OPEN,
        "outlook": outlook,
        "held_up": [view.box.scheduler.job(id) for id in outlook.held_up[:MOST_HELD_UP]],
        "attempt": shown,
        "may_stop": may_act and job.state in OPEN and job.state != "stopping",
        "may_retry": may_act and job.state not in OPEN,
        "may_rerun": job.state not in OPEN and view.may_somewhere("member"),
        "may_submit": view.may_somewhere("member"),
    }


@get("/jobs/{job_id:str}", include_in_schema=False, action="job.read")
async def job(view: View, job_id: str, attempt: int | None = None) -> Response[bytes]:
    """One job; `attempt` chooses whose log is shown."""
    return await view.page("job.html", lambda: _job(view, job_id, attempt))


handlers: list[Any] = [jobs, job]
