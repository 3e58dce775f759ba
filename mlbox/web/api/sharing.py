"""How the box is shared, over HTTP: queues, quotas, weights, and what was used."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import delete, get, put
from litestar.params import QueryParameter

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import JobQueue, Principal, Record, TeamQuota, TeamWeight, UsageRow
from mlbox.scheduler.rulebook import shown
from mlbox.web.box import Box

USAGE_DAYS = 7


class QueueLimits(Record, frozen=True, kw_only=True):
    """What a queue is to be."""

    weight: float = 1.0
    max_gpus: float | None = None
    max_running: int | None = None
    slice_minutes: float | None = None


class QuotaLimits(Record, frozen=True, kw_only=True):
    """What a team may hold: a number of GPUs or a share of them, always or in windows."""

    gpus: float | None = None
    share: float | None = None
    windows: tuple[str, ...] = ()
    zone: str = "UTC"
    borrowable: bool = False


class Weight(Record, frozen=True, kw_only=True):
    """How much of the box a team gets beside others."""

    weight: float


@get("/api/v1/queues", action="quota.read")
async def list_queues(box: Box) -> list[JobQueue]:
    """All queues by name, with how many jobs wait and run in each."""
    return await box.call(box.sharing.queues)


@get("/api/v1/queues/{name:str}", action="quota.read")
async def get_queue(box: Box, name: str) -> JobQueue:
    """One queue."""
    return await box.call(box.sharing.queue, name)


@put("/api/v1/queues/{name:str}", action="quota.set")
async def set_queue(box: Box, principal: Principal, name: str, data: QueueLimits) -> JobQueue:
    """Make a queue, or change one: what is not given has its default."""
    queue = JobQueue(name=name, **msgspec.structs.asdict(data))
    return await box.call(box.sharing.set_queue, queue, actor=principal.name)


@delete("/api/v1/queues/{name:str}", action="quota.set")
async def remove_queue(box: Box, principal: Principal, name: str) -> None:
    """Take a queue away in which no job waits or runs."""
    await box.call(box.sharing.remove_queue, name, actor=principal.name)


@get("/api/v1/quotas", action="quota.read")
async def list_quotas(box: Box, team: str | None = None) -> list[TeamQuota]:
    """All quotas, or a team's, and whether each counts now."""
    found = await box.call(box.sharing.quotas, team)
    return [shown(quota, box.clock.real()) for quota in found]


@put("/api/v1/quotas/{team:str}/{quota:str}", action="quota.set")
async def set_quota(box: Box, principal: Principal, team: str, quota: str, data: QuotaLimits) -> TeamQuota:
    """Say what a team may hold; a quota of the same name is replaced."""
    await box.call(box.teams.team, team)
    wanted = TeamQuota(team=team, name=quota, **msgspec.structs.asdict(data))
    return shown(await box.call(box.sharing.set_quota, wanted, actor=principal.name), box.clock.real())


@delete("/api/v1/quotas/{team:str}/{quota:str}", action="quota.set")
async def remove_quota(box: Box, principal: Principal, team: str, quota: str) -> None:
    """Take a quota away."""
    await box.call(box.sharing.remove_quota, team, quota, actor=principal.name)


@get("/api/v1/team-weights", action="quota.read")
async def list_weights(box: Box) -> list[TeamWeight]:
    """The teams whose weight in fair share is not 1."""
    return await box.call(box.sharing.weights)


@put("/api/v1/team-weights/{team:str}", action="quota.set")
async def set_weight(box: Box, principal: Principal, team: str, data: Weight) -> TeamWeight:
    """Say how much of the box a team gets beside others that want it, too."""
    await box.call(box.teams.team, team)
    return await box.call(box.sharing.set_weight, team, data.weight, actor=principal.name)


@get("/api/v1/usage", action="quota.read")
async def usage(
    box: Box,
    since: Annotated[str | None, QueryParameter(description="ISO 8601 with a zone; 7 days ago when not given.")] = None,
    until: Annotated[str | None, QueryParameter(description="Now when not given.")] = None,
) -> list[UsageRow]:
    """GPU-hours and CPU-hours of each team and person in a period, most first; of other teams only the sum."""
    now = box.clock.real()
    last = min(now, parse_time(until, field="until")) if until else now
    first: datetime = parse_time(since, field="since") if since else now - timedelta(days=USAGE_DAYS)
    if first > last:
        raise InvalidInput("The period ends before it begins.", hint="Give a since before until.", field="since")
    return await box.call(box.sharing.used, first, last)


handlers: list[Any] = [
    *(list_queues, get_queue, set_queue, remove_queue, list_quotas, set_quota, remove_quota),
    *(list_weights, set_weight, usage),
]
