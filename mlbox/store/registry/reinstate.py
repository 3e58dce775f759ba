"""Production goes back to a version that was there before, at once: it passed its gates and was approved then.

The triggers hold here as everywhere: the version's own promotion was completed, and what was decided about is what is there.
"""

from __future__ import annotations

from mlbox.errors import Refused
from mlbox.records import ModelVersion
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry import decisions
from mlbox.store.registry.promotion_moves import OPEN
from mlbox.store.registry.promotions import Promotions
from mlbox.store.registry.registry import Registry, note_stage


class Reinstatement:
    """Takes Production back to an earlier version."""

    def __init__(self, db: Database, registry: Registry, promotions: Promotions) -> None:
        self._db = db
        self._registry = registry
        self._promotions = promotions

    def to(self, model: str, number: int, *, actor: str, reason: str = "") -> ModelVersion:
        """An archived version in Production again, in one transaction with what it replaces; raises Refused.

        A candidate that is on its way loses what it was compared with, and is rolled back first.
        """
        version = self._registry.version(model, number)
        earned = [p for p in self._promotions.of(model, number) if p.state == "completed"]
        if version.stage != "Archived" or not earned:
            raise Refused(
                f"{version.ref} is in stage {version.stage} and was {'' if earned else 'never '}in Production.",
                hint=f"Only an archived version that was there goes back at once: `mlbox model history {model}`.",
                field="version",
            )
        if not decisions.stands(self._db, earned[0].id):
            raise Refused(
                f"What was decided about {version.ref} is not what is there now.", hint="Promote another version."
            )
        for candidate in self._promotions.open(model):
            if candidate.state in OPEN and candidate.champion is not None:
                self._promotions.end_for_another_champion(candidate.id, actor=actor)

        def write(tx: Tx) -> None:
            former = tx.one(
                "SELECT id, version FROM model_version WHERE model_id ="
                " (SELECT model_id FROM model_version WHERE id = ?) AND stage = 'Production'",
                (version.id,),
            )
            if former is not None:
                _move(tx, former, version, "Archived", actor, reason or f"rolled back to version {number}", None)
            here = tx.one("SELECT id, version FROM model_version WHERE id = ?", (version.id,))
            assert here is not None
            _move(tx, here, version, "Production", actor, reason or "rolled back", earned[0].id)
            tx.emit(
                "model.rolled_back", f"model:{version.ref}", actor, former=former and former["version"], reason=reason
            )

        self._db.write(write)
        return self._registry.version(model, number)


def _move(tx: Tx, row: Row, of: ModelVersion, stage: str, actor: str, reason: str, promotion: str | None) -> None:
    tx.run("UPDATE model_version SET stage = ?, updated_us = ? WHERE id = ?", (stage, tx.now_us, row["id"]))
    note_stage(tx, row["id"], stage, actor, reason=reason, promotion_id=promotion)
    more = {"replaced_by": of.version} if stage == "Archived" else {}
    tx.emit("model.stage", f"model:{of.model}/{row['version']}", actor, stage=stage, **more)
