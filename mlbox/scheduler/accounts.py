"""What each team and each queue has used of late: read from the attempts once, and then carried on from step to step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from mlbox.scheduler.policy import Box, Need, Running, Usage, charge, cost, holding
from mlbox.store.jobs.sharing import Sharing


class _Line(NamedTuple):
    """What was used by name, and what is held since."""

    usage: Usage
    held: Mapping[str, float]

    def until(self, now: datetime, half_life: float) -> _Line:
        return _Line(charge(self.usage, self.held, now, half_life), self.held)


class Accounts:
    """GPU-seconds by team and by queue, as fair share counts them."""

    def __init__(self, sharing: Sharing, box: Box, half_life: timedelta) -> None:
        self._sharing = sharing
        self._box = box
        self.half_life_seconds = half_life.total_seconds()
        self._teams: _Line | None = None
        self._queues: _Line | None = None

    def usage(self, now: datetime) -> tuple[Usage, Usage]:
        """Of each team, and of each queue, up to now."""
        if self._teams is None or self._queues is None:
            self._teams, self._queues = self._read(now)
        self._teams = self._teams.until(now, self.half_life_seconds)
        self._queues = self._queues.until(now, self.half_life_seconds)
        return self._teams.usage, self._queues.usage

    def hold(self, running: Collection[Running]) -> None:
        """From the moment of the last `usage` on, these jobs are charged."""
        if self._teams is not None and self._queues is not None:
            self._teams = self._teams._replace(held=holding(running, self._box, "team"))
            self._queues = self._queues._replace(held=holding(running, self._box, "queue"))

    def _read(self, now: datetime) -> tuple[_Line, _Line]:
        spent = self._sharing.spent(now, timedelta(seconds=self.half_life_seconds))
        teams: dict[str, float] = {}
        queues: dict[str, float] = {}
        for (team, queue), (gpu_seconds, cpu_seconds) in spent.items():
            seconds = gpu_seconds + cpu_seconds * cost(Need(cpus=1.0), self._box)
            teams[team] = teams.get(team, 0.0) + seconds
            queues[queue] = queues.get(queue, 0.0) + seconds
        return _Line(Usage(now, teams), {}), _Line(Usage(now, queues), {})
