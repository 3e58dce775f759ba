"""What was measured of versions, kept with them: each is a row that never changes, and an event."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mlbox.records import ModelVersion
from mlbox.store.db import Database, Tx

Measured = Literal["bench", "parity"]


class Measurements:
    """The measurements of all versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, version: ModelVersion, kind: Measured, found: Any, *, actor: str) -> None:
        """Keep a measurement."""

        def write(tx: Tx) -> None:
            tx.run(
                "INSERT INTO version_measurement (version_id, kind, found, actor, at_us) VALUES (?,?,?,?,?)",
                (version.id, kind, msgspec.json.encode(found).decode(), actor, tx.now_us),
            )
            tx.emit("model.measured", f"model:{version.ref}", actor, kind=kind)

        self._db.write(write)

    def latest(self, version: ModelVersion, kind: Measured) -> Any:
        """The last of a kind; None where there is none."""
        row = self._db.one(
            "SELECT found FROM version_measurement WHERE version_id = ? AND kind = ? ORDER BY at_us DESC, rowid DESC LIMIT 1",
            (version.id, kind),
        )
        return msgspec.json.decode(row["found"]) if row else None
