"""What ran when, and on which devices: the attempts of all jobs within a span of time."""

from __future__ import annotations

import json
from datetime import datetime

from mlbox.clock import from_us, to_us
from mlbox.records import AttemptSpan
from mlbox.store.db import Database, Row

MOST = 2000


class Timeline:
    """Attempts by time. A team's that whoever asks may not know of are there without a name: they hold devices all the same."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def attempts(self, since: datetime, until: datetime, *, limit: int = MOST) -> list[AttemptSpan]:
        """The attempts of which a part lies within the span, the newest first."""
        rows = self._db.all(
            "SELECT attempt.*, job.name, job.user, job.team, job.state, visible('team', job.team) AS seen"
            " FROM attempt JOIN job ON job.id = attempt.job_id"
            " WHERE (attempt.ended_us >= :since OR attempt.ended_us IS NULL) AND attempt.started_us < :until"
            " ORDER BY attempt.started_us DESC, job_id, number LIMIT :limit",
            {"since": to_us(since), "until": to_us(until), "limit": limit},
        )
        return [_span(row) for row in rows]


def _span(row: Row) -> AttemptSpan:
    seen = bool(row["seen"])
    return AttemptSpan(
        job=row["job_id"] if seen else None,
        name=row["name"] or "" if seen else "",
        user=row["user"] if seen else "",
        team=row["team"] if seen else "",
        number=row["number"],
        started_at=from_us(row["started_us"]),
        ended_at=from_us(row["ended_us"]) if row["ended_us"] is not None else None,
        devices=tuple(json.loads(row["devices"])),
        outcome=row["outcome"] or row["state"],
    )
