"""Adoption: who is active, how soon a newcomer trains and deploys, and how many GPU-hours the weeks have taken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.records import User
from mlbox.store.access.adoption import WEEK
from mlbox.web.pages.view import View

WEEKS = 12


class Week(NamedTuple):
    """One week, from Monday, UTC."""

    start: datetime
    active: int
    gpu_hours: float
    jobs: int


class Person(NamedTuple):
    """How long somebody took, from the day on which the account was made."""

    name: str
    added: datetime
    first_job: timedelta | None
    first_deployment: timedelta | None


def weeks_until(now: datetime, count: int) -> list[datetime]:
    """The Mondays on which the last weeks began, the present one last."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    return [monday - back * WEEK for back in reversed(range(count))]


def _weeks(view: View, people: set[str], now: datetime) -> list[Week]:
    starts = weeks_until(now, WEEKS)
    found = []
    for start, active in zip(starts, view.box.adoption.active(starts), strict=True):
        used = view.box.sharing.used(start, min(start + WEEK, now))
        found.append(
            Week(start, len(active & people), sum(row.gpu_hours for row in used), sum(row.jobs for row in used))
        )
    return found


def _people(view: View, users: list[User]) -> list[Person]:
    jobs, deployments = view.box.adoption.first_jobs(), view.box.adoption.first_deployments()

    def took(firsts: dict[str, datetime], user: User) -> timedelta | None:
        return max(firsts[user.name] - user.created_at, timedelta(0)) if user.name in firsts else None

    return [Person(user.name, user.created_at, took(jobs, user), took(deployments, user)) for user in users]


def _middle(times: list[timedelta | None]) -> timedelta | None:
    known = [time.total_seconds() for time in times if time is not None]
    return timedelta(seconds=median(known)) if known else None


def _line(weeks: list[Week], field: str, label: str) -> dict[str, Any]:
    points = [(week.start.timestamp(), getattr(week, field)) for week in weeks]
    return {"x": "week", "time": True, "zero": True, "series": [{"label": label, "points": points}]}


def _fetch(view: View) -> dict[str, Any]:
    now = view.box.clock.real()
    users = [user for user in view.box.access.users() if user.kind == "person"]
    weeks, people = _weeks(view, {user.name for user in users}, now), _people(view, users)
    return {
        "weeks": weeks[::-1],
        "people": people,
        "to_job": _middle([person.first_job for person in people]),
        "to_deployment": _middle([person.first_deployment for person in people]),
        "charts": [
            ("People active each week", _line(weeks, "active", "people")),
            ("GPU-hours each week", _line(weeks, "gpu_hours", "GPU-hours")),
        ],
    }


@get("/admin/adoption", include_in_schema=False, action="adoption.read")
async def adoption(view: View) -> Response[bytes]:
    """How the box is taken up."""
    return await view.page("adoption.html", lambda: _fetch(view))


handlers: list[Any] = [adoption]
