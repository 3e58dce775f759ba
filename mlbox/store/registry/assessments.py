"""What was found out about a candidate before a person decides: kept with its promotion, and never changed."""

from __future__ import annotations

import msgspec

from mlbox.records import CommandRun, Comparison, Fairness, Record, Replay
from mlbox.store.db import Database


class Assessment(Record, frozen=True, kw_only=True):
    """The evidence that people look at; None is what the policy does not ask for, or what could not be had."""

    comparison: Comparison | None = None
    fairness: Fairness | None = None
    test: CommandRun | None = None
    integration: CommandRun | None = None
    replay: Replay | None = None


class Assessments:
    """The evidence of all promotions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, promotion_id: str) -> Assessment:
        """What was found about a promotion's version."""
        rows = self._db.all("SELECT kind, found FROM promotion_evidence WHERE promotion_id = ?", (promotion_id,))
        return msgspec.convert({row["kind"]: msgspec.json.decode(row["found"]) for row in rows}, type=Assessment)
