"""Fair share: what each team and each queue has used of late."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from math import log
from typing import Literal

from mlbox.scheduler.policy.capacity import cost
from mlbox.scheduler.policy.types import Box, Running, Usage

FORGOTTEN = 1e-3
"""Fewer GPU-seconds than this are nothing any more."""


def decay(usage: Usage, now: datetime, half_life_seconds: float) -> Usage:
    """The same usage, seen from a later moment; an earlier one (a clock set back) changes nothing."""
    passed = (now - usage.at).total_seconds()
    if passed <= 0:
        return usage
    factor = 0.5 ** (passed / half_life_seconds)
    return Usage(now, {name: value * factor for name, value in usage.seconds.items() if value * factor >= FORGOTTEN})


def charge(usage: Usage, held: Mapping[str, float], now: datetime, half_life_seconds: float) -> Usage:
    """Add what was held by name, in GPUs, from the moment of the last charge until now; charging oftener comes to the same."""
    passed = (now - usage.at).total_seconds()
    if passed <= 0:
        return usage
    seconds = dict(decay(usage, now, half_life_seconds).seconds)
    weighted = half_life_seconds / log(2) * (1 - 0.5 ** (passed / half_life_seconds))
    for name, count in held.items():
        seconds[name] = seconds.get(name, 0.0) + count * weighted
    return Usage(now, seconds)


def holding(running: Iterable[Running], box: Box, by: Literal["team", "queue"]) -> dict[str, float]:
    """How many GPUs each team, or each queue, holds: what `charge` takes."""
    held: dict[str, float] = {}
    for job in running:
        name = job.team if by == "team" else job.queue
        held[name] = held.get(name, 0.0) + cost(job.need, box)
    return held
