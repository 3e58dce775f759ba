"""When a cron expression asks for something: five fields, in a time zone, by real time.

Weekdays count as cron counts them (0 and 7 are Sunday). Where clocks change, Debian's cron is followed: what falls into the hour
that is left out comes right after it, what falls into the hour that comes twice comes once, and `*` in hours or minutes follows
the time that passes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from mlbox.errors import InvalidInput

FIELDS = 5


def next_after(expression: str, moment: datetime, *, timezone: str = "UTC", field: str = "schedule") -> datetime:
    """The first time after a moment that it asks for, in UTC; raises InvalidInput for what is none, or never comes."""
    found = next(_times(expression, moment, timezone, field), None)
    if found is None:
        raise _never(expression, "no such day within 50 years", field)
    return found.astimezone(UTC)


def next_times(expression: str, moment: datetime, count: int, *, timezone: str = "UTC") -> list[datetime]:
    """The first times after a moment that it asks for, in UTC; raises as `next_after` does."""
    found: list[datetime] = []
    while len(found) < count:
        moment = next_after(expression, moment, timezone=timezone)
        found.append(moment)
    return found


def in_words(expression: str) -> str:
    """An expression in English; raises InvalidInput."""
    return str(_times(expression, datetime(2026, 1, 1, tzinfo=UTC), "UTC", "schedule").explain())


def _never(expression: str, why: str, field: str) -> InvalidInput:
    return InvalidInput(f"{expression!r:.80} never comes: {why}.", hint="Check day and month.", field=field)


def _is_sound(expression: str) -> bool:
    try:
        CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _times(expression: str, moment: datetime, timezone: str, field: str) -> CronSim:
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise InvalidInput(
            f"{timezone!r:.80} is no time zone.", hint="Name one as Europe/Berlin, or UTC.", field="timezone"
        ) from err
    fields = expression.split()
    try:
        if len(fields) != FIELDS:
            raise CronSimError(f"it has {len(fields)} field{'s' * (len(fields) != 1)}")
        return CronSim(expression, moment.astimezone(zone))
    except CronSimError as err:
        if (
            len(fields) == FIELDS
            and _is_sound(" ".join((*fields[:3], "*", fields[4])))
            and _is_sound(f"* * * {fields[3]} *")
        ):
            raise _never(expression, "none of its months has such a day", field) from err
        raise InvalidInput(
            f"{expression!r:.80} is no schedule: {err}.",
            hint="Write a cron expression of five fields: minute, hour, day, month, weekday; as '5 * * * *'.",
            field=field,
        ) from err
