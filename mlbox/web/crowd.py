"""Requests of a turn of the loop that are alike but for their row, asked of a model as one request of many rows.

`take`, which reads one, is the adapter's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from mlbox.errors import MlboxError
from mlbox.serve.inference.answers import Inferred
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.targets import Target

R = TypeVar("R")


class Crowd(Generic[R]):
    """Requests of a row each for one version, and what each is answered with."""

    def __init__(self, models: ModelServer, target: Target, caller: str) -> None:
        assert target.alone is not None
        self._models = models
        self._target = target
        self._loaded = target.alone[1]
        self._caller = caller
        self._rows: list[Any] = []

    @classmethod
    def of(cls, models: ModelServer, target: Target, lead: object, make: Callable[[], Self], body: bytes = b"") -> Self:
        """The one that took requests of the same lead before, as long as another would be the same."""
        beside = models.targets.beside()
        known = beside.get(lead)
        if type(known) is not cls or known._target is not target or not known._takes(body):
            known = beside[lead] = make()
        return known

    def _takes(self, body: bytes) -> bool:
        """Whether it may take such a body: what is not the row in it is as it was."""
        return True

    def replies(self) -> list[R | None]:
        """What each is answered with; None for those that failed together."""
        replies: list[R | None] = []
        lane = self._loaded.lane
        most = lane.config.max_batch if lane.joins else 1
        every, self._rows = self._rows, []
        for at in range(0, len(every), most):
            rows = every[at : at + most]
            try:
                found = self._inferred(rows)
            except MlboxError:
                replies += [None] * len(rows)
            else:
                replies += self._written(found)
        return replies

    def _inferred(self, rows: list[Any]) -> Inferred:
        """The answer to rows as one request; raises what is wrong with one of them."""
        raise NotImplementedError

    def _written(self, found: Inferred) -> list[R | None]:
        raise NotImplementedError
