"""What jobs that have ended left behind, and how long it stays: work folders for hours, checkpoints, for a retry, for days, logs
for as long as their setting says.

Records are no remains: they stay. So do artifacts, which go with the run that has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from mlbox.clock import to_us
from mlbox.store.db import Database

AT_ONCE = 100
_DUE = """
SELECT id, (SELECT count(*) FROM attempt WHERE job_id = job.id) AS attempts,
  state = 'succeeded' OR ended_us <= :checkpoints AS checkpoints, ended_us <= :logs AS logs
FROM job WHERE id > :after AND (left_over = 'all' AND ended_us <= :folders
  OR left_over = 'checkpoints' AND ended_us <= :checkpoints OR left_over = 'logs' AND ended_us <= :logs)
ORDER BY id LIMIT :limit
"""


class Remains(NamedTuple):
    """What of a job may go now."""

    job_id: str
    attempts: int
    checkpoints: bool
    """These, too: it succeeded, so that nothing goes on from them, or nobody has retried it for so long."""
    logs: bool
    """And what it printed."""


class Cleaning:
    """Which jobs are to be cleaned up, and which were."""

    def __init__(self, db: Database, *, folders: timedelta, checkpoints: timedelta, logs: timedelta | None) -> None:
        self._db = db
        self._folders = folders
        self._checkpoints = max(folders, checkpoints)
        self._logs = max(self._checkpoints, logs) if logs is not None else None

    def due(self, now: datetime, *, early: bool = False) -> Iterator[Remains]:
        """Those whose time is over by now; `early` work folders whose time it is not yet, too."""
        given = {
            "folders": to_us(now if early else now - self._folders),
            "checkpoints": to_us(now - self._checkpoints),
            "logs": to_us(now - self._logs) if self._logs is not None else -1,
        }
        after = ""
        while rows := self._db.all(_DUE, {**given, "after": after, "limit": AT_ONCE}):
            after = rows[-1]["id"]
            for row in rows:
                yield Remains(row["id"], row["attempts"], bool(row["checkpoints"]), bool(row["logs"]))

    def done(self, remains: Remains) -> None:
        """These are gone: the job is not named again, unless it is retried."""
        left = "nothing" if remains.logs else "logs" if remains.checkpoints else "checkpoints"
        self._db.write(
            lambda tx: tx.run(
                "UPDATE job SET left_over = ? WHERE id = ? AND ended_us IS NOT NULL", (left, remains.job_id)
            )
        )
