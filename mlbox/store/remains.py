"""What jobs that have ended left behind, and how long it stays: work folders for hours, checkpoints, for a retry, for days.

Records, logs and artifacts are no remains: they stay.
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
  state = 'succeeded' OR ended_us <= :checkpoints AS all_of_it
FROM job WHERE id > :after AND ended_us <= :folders AND left_over <> 'logs'
  AND (left_over = 'all' OR ended_us <= :checkpoints)
ORDER BY id LIMIT :limit
"""


class Remains(NamedTuple):
    """What of a job may go now."""

    job_id: str
    attempts: int
    checkpoints: bool
    """These, too: it succeeded, so that nothing goes on from them, or nobody has retried it for so long."""


class Cleaning:
    """Which jobs are to be cleaned up, and which were."""

    def __init__(self, db: Database, *, folders: timedelta, checkpoints: timedelta) -> None:
        self._db = db
        self._folders = folders
        self._checkpoints = max(folders, checkpoints)

    def due(self, now: datetime) -> Iterator[Remains]:
        """Those whose time is over by now."""
        given = {"folders": to_us(now - self._folders), "checkpoints": to_us(now - self._checkpoints)}
        after = ""
        while rows := self._db.all(_DUE, {**given, "after": after, "limit": AT_ONCE}):
            after = rows[-1]["id"]
            for row in rows:
                yield Remains(row["id"], row["attempts"], bool(row["all_of_it"]))

    def done(self, remains: Remains) -> None:
        """These are gone: the job is not named again, unless it is retried."""
        left = "logs" if remains.checkpoints else "checkpoints"
        self._db.write(
            lambda tx: tx.run(
                "UPDATE job SET left_over = ? WHERE id = ? AND ended_us IS NOT NULL", (left, remains.job_id)
            )
        )
