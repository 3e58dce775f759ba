"""Versions that may not run, because processes that ran them died: why, since when, until an admin lets them go."""

from __future__ import annotations

from mlbox.clock import from_us
from mlbox.errors import NotFound
from mlbox.records import VersionQuarantine
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.registry import Registry

QUARANTINED = "model.quarantined"
RELEASED = "model.released"
_SQL = """
SELECT model.name AS model, v.version, q.reason, q.at_us FROM version_quarantine q
JOIN model_version v ON v.id = q.version_id JOIN model ON model.id = v.model_id
"""


class Quarantines:
    """The versions in quarantine; they stay there over restarts."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    def of(self, model: str, version: int) -> VersionQuarantine | None:
        """A version's quarantine, if it is in one."""
        row = self._db.one(f"{_SQL} WHERE model.name = ? AND v.version = ?", (model, version))
        return _quarantined(row) if row else None

    def all(self) -> list[VersionQuarantine]:
        """All that may be seen, the newest first."""
        rows = self._db.all(f"{_SQL} WHERE visible('model', model.name) ORDER BY q.at_us DESC, v.id")
        return [_quarantined(row) for row in rows]

    def put(self, model: str, version: int, reason: str) -> None:
        """Put a version there, unless it is there already."""
        version_id = self._registry.version(model, version).id

        def write(tx: Tx) -> None:
            if tx.one("SELECT 1 FROM version_quarantine WHERE version_id = ?", (version_id,)) is None:
                tx.run("INSERT INTO version_quarantine VALUES (?,?,?)", (version_id, reason, tx.now_us))
                tx.emit(QUARANTINED, f"model:{model}/{version}", "mlbox", reason=reason)

        self._db.write(write)

    def release(self, model: str, version: int, *, actor: str) -> None:
        """Let a version run again; raises NotFound for one that is not in quarantine."""
        found = self._registry.version(model, version)

        def write(tx: Tx) -> None:
            if tx.one("SELECT 1 FROM version_quarantine WHERE version_id = ?", (found.id,)) is None:
                raise NotFound(
                    f"{found.ref} is not in quarantine.", hint="`mlbox model quarantine` lists them.", field="version"
                )
            tx.run("DELETE FROM version_quarantine WHERE version_id = ?", (found.id,))
            tx.emit(RELEASED, f"model:{model}/{version}", actor)

        self._db.write(write)


def _quarantined(row: Row) -> VersionQuarantine:
    return VersionQuarantine(model=row["model"], version=row["version"], reason=row["reason"], at=from_us(row["at_us"]))
