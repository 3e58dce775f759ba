"""Models that someone must look at again: a month ahead, and on the day, people are reminded, once for each date."""

from __future__ import annotations

from datetime import datetime, timedelta

from mlbox.clock import from_us, to_us
from mlbox.store.db import Database, Row, Tx

AHEAD = timedelta(days=30)
_DUE = """
SELECT id, name, expires_us, reminded FROM model WHERE deleted_us IS NULL AND expires_us <= :ahead AND reminded <>
  CASE WHEN expires_us <= :now THEN 'expired ' ELSE 'expiring ' END || expires_us
  AND EXISTS (SELECT 1 FROM model_version v WHERE v.model_id = model.id AND v.stage = 'Production')
"""


def remind(db: Database, now: datetime) -> int:
    """Tell of what expires soon or has expired; how many models were told of. Told once, and again when the date is moved."""
    times = {"now": to_us(now), "ahead": to_us(now + AHEAD)}
    if not db.all(_DUE, times):
        return 0

    def write(tx: Tx) -> int:
        due = tx.all(_DUE, times)
        for row in due:
            _tell(tx, row, to_us(now))
        return len(due)

    return db.write(write)


def _tell(tx: Tx, row: Row, now_us: int) -> None:
    kind = "expired" if row["expires_us"] <= now_us else "expiring"
    tx.run("UPDATE model SET reminded = ? WHERE id = ?", (f"{kind} {row['expires_us']}", row["id"]))
    day = from_us(row["expires_us"]).date().isoformat()
    tx.emit(f"model.{kind}", f"model:{row['name']}", "mlbox", on=day)
