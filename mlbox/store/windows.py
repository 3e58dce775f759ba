"""Windows of the week as people write them: `mon-fri 09:00-18:00`, `sat,sun`, `daily 22:00-06:00`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import time
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlbox.errors import InvalidInput

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", re.ASCII)
_HINT = "Write it like `mon-fri 09:00-18:00`, `sat,sun` or `daily 22:00-06:00`."


class WeekWindow(NamedTuple):
    """A part of some days, by the clock on the wall; past midnight where the end is not after the start."""

    days: frozenset[int]
    """On which it begins: 0 is Monday."""
    start: time
    end: time

    def __str__(self) -> str:
        """As it is written, in the one form that this module writes."""
        days = "daily" if len(self.days) == 7 else ",".join(_runs(sorted(self.days)))
        end = "24:00" if self.end == time(0) else f"{self.end:%H:%M}"
        return days if self.start == self.end == time(0) else f"{days} {self.start:%H:%M}-{end}"


def parse_window(text: str, *, field: str = "windows") -> WeekWindow:
    """A window from its text; raises InvalidInput."""
    days, _, hours = " ".join(text.lower().split()).partition(" ")
    start, end = _parse_hours(hours, text, field) if hours else (time(0), time(0))
    return WeekWindow(_parse_days(days, text, field), start, end)


def check_zone(name: str, *, field: str = "zone") -> str:
    """The name of a time zone that this machine knows; raises InvalidInput."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise InvalidInput(
            f"There is no time zone {name!r:.80}.", hint="Give one such as Europe/Berlin or UTC.", field=field
        ) from err
    return name


def _parse_days(text: str, whole: str, field: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise InvalidInput(f"The window {whole!r:.80} names no days: {part!r:.20}.", hint=_HINT, field=field)
        at, to = DAYS.index(first), DAYS.index(last if dash else first)
        found.update(day % 7 for day in range(at, (to if to >= at else to + 7) + 1))
    return frozenset(found)


def _parse_hours(text: str, whole: str, field: str) -> tuple[time, time]:
    match = _HOURS.fullmatch(text)
    start = _moment(match[1], match[2]) if match else None
    end = _moment(match[3], match[4], last=True) if match else None
    if start is None or end is None:
        raise InvalidInput(f"The window {whole!r:.80} has no such hours: {text!r:.40}.", hint=_HINT, field=field)
    return start, end


def _moment(hour: str, minute: str, *, last: bool = False) -> time | None:
    if last and (hour, minute) == ("24", "00"):
        return time(0)
    return time(int(hour), int(minute)) if int(hour) < 24 and int(minute) < 60 else None


def _runs(days: Iterable[int]) -> list[str]:
    """Days as `mon-fri` and `sun`: those that follow each other together."""
    groups: list[list[int]] = []
    for day in days:
        if groups and groups[-1][-1] == day - 1:
            groups[-1].append(day)
        else:
            groups.append([day])
    return [DAYS[group[0]] if len(group) == 1 else f"{DAYS[group[0]]}-{DAYS[group[-1]]}" for group in groups]
