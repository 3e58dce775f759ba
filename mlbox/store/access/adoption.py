"""How a box is taken up: who is active each week, and how long a person takes to a first job and a first deployment.

All of it is read from the audit log, in real time: what nobody did leaves nothing there, and reading alone is no activity.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from mlbox.clock import from_us, to_us
from mlbox.store.db import Database

WEEK = timedelta(days=7)
_FIRST_JOBS = "SELECT actor, min(at_us) AS at_us FROM event WHERE type = 'job.submitted' GROUP BY actor"
_FIRST_DEPLOYMENTS = """
SELECT asked.actor, min(done.at_us) AS at_us
FROM event AS done JOIN event AS asked ON asked.subject = done.subject AND asked.type = 'promotion.proposed'
WHERE done.type = 'model.stage' AND json_extract(done.data, '$.stage') = 'Production'
GROUP BY asked.actor
"""


class Adoption:
    """What the audit logs of all stores say of it."""

    def __init__(self, databases: Mapping[str, Database]) -> None:
        self._databases = databases

    def active(self, starts: list[datetime]) -> list[set[str]]:
        """Who changed something in each of the weeks that begin at these moments, which follow each other."""
        found: list[set[str]] = [set() for _ in starts]
        first, length = to_us(starts[0]), to_us(starts[0] + WEEK) - to_us(starts[0])
        for database in self._databases.values():
            rows = database.all(
                "SELECT DISTINCT actor, (at_us - :first) / :length AS week FROM event WHERE id >= :floor AND at_us >= :first",
                {"first": first, "length": length, "floor": f"{first // 1000 - 60_000:012x}"},
            )
            for row in rows:
                if row["week"] < len(starts):
                    found[row["week"]].add(row["actor"])
        return found

    def first_jobs(self) -> dict[str, datetime]:
        """When each person submitted a job for the first time."""
        return self._moments("jobs", _FIRST_JOBS)

    def first_deployments(self) -> dict[str, datetime]:
        """When a version that a person had proposed served in Production for the first time."""
        return self._moments("registry", _FIRST_DEPLOYMENTS)

    def _moments(self, store: str, sql: str) -> dict[str, datetime]:
        return {row["actor"]: from_us(row["at_us"]) for row in self._databases[store].all(sql)}
