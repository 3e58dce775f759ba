"""The forms of jobs: one that is submitted, and one that comes again."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, NamedTuple, get_args

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from mlbox.errors import NotAuthorised
from mlbox.records import Cron, Job, JobSpec, Priority
from mlbox.web.pages.view import View, part

LOOKED_BACK = 200
"""Jobs among which the form looks for code that was sent before."""
MOST_CODES = 30
MOST_DATASETS = MOST_EXPERIMENTS = 200
CODE = ("snapshot", "workdir", "environment", "git_commit", "git_diff")
"""The fields of a job that say what its code is."""
OVERLAPS = {"skip": "leave the new one out", "queue": "queue the new one", "replace": "stop the last one"}
MISFIRES = {"once": "submit one job for all of them", "skip": "leave them out"}


class Code(NamedTuple):
    """Code that is on the box already."""

    fields: dict[str, Any]
    """Those of a job that say so."""
    words: str
    chosen: bool


def _code(spec: JobSpec) -> dict[str, Any]:
    return {name: value for name in CODE if (value := getattr(spec, name))}


def codes(jobs: list[Job], spec: JobSpec) -> list[Code]:
    """What was sent before, once each, the newest first; by commit where there is one."""
    found: dict[str, Code] = {}
    own = _code(spec)
    if own:
        found[str(own)] = Code(own, _words(spec, "as it was"), True)
    for job in jobs:
        fields = _code(job.spec)
        if job.spec.snapshot and len(found) < MOST_CODES:
            name = job.spec.name or job.id[-8:]
            found.setdefault(str(fields), Code(fields, _words(job.spec, f"of {name}"), False))
    return list(found.values())


def _words(spec: JobSpec, whose: str) -> str:
    if spec.git_commit:
        return f"commit {spec.git_commit[:10]}{', with changes' if spec.git_diff else ''}, {whose}"
    return f"code {(spec.snapshot or '')[:10]}, {whose}"


def job_form(view: View, spec: JobSpec) -> dict[str, Any]:
    """What the fields of a job are filled with, and chosen from."""
    box = view.box
    return {
        "spec": spec,
        "command": shlex.join(spec.command),
        "hyperparameters": _lines(spec.hyperparameters),
        "env": _lines(spec.env),
        "teams": [team.name for team in box.teams.teams() if view.may("member", team=team.name)],
        "queues": part(lambda: [queue.name for queue in box.sharing.queues()]).value or [],
        "priorities": get_args(Priority),
        "codes": codes(box.scheduler.jobs(limit=LOOKED_BACK), spec),
        "known": part(lambda: [one.ref for one in box.datasets.versions(limit=MOST_DATASETS)]).value or [],
        "experiments": part(lambda: [one.name for one in box.tracker.experiments()][:MOST_EXPERIMENTS]).value or [],
        "rest": _rest(spec),
    }


def _lines(pairs: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in pairs.items())


SHOWN = {
    *("command", "name", "team", "env", "gpus", "cpus", "memory_gb", "queue", "priority", "retries", "timeout_seconds"),
    *("hyperparameters", "datasets", "experiment", *CODE),
}
"""The fields of a job that have one in the form."""


def _rest(spec: JobSpec) -> dict[str, Any]:
    """What an earlier job asked for and the form has no field for: it stays as it was. A new job draws a seed of its own."""
    kept = msgspec.to_builtins(spec)
    fresh = msgspec.to_builtins(JobSpec(command=()))
    return {name: value for name, value in kept.items() if name not in {*SHOWN, "seed"} and value != fresh[name]}


def _new_job(view: View, from_: str | None) -> dict[str, Any]:
    job = view.box.scheduler.find(from_) if from_ else None
    return {"job": job, "form": job_form(view, job.spec if job else _empty(view))}


def _empty(view: View) -> JobSpec:
    teams = [team.name for team in view.box.teams.teams() if view.may("member", team=team.name)]
    return JobSpec(command=(), team="everyone" if "everyone" in teams else teams[0] if teams else "everyone")


@get("/jobs/new", include_in_schema=False, action="job.submit")
async def new_job(view: View, from_: Annotated[str | None, QueryParameter(name="from")] = None) -> Response[bytes]:
    """The form of a job, filled with an earlier one where one is named."""
    return await view.page("job_new.html", lambda: _new_job(view, from_))


# -- what comes again ---------------------------------------------------------------------------------------------------


def _cron(view: View, cron: Cron | None, from_: str | None) -> dict[str, Any]:
    if cron is not None and (view.principal is None or cron.owner != view.principal.name):
        raise NotAuthorised(
            f"The cron {cron.spec.name} is {cron.owner}'s, in whose name its jobs are submitted.",
            hint="Add one of your own instead.",
        )
    spec = cron.spec.job if cron else view.box.scheduler.find(from_).spec if from_ else _empty(view)
    return {"cron": cron, "overlaps": OVERLAPS, "misfires": MISFIRES, "form": job_form(view, spec)}


@get("/crons/new", include_in_schema=False, action="cron.add")
async def new_cron(view: View, from_: Annotated[str | None, QueryParameter(name="from")] = None) -> Response[bytes]:
    """The form of a cron, its job filled with an earlier one where one is named."""
    return await view.page("cron_form.html", lambda: _cron(view, None, from_))


@get("/crons/{cron:str}/edit", include_in_schema=False, action="cron.change")
async def edit_cron(view: View, cron: str) -> Response[bytes]:
    """The form of a cron as it is."""
    return await view.page("cron_form.html", lambda: _cron(view, view.box.crons.crons.get(cron), None))


handlers: list[Any] = [new_job, new_cron, edit_cron]
