"""What was decided about candidates' traffic, from what, and the evidence that a running step has gathered and gathers."""

from __future__ import annotations

import msgspec

from mlbox.records import CoursePoint, Promotion, RolloutDecision, Samples
from mlbox.store.db import Database
from mlbox.store.registry.promotions import Promotions


class RolloutLog:
    """Decisions are kept for ever; evidence is that of the present step and is replaced."""

    def __init__(self, db: Database, promotions: Promotions) -> None:
        self._db = db
        self._promotions = promotions

    def of(self, promotion_id: str) -> list[RolloutDecision]:
        """What was decided about a promotion, oldest first; raises NotFound."""
        self._promotions.get(promotion_id)
        rows = self._db.all("SELECT decision FROM rollout_decision WHERE promotion_id = ? ORDER BY id", (promotion_id,))
        return [msgspec.json.decode(row["decision"], type=RolloutDecision) for row in rows]

    def note(self, promotion_id: str, point: CoursePoint) -> None:
        """Keep what the guards say of a canary at this much evidence."""
        row = (promotion_id, point.step, point.predictions, point.to_json().decode())
        self._db.write(lambda tx: tx.run("INSERT OR REPLACE INTO rollout_course VALUES (?,?,?,?)", row))

    def course(self, promotion_id: str) -> list[CoursePoint]:
        """What the guards said of a canary while its evidence grew, step by step; raises NotFound."""
        self._promotions.get(promotion_id)
        rows = self._db.all(
            "SELECT point FROM rollout_course WHERE promotion_id = ? ORDER BY step, predictions", (promotion_id,)
        )
        return [msgspec.json.decode(row["point"], type=CoursePoint) for row in rows]

    def keep(self, samples: dict[str, Samples]) -> None:
        """Keep the evidence so far, by promotion: a restart goes on from it."""
        rows = [(promotion_id, found.to_json().decode()) for promotion_id, found in samples.items()]
        if rows:
            self._db.write(lambda tx: tx.many("INSERT OR REPLACE INTO rollout_evidence VALUES (?,?)", rows))

    def kept(self, promotion: Promotion) -> Samples | None:
        """What was kept of a promotion's present step."""
        row = self._db.one("SELECT samples FROM rollout_evidence WHERE promotion_id = ?", (promotion.id,))
        found = msgspec.json.decode(row["samples"], type=Samples) if row else None
        if found is None or (found.state, found.step) != (promotion.state, promotion.step):
            return None
        return found
