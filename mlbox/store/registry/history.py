"""What was in which stage, and under which alias, at any moment: who put it there, why, and who approved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from mlbox.clock import from_us
from mlbox.records import Tenure
from mlbox.store.db import Database, Row
from mlbox.store.registry.registry import Registry

_STAGES = """
SELECT c.*, v.version, v.deleted_us,
  (SELECT json_group_array(approver) FROM (SELECT approver FROM approval
    WHERE promotion_id = c.promotion_id AND decision = 'approve' AND c.stage = 'Production' ORDER BY rowid)) AS approvers
FROM stage_change c JOIN model_version v ON v.id = c.version_id WHERE v.model_id = ? ORDER BY c.id
"""


class History:
    """The past of models."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    def of(self, model: str, *, start: datetime | None = None, end: datetime | None = None) -> list[Tenure]:
        """Every stay of a version in a stage and under an alias, newest first; with times, those that touch the span.

        Stage None, in which versions are born, is not listed. Deleted versions are.
        """
        model_id = self._registry.model(model).id
        found = _stages(self._db.all(_STAGES, (model_id,)))
        found += _aliases(self._db.all("SELECT * FROM alias_change WHERE model_id = ? ORDER BY id", (model_id,)))
        held = [
            one
            for one in found
            if (end is None or one.since <= end) and (start is None or one.until is None or start < one.until)
        ]
        return sorted(held, key=lambda one: one.since, reverse=True)


def _stages(rows: Sequence[Row]) -> list[Tenure]:
    found: list[Tenure] = []
    open_: dict[int, int] = {}
    for row in rows:
        _close(found, open_.pop(row["version"], None), from_us(row["at_us"]))
        if row["stage"] == "None":
            continue
        open_[row["version"]] = len(found)
        found.append(
            Tenure(
                kind="stage",
                name=row["stage"],
                version=row["version"],
                since=from_us(row["at_us"]),
                by=row["actor"],
                reason=row["reason"],
                approved_by=tuple(msgspec.json.decode(row["approvers"])),
                promotion=row["promotion_id"],
            )
        )
    for row in rows:
        if row["deleted_us"] is not None:
            _close(found, open_.pop(row["version"], None), from_us(row["deleted_us"]))
    return found


def _aliases(rows: Sequence[Row]) -> list[Tenure]:
    found: list[Tenure] = []
    open_: dict[str, int] = {}
    for row in rows:
        _close(found, open_.pop(row["alias"], None), from_us(row["at_us"]))
        if row["version"] is None:
            continue
        open_[row["alias"]] = len(found)
        stay = Tenure(
            kind="alias", name=row["alias"], version=row["version"], since=from_us(row["at_us"]), by=row["actor"]
        )
        found.append(stay)
    return found


def _close(found: list[Tenure], place: int | None, at: datetime) -> None:
    if place is not None:
        found[place] = msgspec.structs.replace(found[place], until=at)
