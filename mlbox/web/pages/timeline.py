"""The timeline: what each GPU did over time, and what ran without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from litestar import Response, get

from mlbox.errors import InvalidInput
from mlbox.records import AttemptSpan, Gpu
from mlbox.store.jobs.timeline import MOST
from mlbox.web.pages.form import kind, span, words
from mlbox.web.pages.view import View

SPANS = {1: "hour", 6: "6 hours", 24: "24 hours", 168: "7 days"}
TICKS_MINUTES = (1, 2, 5, 10, 30, 60, 180, 360, 1440)
MOST_TICKS = 14
LEFT, RIGHT, WIDTH, LANE, GAP, TOP = 120, 18, 1100, 22, 8, 26
"""Pixels: names on the left, half a tick on the right, the whole, a lane with its distance, between devices, the axis."""
MOST_LANES = 12
LETTER = 7
NO_GPU = "no GPU"
COLUMNS = ("device", "job", "name", "attempt", "user", "outcome", "began", "ended")


class Bar(NamedTuple):
    """One attempt on one device."""

    x: float
    y: int
    width: float
    kind: str
    text: str
    """What there is room for."""
    title: str
    href: str | None
    cells: tuple[str | int | None, ...]
    """What it stands for, in the order of COLUMNS."""


class Tick(NamedTuple):
    """A whole hour, or whatever the axis counts in, as UTC has it: the page writes it by the viewer's clock."""

    x: float
    text: str
    at: str
    by: Literal["day", "minute"]


class Device(NamedTuple):
    """A device's name and where its lanes begin and end."""

    name: str
    y: int
    height: int
    hidden: int
    """Attempts that there was no lane for."""


class Drawing(NamedTuple):
    """The timeline in pixels."""

    width: int
    height: int
    left: int
    devices: tuple[Device, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    columns: tuple[str, ...]


def lanes(attempts: Iterable[tuple[datetime, datetime]]) -> list[int]:
    """A lane for each attempt, from 0: the first that is free. No two of a lane overlap."""
    free_at: list[datetime] = []
    found = []
    for start, end in attempts:
        lane = next((at for at, free in enumerate(free_at) if free <= start), len(free_at))
        free_at[lane : lane + 1] = [end]
        found.append(lane)
    return found


def draw(attempts: Sequence[AttemptSpan], gpus: Sequence[Gpu], since: datetime, until: datetime) -> Drawing:
    """Bars by device: the GPUs there are, those that are gone, and what ran without one."""
    names = {gpu.uuid: f"GPU {gpu.label}" for gpu in gpus}
    held: dict[str, list[AttemptSpan]] = {name: [] for name in names}
    for one in sorted(attempts, key=lambda one: (one.started_at, one.number)):
        for device in one.devices or ("",):
            held.setdefault(device, []).append(one)
    devices: list[Device] = []
    bars: list[Bar] = []
    y = TOP
    for device, spans in held.items():
        placed = lanes((one.started_at, one.ended_at or until) for one in spans)
        height = LANE * min(max(placed, default=0) + 1, MOST_LANES)
        shown = [(one, lane) for one, lane in zip(spans, placed, strict=True) if lane < MOST_LANES]
        name = names.get(device) or (NO_GPU if not device else f"{device[:10]} (gone)")
        bars += [_bar(one, name, y + lane * LANE, since, until) for one, lane in shown]
        devices.append(Device(name, y, height, len(spans) - len(shown)))
        y += height + GAP
    return Drawing(WIDTH, y, LEFT, tuple(devices), tuple(bars), _ticks(since, until), COLUMNS)


def _x(moment: datetime, since: datetime, until: datetime) -> float:
    share = (moment - since) / (until - since)
    return round(LEFT + (WIDTH - LEFT - RIGHT) * min(max(share, 0.0), 1.0), 1)


def _bar(one: AttemptSpan, device: str, y: int, since: datetime, until: datetime) -> Bar:
    x, end = _x(one.started_at, since, until), _x(one.ended_at or until, since, until)
    width = max(end - x, 2)
    name = (one.name or one.job[-8:]) if one.job else "another team's"
    took = span((one.ended_at or until) - one.started_at)
    room = int((width - 10) / LETTER)
    text = name if len(name) <= room else f"{name[: room - 1]}…" if room > 3 else ""
    title = f"{name}, attempt {one.number}: {words(one.outcome)}, {took}" + (f", {one.user}" if one.user else "")
    ended = one.ended_at.isoformat() if one.ended_at else None
    cells = (device, one.job, name, one.number, one.user, one.outcome, one.started_at.isoformat(), ended)
    return Bar(x, y, width, kind(one.outcome), text, title, f"/jobs/{one.job}" if one.job else None, cells)


def _ticks(since: datetime, until: datetime) -> tuple[Tick, ...]:
    whole = (until - since) / timedelta(minutes=1)
    step = timedelta(minutes=next((each for each in TICKS_MINUTES if whole / each <= MOST_TICKS), TICKS_MINUTES[-1]))
    zero = datetime(since.year, since.month, since.day, tzinfo=UTC)
    at = zero + step * ((since - zero) // step + 1)
    found = []
    by: Literal["day", "minute"] = "day" if step >= timedelta(days=1) else "minute"
    while at < until:
        found.append(Tick(_x(at, since, until), at.strftime("%d %b" if by == "day" else "%H:%M"), at.isoformat(), by))
        at += step
    return tuple(found)


def _fetch(view: View, hours: int) -> dict[str, Any]:
    if hours not in SPANS:
        raise InvalidInput(
            f"{hours} hours cannot be shown.", hint=f"One of {', '.join(map(str, SPANS))}.", field="hours"
        )
    until = view.box.clock.real()
    since = until - timedelta(hours=hours)
    attempts = view.box.timeline.attempts(since, until)
    if attempts:  # a box that has just begun to work shows that, and not the silence before
        since = max(since, min(one.started_at for one in attempts) - timedelta(minutes=1))
    return {
        "hours": hours,
        "spans": SPANS,
        "attempts": len(attempts),
        "most": MOST,
        "drawn": draw(attempts, view.box.scheduler.gpus(), since, until),
    }


@get("/timeline", include_in_schema=False, action="job.read")
async def timeline(view: View, hours: int = 24) -> Response[bytes]:
    """What ran on each device over the last hours, with every preemption and retry as a bar of its own."""
    return await view.page("timeline.html", lambda: _fetch(view, hours))


handlers: list[Any] = [timeline]
