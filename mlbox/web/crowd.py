"""Requests of a turn of the loop that are alike but for their row, asked of a model as one request of many rows.

`take`, which reads one, is the adapter's own.
"""

from __future__ import annotations

import contextlib
from typing import Any

from mlbox.errors import MlboxError
from mlbox.serve.answers import Inferred
from mlbox.serve.execution import AskRows, Begun
from mlbox.serve.server import ModelServer
from mlbox.serve.targets import Target
from mlbox.web.fast.routes import Reply


class Crowd:
    """Requests of a row each for one version."""

    def __init__(self, models: ModelServer, target: Target, caller: str) -> None:
        assert target.alone is not None
        self._models = models
        self._target = target
        self._loaded = target.alone[1]
        self._caller = caller
        self._rows: list[Any] = []

    def replies(self) -> list[Reply | None]:
        """What each is answered with; None for those that failed together."""
        lane = self._loaded.lane
        most = lane.config.max_batch if lane.joins_at_once else 1
        runs = [self._rows[at : at + most] for at in range(0, len(self._rows), most)]
        asked = [self._asked(rows) for rows in runs]
        ran = iter(self._models.run([one for one in asked if one is not None]))
        replies: list[Reply | None] = []
        for rows, one in zip(runs, asked, strict=True):
            found = None if one is None else next(ran)
            replies += self._written(found) if isinstance(found, Inferred) else [None] * len(rows)
        return replies

    def _asked(self, rows: list[Any]) -> Begun | AskRows | None:
        with contextlib.suppress(MlboxError):
            return self._ask(rows)
        return None

    def _ask(self, rows: list[Any]) -> Begun | AskRows:
        """Rows as one request; raises what is wrong with one of them."""
        raise NotImplementedError

    def _written(self, found: Inferred) -> list[Reply | None]:
        raise NotImplementedError
