"""Windows of the week in a time zone, right on the days when the clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from mlbox.scheduler.policy.types import Window

_DAY = timedelta(days=1)


def span(window: Window, now: datetime) -> tuple[datetime, datetime] | None:
    """From when until when the window is open, if it is open now."""
    today = now.astimezone(ZoneInfo(window.zone)).date()
    for day in (today - _DAY, today):
        if day.weekday() in window.days:
            opens, closes = _opening(window, day)
            if opens <= now < closes:
                return opens, closes
    return None


def next_change(window: Window, now: datetime) -> datetime | None:
    """When it opens or closes next."""
    return min(changes(window, now, now + 9 * _DAY), default=None)


def changes(window: Window, after: datetime, until: datetime) -> list[datetime]:
    """When it opens and closes between two moments."""
    zone = ZoneInfo(window.zone)
    first, last = after.astimezone(zone).date() - _DAY, until.astimezone(zone).date()
    days = [first + count * _DAY for count in range((last - first).days + 1)]
    moments = [moment for day in days if day.weekday() in window.days for moment in _opening(window, day)]
    return [moment for moment in moments if after < moment <= until]


@lru_cache(4096)
def _opening(window: Window, day: date) -> tuple[datetime, datetime]:
    last = day if window.end > window.start else day + _DAY
    return _instant(day, window.start, window.zone), _instant(last, window.end, window.zone)


def _instant(day: date, at: time, zone: str) -> datetime:
    """When clocks first show this time; where they skip it in spring, the moment at which they do."""
    place = ZoneInfo(zone)
    wall = datetime.combine(day, at)
    found = wall.replace(tzinfo=place).astimezone(UTC)
    if found.astimezone(place).replace(tzinfo=None) == wall:
        return found
    before = wall.replace(tzinfo=place, fold=1).astimezone(UTC)
    offset = before.astimezone(place).utcoffset()
    while found - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(found - before) // timedelta(seconds=1) // 2)
        if middle.astimezone(place).utcoffset() == offset:
            before = middle
        else:
            found = middle
    return found
