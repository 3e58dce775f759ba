"""Amounts as people write them: `2h30m`, `32GB`, `10m` ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mlbox.clock import parse_time
from mlbox.errors import InvalidInput

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|[mMgGtT])(?:i?[bB])?")
_GB = {"": 1.0, "m": 1 / 1024, "g": 1.0, "t": 1024.0}


def seconds(text: str, *, field: str) -> float:
    """`90`, `45s`, `2h30m` or `1d` as seconds; raises InvalidInput."""
    try:
        return float(text)
    except ValueError:
        found = _SPAN.fullmatch(text)
    if not text or found is None:
        raise InvalidInput(f"{text!r} is no duration.", hint="Write it like 90, 45s, 2h30m or 1d.", field=field)
    days, hours, minutes, rest = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def gigabytes(text: str, *, field: str) -> float:
    """`32`, `32GB` or `512MB` in GiB; units count in 1024s; raises InvalidInput."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r} is no amount of memory.", hint="Write it like 32, 32GB or 512MB.", field=field)
    return float(found[1]) * _GB[found[2].lower()]


def moment(text: str, *, field: str) -> datetime:
    """A time, or how long ago; raises InvalidInput."""
    if re.fullmatch(r"\d+[dhms\d]*", text) and "-" not in text:
        try:
            return datetime.now(UTC) - timedelta(seconds=seconds(text, field=field))
        except OverflowError as err:
            raise InvalidInput(f"{text} ago is before all time.", hint="Give less.", field=field) from err
    return parse_time(text, field=field)
