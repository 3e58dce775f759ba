"""Crons over HTTP: jobs that come again."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import delete, get, post, put
from litestar.params import Parameter

from mlbox.errors import NotAuthorised, NotFound
from mlbox.records import Cron, CronSpec, CronTrigger, Firing, Principal, Record
from mlbox.store.cron_times import in_words
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]
MOST_TIMES = 50


class Preview(Record, frozen=True, kw_only=True):
    """What a schedule asks for."""

    words: str
    times: list[str]
    """The next times, UTC."""


@get("/api/v1/crons", action="cron.read")
async def list_crons(box: Box, limit: Limit = 100, after: str = "") -> list[Cron]:
    """Crons of your teams, oldest first."""
    return await box.call(box.crons.crons.page, limit=limit, after=after)


@post("/api/v1/crons", action="cron.add")
async def add_cron(box: Box, principal: Principal, data: CronSpec) -> Cron:
    """Submit a job again and again, by time or when something happens. Everything it names is checked now, and each time."""
    await _check_spec(box, principal, data)
    return await box.call(box.crons.add, data, owner=principal.name)


@put("/api/v1/crons/{cron:str}", action="cron.change")
async def change_cron(box: Box, principal: Principal, cron: str, data: CronSpec) -> Cron:
    """Put another schedule or job in a cron's place; its owner may, in whose name its jobs are submitted."""
    found = await box.call(box.crons.crons.get, cron)
    if found.owner != principal.name:
        raise NotAuthorised(
            f"The cron {found.spec.name} is {found.owner}'s, in whose name its jobs are submitted.",
            hint="Add one of your own instead.",
        )
    await _check_spec(box, principal, data)
    return await box.call(box.crons.change, found.id, data, actor=principal.name)


async def _check_spec(box: Box, principal: Principal, spec: CronSpec) -> None:
    box.teams.require(principal, "cron.add", team=spec.job.team)
    await box.call(box.admission.check, spec.job, principal)
    if spec.on is not None and spec.on.name:
        await box.call(_check_trigger, box, spec.on)


def _check_trigger(box: Box, on: CronTrigger) -> None:
    """Raise NotFound for what there is not yet, or not for whoever asks: a cron on a misspelt name would wait for ever."""
    try:
        if on.kind == "dataset":
            box.datasets.version(on.name)
        else:
            box.registry.model(on.name)
    except NotFound as err:
        err.field = "on"  # of the cron, whatever the store calls it
        raise


@get("/api/v1/crons/preview", action="cron.read")
async def preview(
    box: Box,
    schedule: str,
    timezone: str = "UTC",
    count: Annotated[int, Parameter(ge=1, le=MOST_TIMES)] = 5,
) -> Preview:
    """The next times that a schedule asks for."""
    times = await box.call(box.crons.preview, schedule, timezone, count)
    return Preview(words=in_words(schedule), times=times)


@get("/api/v1/crons/{cron:str}", action="cron.read")
async def get_cron(box: Box, cron: str) -> Cron:
    """One cron, by name or id."""
    return await box.call(box.crons.crons.get, cron)


@get("/api/v1/crons/{cron:str}/firings", action="cron.read")
async def firings(box: Box, cron: str, limit: Limit = 100, before: str = "~") -> list[Firing]:
    """The times that a cron asked for its job, newest first, and what came of each."""
    return await box.call(box.crons.crons.firings, cron, limit=limit, before=before)


@post("/api/v1/crons/{cron:str}/pause", status_code=200, action="cron.change")
async def pause(box: Box, principal: Principal, cron: str) -> Cron:
    """Let a cron rest."""
    await _check_whose(box, principal, cron)
    return await box.call(box.crons.pause, cron, True, actor=principal.name)


@post("/api/v1/crons/{cron:str}/resume", status_code=200, action="cron.change")
async def resume(box: Box, principal: Principal, cron: str) -> Cron:
    """Let a cron go on."""
    await _check_whose(box, principal, cron)
    return await box.call(box.crons.pause, cron, False, actor=principal.name)


@post("/api/v1/crons/{cron:str}/fire", status_code=200, action="cron.change")
async def fire(box: Box, principal: Principal, cron: str) -> Firing:
    """Ask for a cron's job now."""
    await _check_whose(box, principal, cron)
    return await box.call(box.crons.fire, cron, actor=principal.name)


@delete("/api/v1/crons/{cron:str}", action="cron.change")
async def remove(box: Box, principal: Principal, cron: str) -> None:
    """Forget a cron; its jobs stay."""
    await _check_whose(box, principal, cron)
    await box.call(box.crons.crons.remove, cron, actor=principal.name)


async def _check_whose(box: Box, principal: Principal, name: str) -> None:
    """Of another's cron an admin of the team may dispose."""
    cron = await box.call(box.crons.crons.get, name)
    if cron.owner != principal.name:
        box.teams.require(principal, "cron.change-any", team=cron.spec.job.team)


handlers: list[Any] = [list_crons, add_cron, change_cron, preview, get_cron, firings, pause, resume, fire, remove]
