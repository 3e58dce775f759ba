"""Requests of a turn of the loop that are alike but for their row, asked of a model as one request of many rows.

`take`, which reads one, is the adapter's own.
"""

from __future__ import annotations

from typing import Any

from mlbox.errors import MlboxError
from mlbox.serve.answers import Inferred
from mlbox.serve.execution import Ask, AskRows
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
        most, replies = self._loaded.lane.at_once, list[Reply | None]()
        for at in range(0, len(self._rows), most):
            rows = self._rows[at : at + most]
            try:
                found = self._models.answer_singles(self._ask(rows))
            except MlboxError:
                replies += [None] * len(rows)
            else:
                replies += self._written(found)
        return replies

    def _ask(self, rows: list[Any]) -> Ask | AskRows:
        """Rows as one request; raises what is wrong with one of them."""
        raise NotImplementedError

    def _written(self, found: Inferred) -> list[Reply | None]:
        raise NotImplementedError
