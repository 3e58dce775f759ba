"""Series of metric points: one series for each metric of a run, its points clustered by step.

Beside its points a series keeps its last value, its extremes and how many points it has, so that a page of runs reads no points.
The last value is that of the highest step, then of the latest time, then the greatest, and NaN above all. SQLite keeps no NaN:
in a series it is NULL, in a point the text 'nan'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mlbox.clock import from_us, to_us
from mlbox.records import MAX_STEP, Metric
from mlbox.store.db import Database, Row, Tx
from mlbox.store.tracking import rollups

MAX_CURVE = 2000
"""Points of a curve at most."""
_ENDS = 8
"""Buckets that a picture has besides those asked for, where parts of it meet."""

_UPSERT = """
INSERT INTO series (run_id, key, step, at_us, value, low, high, points, fresh, dirty_low, dirty_high)
VALUES (:run, :key, :step, :at, :value, :low, :high, :count, :count, :first, :step)
ON CONFLICT (run_id, key) DO UPDATE SET
  value = iif((excluded.step, excluded.at_us, coalesce(excluded.value, 'nan')) >= (step, at_us, coalesce(value, 'nan')),
    excluded.value, value),
  at_us = iif((excluded.step, excluded.at_us) >= (step, at_us), excluded.at_us, at_us),
  step = max(step, excluded.step),
  low = coalesce(min(low, excluded.low), low, excluded.low), high = coalesce(max(high, excluded.high), high, excluded.high),
  points = points + excluded.points, fresh = fresh + excluded.fresh,
  dirty_low = min(coalesce(dirty_low, excluded.dirty_low), excluded.dirty_low),
  dirty_high = max(coalesce(dirty_high, excluded.dirty_high), excluded.dirty_high)
RETURNING id, points, fresh, dirty_low, dirty_high, rolled_low, rolled_high, grain
"""
_TWICE = "UPDATE series SET points = points - ?, fresh = fresh - ? WHERE id = ?"


class Last(NamedTuple):
    """The last value of a metric, with its extremes."""

    metric: Metric
    extremes: tuple[float, float] | None


class Point(NamedTuple):
    """One point of a series; its time is in microseconds since 1970."""

    step: int
    at_us: int
    value: float


class Curve(NamedTuple):
    """A drawn series: for each bucket of steps its first, least, greatest and last point, in order."""

    points: list[tuple[int, float]]
    whole: bool
    """True when no point was left out."""


def write_points(tx: Tx, run_id: str, metrics: Iterable[Metric]) -> None:
    """Add points; one that is there already changes nothing."""
    by_key: dict[str, list[Metric]] = {}
    for metric in metrics:
        by_key.setdefault(metric.key, []).append(metric)
    for key, points in by_key.items():
        last = max(points, key=_place)
        numbers = [value for point in points if (value := stored(point.value)) is not None]
        row = tx.one(
            _UPSERT,
            {
                "run": run_id,
                "key": key,
                "step": last.step,
                "at": to_us(last.at),
                "value": stored(last.value),
                "low": min(numbers, default=None),
                "high": max(numbers, default=None),
                "count": len(points),
                "first": min(point.step for point in points),
            },
        )
        assert row is not None
        rows = [(row["id"], point.step, to_us(point.at), sortable(point.value)) for point in points]
        new = tx.many("INSERT OR IGNORE INTO point VALUES (?,?,?,?)", rows)
        if new < len(rows):
            tx.run(_TWICE, (*[len(rows) - new] * 2, row["id"]))
        if rollups.is_due(row):
            rollups.roll(tx, row)


def last_of(db: Database, run_ids: Sequence[str]) -> dict[str, dict[str, Last]]:
    """The last value of each metric of these runs."""
    found: dict[str, dict[str, Last]] = {run_id: {} for run_id in run_ids}
    for start in range(0, len(run_ids), 500):
        ids = run_ids[start : start + 500]
        places = ",".join("?" * len(ids))
        for row in db.all(f"SELECT * FROM series WHERE run_id IN ({places}) ORDER BY run_id, key", ids):
            extremes = None if row["low"] is None else (row["low"], row["high"])
            found[row["run_id"]][row["key"]] = Last(_metric(row["key"], row), extremes)
    return found


def history(db: Database, run_id: str, key: str, *, limit: int | None, after: Point | None) -> list[Point]:
    """A series' points, by step and time: all, or at most `limit` from above the point `after`."""
    last = (after.step, after.at_us, sortable(after.value)) if after else (-MAX_STEP - 1, 0, 0)
    rows = db.all(
        "SELECT step, at_us, value FROM point WHERE series = (SELECT id FROM series WHERE run_id = ? AND key = ?)"
        " AND (step, at_us, value) > (?, ?, ?) ORDER BY step, at_us, value LIMIT ?",
        (run_id, key, *last, -1 if limit is None else limit),
    )
    found = list(map(Point._make, rows))
    for at, row in enumerate(rows):
        if row["value"] == "nan":
            found[at] = found[at]._replace(value=math.nan)
    return found


def keys_of(db: Database, run_id: str) -> list[str]:
    """The metrics that a run has, by name."""
    return [row["key"] for row in db.all("SELECT key FROM series WHERE run_id = ? ORDER BY key", (run_id,))]


# -- curves -------------------------------------------------------------------------------------------------------------


def curve(
    db: Database, run_id: str, key: str, *, most: int = MAX_CURVE, first: int | None = None, last: int | None = None
) -> Curve:
    """A series for a picture, from step `first` to `last`: all finite points, or the extremes of `most / 2` buckets."""
    found = db.one("SELECT * FROM series WHERE run_id = ? AND key = ?", (run_id, key))
    if found is None:
        return Curve([], True)
    ends = {
        "series": found["id"],
        "first": -MAX_STEP if first is None else first,
        "last": MAX_STEP if last is None else last,
    }
    some = db.all(
        "SELECT step, value FROM point WHERE series = :series AND step BETWEEN :first AND :last LIMIT :most",
        {**ends, "most": most + 1},
    )
    if len(some) <= most:
        return Curve([(row["step"], row["value"]) for row in some if is_finite(row["value"])], True)
    span = _span(db, found["id"], ends["first"], ends["last"])
    return Curve(rollups.extremes(db, found, *span, max(1, most // 2 - _ENDS)), False)


def moments(db: Database, run_id: str, key: str, steps: Sequence[int]) -> dict[int, int]:
    """When a series' points at these steps were logged, in microseconds since 1970; the first where there are several."""
    rows = db.all(
        "SELECT step, min(at_us) AS at_us FROM point WHERE series = (SELECT id FROM series WHERE run_id = ? AND key = ?)"
        " AND step IN (SELECT value FROM json_each(?)) GROUP BY step",
        (run_id, key, json.dumps(steps)),
    )
    return {row["step"]: row["at_us"] for row in rows}


def counts(db: Database, run_ids: Sequence[str]) -> dict[str, int]:
    """How many points these runs logged of each metric that is a curve: more than a single point in one of them."""
    rows = db.all(
        f"SELECT key, sum(points) AS points FROM series WHERE run_id IN ({','.join('?' * len(run_ids))})"
        " GROUP BY key HAVING max(points) > 1 ORDER BY key",
        run_ids,
    )
    return {row["key"]: row["points"] for row in rows}


def _span(db: Database, series: int, first: int, last: int) -> tuple[int, int]:
    """The first and the last step of a series that has points from `first` to `last`: two seeks."""
    row = db.one(
        "SELECT (SELECT min(step) FROM point WHERE series = :series AND step >= :first) AS low,"
        " (SELECT max(step) FROM point WHERE series = :series AND step <= :last) AS high",
        {"series": series, "first": first, "last": last},
    )
    assert row is not None
    return row["low"], row["high"]


_LATEST = """
WITH RECURSIVE edge (step) AS (SELECT :low UNION ALL SELECT step + :width FROM edge WHERE step < :high)
SELECT step, max(at_us) AS at_us, value FROM point WHERE series = :series AND step IN (
  SELECT (SELECT max(step) FROM point WHERE series = :series AND step <= edge.step AND step > edge.step - :width) FROM edge
) GROUP BY step ORDER BY step
"""
"""The latest point up to each edge: a seek for each of them, however long the series is."""


def sampled(
    db: Database, run_id: str, key: str, *, most: int, first: int | None = None, last: int | None = None
) -> list[Metric]:
    """At most about `most` points from step `first` to `last`: the latest of each bucket of steps, and the first of all."""
    found = db.one("SELECT id FROM series WHERE run_id = ? AND key = ?", (run_id, key))
    if found is None:
        return []
    low, high = -MAX_STEP if first is None else first, MAX_STEP if last is None else last
    given = {"series": found["id"], "low": low, "high": high, "most": most}
    within = "FROM point WHERE series = :series AND step BETWEEN :low AND :high"
    rows = db.all(f"SELECT step, at_us, value {within} ORDER BY step, at_us, value LIMIT :most + 1", given)
    if len(rows) > most:
        start, end = _span(db, found["id"], low, high)
        given |= {"low": start, "high": end, "width": max(1, math.ceil((end - start) / max(1, most - 1)))}
        rows = db.all(_LATEST, given)
    return [_metric(key, row) for row in rows]


def is_finite(value: object) -> bool:
    """True for a number that can be drawn."""
    return isinstance(value, float | int) and math.isfinite(value)


# -- in the database ----------------------------------------------------------------------------------------------------


def stored(value: float | None) -> float | None:
    """A value as a series has it."""
    return None if value is None or math.isnan(value) else float(value)


def _place(point: Metric) -> tuple[int, datetime, bool, float]:
    """Where a point stands among others of its series."""
    value = stored(point.value)
    return point.step, point.at, value is None, value or 0.0


def sortable(value: float | None) -> float | str:
    """A value as the key of points has it."""
    kept = stored(value)
    return "nan" if kept is None else kept


def _metric(key: str, row: Row | Mapping[str, Any]) -> Metric:
    value = row["value"]
    plain = math.nan if value is None or value == "nan" else value
    return Metric(key=key, value=plain, step=row["step"], at=from_us(row["at_us"]))
