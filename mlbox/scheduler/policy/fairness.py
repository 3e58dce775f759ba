"""Fair share: what each team and each queue has used of late."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mlbox.scheduler.policy.types import Usage

FORGOTTEN = 1.0
"""Fewer GPU-seconds than this are nothing any more."""


def decay(usage: Usage, now: datetime, half_life_seconds: float) -> Usage:
    """The same usage, seen from a later moment; an earlier one (a clock set back) changes nothing."""
    passed = (now - usage.at).total_seconds()
    if passed <= 0:
        return usage
    factor = 0.5 ** (passed / half_life_seconds)
    return Usage(now, {name: value * factor for name, value in usage.seconds.items() if value * factor >= FORGOTTEN})


def charge(usage: Usage, spent: Mapping[str, float], now: datetime, half_life_seconds: float) -> Usage:
    """Add the GPU-seconds that were spent by now since the last charge, to what is left of the earlier ones."""
    left = decay(usage, now, half_life_seconds)
    seconds = dict(left.seconds)
    for name, value in spent.items():
        seconds[name] = seconds.get(name, 0.0) + value
    return Usage(left.at, seconds)
