"""The extremes of long series, kept ahead of time: a picture of ten million points reads some thousand rows.

A rollup is the least and the greatest finite value among the points of one bucket of steps. A bucket of level 0 is `1 << grain`
steps wide, for about 64 points, and each level's buckets are 16 times as wide as those of the level below. Rollups are made
many points at a time; the steps from `dirty_low` to `dirty_high` were written to since, and are read as points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mlbox.records import MAX_STEP
from mlbox.store.db import Database, Row, Tx

LEVELS = 4
FINER = 4
"""Each level's buckets are `1 << FINER` times as wide as those below."""
ROLL_AT = 16_384
"""Points that a series may have without rollups."""
_OCCUPANCY = 64
_CHUNK = 1024
"""Buckets made by one statement, which sorts their points in memory."""
_FINITE = "typeof(value) = 'real' AND value > -9e999 AND value < 9e999"

_OF_POINTS = f"""
INSERT OR REPLACE INTO rollup
WITH some AS (
  SELECT step >> :shift AS bucket, step, value FROM point
  WHERE series = :series AND step BETWEEN :first AND :last AND {_FINITE}
)
SELECT :series, 0, bucket, low, low_step, high, high_step
FROM (SELECT bucket, min(value) AS low, step AS low_step FROM some GROUP BY bucket)
JOIN (SELECT bucket, max(value) AS high, step AS high_step FROM some GROUP BY bucket) USING (bucket)
"""
_OF_ROLLUPS = """
INSERT OR REPLACE INTO rollup
WITH some AS (
  SELECT bucket >> :finer AS above, low, low_step, high, high_step FROM rollup
  WHERE series = :series AND level = :level - 1 AND bucket BETWEEN :first AND :last
)
SELECT :series, :level, above, low, low_step, high, high_step
FROM (SELECT above, min(low) AS low, low_step FROM some GROUP BY above)
JOIN (SELECT above, max(high) AS high, high_step FROM some GROUP BY above) USING (above)
"""


# -- writing ------------------------------------------------------------------------------------------------------------


def is_due(series: Row) -> bool:
    """True when enough of a series is dirty, and about a fourth of what would be read to make its rollups is new."""
    if series["fresh"] < ROLL_AT or series["rolled_high"] is None:
        return bool(series["fresh"] >= ROLL_AT)
    low, high = series["dirty_low"], series["dirty_high"]
    whole = max(high, series["rolled_high"]) - min(low, series["rolled_low"]) + 1
    return bool(4 * series["fresh"] >= series["points"] * ((high - low + 1) / whole))


def roll(tx: Tx, series: Row) -> None:
    """Make the rollups of a series' dirty steps, from its row."""
    low, high = series["dirty_low"], series["dirty_high"]
    grain = series["grain"]
    if grain is None:
        grain = max(0, math.ceil(math.log2(_OCCUPANCY * (high - low + 1) / series["fresh"])))
    for first, last in _chunks(tx, series["id"], low, high, grain):
        tx.run(_OF_POINTS, {"series": series["id"], "shift": grain, "first": first, "last": last})
    for level in range(1, LEVELS):
        shift = grain + FINER * level
        given = {
            "series": series["id"],
            "level": level,
            "finer": FINER,
            "first": (low >> shift) << FINER,
            "last": ((high >> shift) << FINER) + (1 << FINER) - 1,
        }
        tx.run(_OF_ROLLUPS, given)
    tx.run(
        "UPDATE series SET fresh = 0, dirty_low = NULL, dirty_high = NULL, grain = ?,"
        " rolled_low = min(coalesce(rolled_low, ?), ?), rolled_high = max(coalesce(rolled_high, ?), ?) WHERE id = ?",
        (grain, low, low, high, high, series["id"]),
    )


def _chunks(tx: Tx, series: int, low: int, high: int, grain: int) -> Iterator[tuple[int, int]]:
    """The dirty steps as whole buckets, some at a time, without the stretches that have no points."""
    at: int | None = (low >> grain) << grain
    end = min(MAX_STEP, (((high >> grain) + 1) << grain) - 1)
    while at is not None and at <= end:
        found = tx.one(
            "SELECT min(step) AS step FROM point WHERE series = ? AND step >= ?", (series, max(at, -MAX_STEP))
        )
        at = found["step"] if found else None
        if at is None or at > end:
            return
        first = (at >> grain) << grain
        last = min(end, first + (_CHUNK << grain) - 1)
        yield max(first, -MAX_STEP - 1), last
        at = last + 1


# -- reading ------------------------------------------------------------------------------------------------------------


def extremes(
    db: Database, series: Row | Mapping[str, Any], low: int, high: int, buckets: int
) -> list[tuple[int, float]]:
    """The least and the greatest finite value of about so many equal parts of the steps from low to high, where they are."""
    wanted = min(MAX_STEP, -(-(high - low + 1) // buckets))
    level = _level(series, wanted)
    shift = 0 if level is None else series["grain"] + FINER * level
    given = {
        "series": series["id"],
        "level": level,
        "shift": shift,
        "start": low >> shift,
        "width": -(-wanted // (1 << shift)),
    }
    found: set[tuple[int, float]] = set()
    rolled = [] if level is None else _rolled(series, low, high, shift)
    for first, last in rolled:
        found |= _read(db, _ROLLED, {**given, "first": first, "last": last})
    for first, last in _between(rolled, low, high, shift):
        found |= _read(db, _RAW, {**given, "first": first, "last": last})
    return sorted(found)


_ROLLED = (
    """
SELECT CAST((bucket - :start) / :width AS INTEGER) AS part, low_step AS step, min(low) AS value FROM rollup
WHERE series = :series AND level = :level AND bucket BETWEEN :first AND :last GROUP BY part
""",
    """
SELECT CAST((bucket - :start) / :width AS INTEGER) AS part, high_step AS step, max(high) AS value FROM rollup
WHERE series = :series AND level = :level AND bucket BETWEEN :first AND :last GROUP BY part
""",
)
_RAW = tuple(
    f"""
SELECT CAST(((step >> :shift) - :start) / :width AS INTEGER) AS part, step, {extreme}(value) AS value FROM point
WHERE series = :series AND step BETWEEN :first AND :last AND {_FINITE} GROUP BY part
"""
    for extreme in ("min", "max")
)


def _read(db: Database, queries: tuple[str, ...], given: Mapping[str, Any]) -> set[tuple[int, float]]:
    return {(row["step"], row["value"]) for query in queries for row in db.all(query, dict(given))}


def _level(series: Row | Mapping[str, Any], width: int) -> int | None:
    """The coarsest level whose buckets are no wider than this; None where only the points will do."""
    if series["rolled_high"] is None:
        return None
    fitting = [level for level in range(LEVELS) if 1 << (series["grain"] + FINER * level) <= width]
    return max(fitting, default=None)


def _rolled(series: Row | Mapping[str, Any], low: int, high: int, shift: int) -> list[tuple[int, int]]:
    """The buckets that lie between two steps as a whole and hold nothing dirty, as ranges."""
    first, last = -(-low >> shift), ((high + 1) >> shift) - 1
    if series["dirty_low"] is None:
        ranges = [(first, last)]
    else:
        before, after = (series["dirty_low"] >> shift) - 1, (series["dirty_high"] >> shift) + 1
        ranges = [(first, min(last, before)), (max(first, after), last)]
    return [(begin, end) for begin, end in ranges if begin <= end]


def _between(rolled: list[tuple[int, int]], low: int, high: int, shift: int) -> Iterator[tuple[int, int]]:
    """The steps from low to high that are in none of these ranges of buckets."""
    at = low
    for first, last in rolled:
        if at < first << shift:
            yield at, (first << shift) - 1
        at = (last + 1) << shift
    if at <= high:
        yield at, high
