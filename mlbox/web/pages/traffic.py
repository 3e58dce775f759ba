"""What an endpoint was asked over time: predictions by version, and how long they took, from the prediction log."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.clock import to_us
from mlbox.web.box import Box

if TYPE_CHECKING:
    import numpy as np

SPANS = {1: "hour", 24: "day", 168: "week", 720: "30 days"}
"""By hours."""
STEPS = 48
MOST_ROWS = 1_000_000
"""Predictions that a picture is made of: of more the newest, which the page says."""
QUANTILES = (50, 95, 99)
READ = ("version", "role", "domain_us", "latency_ms")
VERSIONS = 6
"""Lines that a picture tells apart."""


class Traffic(NamedTuple):
    """Pictures, of so many predictions; `whole` where none was left out."""

    rows: int
    whole: bool
    charts: list[tuple[str, dict[str, Any]]]


class _Seen(NamedTuple):
    version: int
    step: np.ndarray
    latency: np.ndarray


def traffic_of(box: Box, model: str, hours: int) -> Traffic:
    """The last hours of domain time, in steps; what only a shadow answered is left out."""
    until = box.clock.now() + timedelta(microseconds=1)
    since = until - timedelta(hours=hours)
    width = timedelta(hours=hours) // STEPS
    seen, whole = _read(box, model, since, until, width)
    times = [(since + width * step).timestamp() for step in range(STEPS)]
    rows = sum(len(one.step) for one in seen)
    charts = (
        [("Predictions by version", _counts(seen, times)), ("Latency, ms", _quantiles(seen, times))] if rows else []
    )
    failed = _failures(box, model, since, width, times)
    return Traffic(rows, whole, [*charts, ("Failed by version", failed)] if failed else charts)


def _failures(box: Box, model: str, since: datetime, width: timedelta, times: list[float]) -> dict[str, Any] | None:
    """What failed within these steps, where anything did; of that the server knows since it started."""
    counts: dict[int, list[int]] = {}
    for version, minutes in box.models.statistics.failures(model).items():
        for minute, count in minutes.items():
            step = min((minute - since) // width, STEPS - 1)
            if step >= 0:
                counts.setdefault(version, [0] * STEPS)[step] += count
    series = [
        {"label": f"version {version}", "points": list(zip(times, counts[version], strict=True))}
        for version in sorted(counts, reverse=True)[:VERSIONS]
    ]
    return {"x": "domain time", "time": True, "zero": True, "series": series} if series else None


def _read(box: Box, model: str, since: datetime, until: datetime, width: timedelta) -> tuple[list[_Seen], bool]:
    """The newest files first, and whether they were all read."""
    import pyarrow as pa

    found: list[_Seen] = []
    rows, first, step = 0, to_us(since), width // timedelta(microseconds=1)
    for table in box.predictions.spanning(model, columns=READ, since=since, until=until):
        at = table.column("domain_us").to_numpy()
        answered = table.column("role").to_numpy() != "shadow"
        kept = table.filter(pa.array((at >= first) & (at < to_us(until)) & answered))
        if kept.num_rows:
            steps = ((kept.column("domain_us").to_numpy() - first) // step).clip(0, STEPS - 1)
            found.append(_Seen(kept.column("version")[0].as_py(), steps, kept.column("latency_ms").to_numpy()))
            rows += kept.num_rows
        if rows >= MOST_ROWS:
            return found, False
    return found, True


def _counts(seen: list[_Seen], times: list[float]) -> dict[str, Any]:
    import numpy as np

    versions = sorted({one.version for one in seen}, reverse=True)[:VERSIONS]
    counts = {version: np.zeros(STEPS, int) for version in versions}
    for one in seen:
        if one.version in counts:
            counts[one.version] += np.bincount(one.step, minlength=STEPS)
    series = [
        {"label": f"version {version}", "points": list(zip(times, counts[version].tolist(), strict=True))}
        for version in versions
    ]
    return {"x": "domain time", "time": True, "zero": True, "series": series}


def _quantiles(seen: list[_Seen], times: list[float]) -> dict[str, Any]:
    """Of each step, all versions together."""
    import numpy as np

    step = np.concatenate([one.step for one in seen])
    latency = np.concatenate([one.latency for one in seen])
    order = np.argsort(step, kind="stable")
    parts = np.split(latency[order], np.searchsorted(step[order], np.arange(1, STEPS)))
    series = [
        {
            "label": f"p{quantile}",
            "points": [
                (at, float(np.percentile(part, quantile))) for at, part in zip(times, parts, strict=True) if len(part)
            ],
        }
        for quantile in QUANTILES
    ]
    return {"x": "domain time", "time": True, "zero": True, "series": series}
