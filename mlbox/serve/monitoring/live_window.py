"""The current window of a version in Production, kept up with the prediction log: each check reads only what came since the last.

The log is the truth and this is its memory: it costs a request nothing, and after a restart it is read again. What sampling
leaves out of the log is in it all the same, but for what was left out before a restart.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING

from mlbox.clock import from_us, to_us
from mlbox.records import ModelVersion
from mlbox.serve.monitoring.cells import Grid, Ring
from mlbox.serve.monitoring.reference import SCORE
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.window import Window

if TYPE_CHECKING:
    import numpy as np


class LiveWindow:
    """The last rows that users were given by a model, against one version's reference. One thread at a time may use it."""

    def __init__(self, version: ModelVersion, reference: dict[str, np.ndarray], size: int) -> None:
        self.version = version
        self.names = tuple(reference)
        self.grids = [Grid(values) for values in reference.values()]
        self._size = size
        self._since: datetime | None = None
        self._begin()

    def _begin(self) -> None:
        """Know of no row."""
        self.ring = Ring(self.grids, self._size)
        self._rows: deque[tuple[str, int, float]] = deque()
        """Id and domain time of each row in the ring, in its order, and with which probability the log kept it."""
        self._ids: set[str] = set()
        self._floor = ""
        """The highest id that was in the ring and is no more."""
        self._number = 0
        """Of the last flush that was read."""

    @property
    def start(self) -> datetime | None:
        """The domain time of the oldest row."""
        return from_us(self._rows[0][1]) if self._rows else None

    @property
    def sample(self) -> float:
        """The share of the predictions of its time that are in it."""
        return len(self._rows) / sum(1 / share for _, _, share in self._rows) if self._rows else 1.0

    def follow(self, log: PredictionLog, since: datetime) -> None:
        """Take what was logged meanwhile, and forget what is from before `since`."""
        if self._since is not None and since < self._since:
            self._begin()  # the clock was put back: what was too old is not
        self._since = since
        number = log.flushed_upto(self.version.model)  # what is flushed in between is read twice, and known by its id
        found = log.served(self.version.model, limit=self._size, since=since, after=self._number)
        self._number = number
        self.take(found)
        self._expire(to_us(since))

    def _expire(self, oldest: int) -> None:
        before = len(self._rows)
        while self._rows and self._rows[0][1] < oldest:
            self._forget()
        self.ring.drop(before - len(self._rows))

    def take(self, found: Window) -> None:
        """Take rows of the log; those that are in the window, or were, are known by their ids."""
        import numpy as np

        # A file that was merged has rows again that are in the ring, or were in it.
        fresh = [at for at, own in enumerate(found.ids) if own > self._floor and own not in self._ids]
        if not fresh:
            return
        values = np.stack([self._column(found, name)[fresh] for name in self.names])
        asked = np.ones(values.shape, bool)
        if self._is_score(SCORE):
            # Another version's scores are another distribution.
            asked[self.names.index(SCORE)] = (found.versions == self.version.version)[fresh]
        self.ring.push(values, asked)
        for at in fresh:
            share = float(found.shares[at]) if len(found.shares) else 1.0
            self._rows.append((found.ids[at], int(found.domain_us[at]), share))
            self._ids.add(found.ids[at])
        while len(self._rows) > self._size:
            self._forget()

    def _forget(self) -> None:
        own, *_ = self._rows.popleft()
        self._ids.remove(own)
        self._floor = max(self._floor, own)

    def _column(self, found: Window, name: str) -> np.ndarray:
        """What was served of a feature; where no row has it, each is missing."""
        import numpy as np

        return found.scores if self._is_score(name) else found.features.get(name, np.full(found.rows, np.nan))

    def _is_score(self, name: str) -> bool:
        return name == SCORE and name in self.names and name not in self.version.features
