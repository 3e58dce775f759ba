"""The overview: what serves, what runs, what waits for someone, what happened."""

from __future__ import annotations

from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.records import AlertGroup, Endpoint, Event, ModelVersion
from mlbox.serve.alerts.alert_groups import grouped
from mlbox.web.box import Box
from mlbox.web.pages.jobs import held_gpus
from mlbox.web.pages.phrases import without_echo
from mlbox.web.pages.view import View, part

RECENT = 12
READ = 200
"""Events that are read to show so many: those of one kind in a row show as one."""
SHOWN = 12
"""Models in Production, and promotions, that are shown."""
GROUPS = 6
"""Models, or views, whose alerts are shown."""
FIRING = 1000
LINE, RUNS = 3, 6
"""Jobs that wait, and runs, that are shown."""


class Served(NamedTuple):
    """A version in Production and its traffic."""

    version: ModelVersion
    endpoint: Endpoint | None
    predictions: int
    errors: int


def served(box: Box) -> list[Served]:
    """What is in Production, with what was answered since the server started, shadows aside."""
    endpoints = {endpoint.model: endpoint for endpoint in box.rollouts.endpoints()}
    totals: dict[str, tuple[int, int]] = {}
    for (model, _, role), (rows, errors) in box.predictions.counters().items():
        if role != "shadow":
            before = totals.get(model, (0, 0))
            totals[model] = (before[0] + rows, before[1] + errors)
    return [
        Served(version, endpoints.get(version.model), *totals.get(version.model, (0, 0)))
        for version in box.registry.in_stage("Production")
    ]


def firing(box: Box) -> list[AlertGroup]:
    """The alerts that fire, by model, the worst first."""
    return grouped(box.monitor.alerts(state="firing", limit=FIRING), box.rules)


def _fetch(box: Box) -> dict[str, Any]:
    promotions = part(box.promotions.open)
    fleet = part(box.health.fleet).value or ()
    worst = {one.model: place for place, one in enumerate(fleet)}
    return {
        "served": part(lambda: sorted(served(box), key=lambda row: worst.get(row.version.model, len(worst)))),
        "shown": SHOWN,
        "jobs": part(box.scheduler.counts),
        "alerts": part(lambda: firing(box)),
        "shown_groups": GROUPS,
        "promotions": promotions,
        "waiting": sum(p.state == "waiting_approval" for p in promotions.value or ()),
        "health": {one.model: one for one in fleet},
        "gpus": part(lambda: held_gpus(box)),
        "line": part(lambda: box.scheduler.line(limit=LINE)).value or [],
        "runs": part(lambda: box.tracker.runs(limit=RUNS)),
        "events": part(lambda: _happened(box)),
        "is_new": _is_new(box),
    }


def _happened(box: Box) -> list[tuple[Event, int]]:
    """The newest events that say something of their own."""
    events = box.events(limit=READ)
    runs = {event.subject.removeprefix("run:") for event in events if event.subject.startswith("run:")}
    known = part(lambda: box.tracker.by_ids([*runs])).value or ()
    return without_echo(events, RECENT, runs={run.id for run in known if run.job_id})


def _is_new(box: Box) -> bool:
    """Nothing was declared, run or registered yet: say how to begin."""
    found = part(
        lambda: box.features.declarations(limit=1) or box.tracker.runs(limit=1) or box.registry.models(limit=1)
    )
    return found.error is None and not found.value


@get("/", include_in_schema=False, action="box.read")
async def overview(view: View) -> Response[bytes]:
    """The first page."""
    return await view.page("overview.html", lambda: _fetch(view.box))


handlers: list[Any] = [overview]
