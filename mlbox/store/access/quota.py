"""How much of the disk a team may keep: the bytes of its runs' artifacts, its logged models, its dataset versions and what was
pushed for it with DVC.

Content that is kept once, because it is the same, counts for each team that named it: a quota that depended on what others
happen to have uploaded would tell of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from mlbox.clock import Clock
from mlbox.errors import TooLarge
from mlbox.store.db import Database

REFRESH = timedelta(seconds=10)
"""How old the sums may be; what this process adds meanwhile is counted at once."""


class Quota:
    """The bytes that each team keeps, against what it may."""

    def __init__(
        self, tracking: Database, datasets: Database, team_of: Callable[[str], str], clock: Clock, *, allowed: int
    ) -> None:
        self._tracking, self._datasets = tracking, datasets
        self._team_of = team_of
        self._clock = clock
        self._allowed = allowed
        self._lock = threading.Lock()
        self._used: Counter[str] = Counter()
        self._read_at: datetime | None = None

    def used(self, team: str) -> int:
        """Bytes that a team keeps."""
        with self._lock:
            now = self._clock.real()
            if self._read_at is None or now - self._read_at >= REFRESH:
                self._used, self._read_at = self._sums(), now
            return self._used[team]

    def room(self, name: str) -> int | None:
        """Bytes that may still be kept under a name, by the team that owns it; None where there is no quota.

        Raises TooLarge where nothing more may be.
        """
        if not self._allowed:
            return None
        team = self._team_of(name)
        used = self.used(team)
        if used >= self._allowed:
            raise TooLarge(
                f"The team {team} keeps {used:,} bytes of artifacts and datasets, and {self._allowed:,} are allowed.",
                hint="Ask an admin to raise the setting upload_quota.",
                field="upload_quota",
            )
        return self._allowed - used

    def add(self, name: str, size: int) -> None:
        """Count what was just kept under a name."""
        with self._lock:
            self._used[self._team_of(name)] += size

    def _sums(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for row in self._tracking.all(
            "SELECT experiment.name, sum(artifact.size) AS size FROM artifact JOIN run ON run.id = artifact.run_id"
            " JOIN experiment ON experiment.id = run.experiment_id GROUP BY experiment.id"
        ):
            found[self._team_of(row["name"])] += row["size"]
        for row in self._tracking.all(
            "SELECT experiment.name, sum(file.size) AS size FROM logged_model_file AS file"
            " JOIN logged_model ON logged_model.id = file.model_id"
            " JOIN experiment ON experiment.id = logged_model.experiment_id GROUP BY experiment.id"
        ):
            found[self._team_of(row["name"])] += row["size"]
        for row in self._datasets.all(
            "SELECT name, sum(json_extract(file.value, '$.size')) AS size"
            " FROM dataset, json_each(dataset.record, '$.files') AS file GROUP BY name"
        ):
            found[self._team_of(row["name"])] += row["size"]
        for row in self._datasets.all("SELECT team, sum(size) AS size FROM dvc_object GROUP BY team"):
            found[row["team"]] += row["size"]
        return found
