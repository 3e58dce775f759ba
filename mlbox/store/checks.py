"""Checks whose results are kept feature by feature: which was the last, which show how it went, and which are kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from mlbox.store.db import Database, Tx

Table = Literal["drift", "skew"]
DAYS, OLD_DAYS = 3, 731
"""For so long every check is kept, for so long the last one of each day."""
AGAIN_SECONDS = 6 * 3600.0
_DAY_US = 86_400_000_000


def last_checks(db: Database, table: Table, models: Sequence[str]) -> dict[str, str | None]:
    """The id of each model's last check, None before the first: whether its results are still those that one knows."""
    rows = db.all(
        f"SELECT value AS model, (SELECT check_id FROM {table} WHERE model = value ORDER BY check_id DESC LIMIT 1) AS id"
        " FROM json_each(?)",
        (msgspec.json.encode(models).decode(),),
    )
    return {row["model"]: row["id"] for row in rows}


def spread(db: Database, table: Table, model: str, most: int) -> list[str]:
    """At most so many checks of a model, oldest first, that show how it went: the last one of equal spans of real time."""
    rows = db.all(
        "WITH RECURSIVE one (id) AS (SELECT max(check_id) FROM drift WHERE model = :model UNION ALL SELECT"
        " (SELECT max(check_id) FROM drift WHERE model = :model AND check_id < one.id) FROM one WHERE id IS NOT NULL)"
        " SELECT id FROM one WHERE id IS NOT NULL ORDER BY id".replace("drift", table),
        {"model": model},
    )
    ids = [row["id"] for row in rows]
    if len(ids) <= most:
        return ids
    first, last = _made_ms(ids[0]), _made_ms(ids[-1]) + 1
    return list({(_made_ms(one) - first) * most // (last - first): one for one in ids}.values())


def _made_ms(check_id: str) -> int:
    return int(check_id[:12], 16)


class Thinning:
    """Keeps what checks found few: all of the last days, then the last check of each day, and nothing that is years old."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._done: dict[str, float] = {}

    def thin(self, tx: Tx, model: str) -> None:
        """Remove what of a model is not to be kept; looks every few hours only, as it reads all there is of it."""
        now = time.monotonic()
        if now - self._done.get(model, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._done[model] = now
        given = {
            "model": model,
            "day": _DAY_US,
            "recent": tx.domain_us - DAYS * _DAY_US,
            "old": tx.domain_us - OLD_DAYS * _DAY_US,
        }
        tx.run(
            f"DELETE FROM {self._table} WHERE model = :model AND at_us < :recent AND (at_us < :old OR check_id NOT IN"
            f" (SELECT max(check_id) FROM {self._table} WHERE model = :model AND at_us < :recent GROUP BY at_us / :day))",
            given,
        )
