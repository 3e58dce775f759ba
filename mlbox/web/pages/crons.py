"""Crons: the jobs that come again, when they will, and what came of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from litestar import Response, get

from mlbox.records import Cron
from mlbox.store.cron_times import in_words, next_times
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page

NEXT_TIMES = 5
MOST_FIRINGS = 50


def _when(cron: Cron) -> str:
    """What asks for its job, in words."""
    if cron.spec.schedule:
        return in_words(cron.spec.schedule)
    on = cron.spec.on
    if on is None:
        return "when somebody asks for it"
    return f"after each new version of {on.name}" if on.kind == "dataset" else f"after an alert of {on.name}"


def _times(cron: Cron, now: datetime) -> list[datetime]:
    """Its next times; none of one that is paused, or that no schedule asks for."""
    if cron.paused or not cron.spec.schedule:
        return []
    return next_times(cron.spec.schedule, now, NEXT_TIMES, timezone=cron.spec.timezone)


def _may_change(view: View, cron: Cron) -> bool:
    mine = view.principal is not None and cron.owner == view.principal.name
    return view.may("member" if mine else "admin", team=cron.spec.job.team)


def _list(view: View, after: str | None) -> dict[str, Any]:
    found = view.box.crons.crons.page(limit=PAGE_SIZE + 1, after=after or "")
    shown, last = keyset(found, PAGE_SIZE, lambda cron: cron.id)
    return {
        "crons": [(cron, _when(cron), _may_change(view, cron)) for cron in shown],
        "next": next_page(view, last),
        "may_add": view.may_somewhere("member"),
    }


@get("/crons", include_in_schema=False, action="cron.read")
async def crons(view: View, after: str | None = None) -> Response[bytes]:
    """The crons of one's teams, oldest first."""
    return await view.page("crons.html", lambda: _list(view, after))


def _cron(view: View, name: str) -> dict[str, Any]:
    cron = view.box.crons.crons.get(name)
    return {
        "cron": cron,
        "when": _when(cron),
        "times": _times(cron, view.box.clock.real()),
        "firings": view.box.crons.crons.firings(cron.id, limit=MOST_FIRINGS),
        "may_change": _may_change(view, cron),
        "is_own": view.principal is not None and cron.owner == view.principal.name,
    }


@get("/crons/{cron:str}", include_in_schema=False, action="cron.read")
async def cron(view: View, cron: str) -> Response[bytes]:
    """One cron, by name or id: its next times, and what came of the last ones."""
    return await view.page("cron.html", lambda: _cron(view, cron))


handlers: list[Any] = [crons, cron]
