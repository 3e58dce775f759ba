"""The last served rows that sampling left out of the log, in memory and without whom they were about or who asked.

So drift is of every prediction: a sample of one in ten would notice a shift ten times later, one of none never.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from mlbox.serve.predictions.batches import Batch, table_of

if TYPE_CHECKING:
    import pyarrow as pa


class _Memory:
    """Of one model."""

    def __init__(self, whole_from: str) -> None:
        self.whole_from = whole_from
        """The id from which on no row is missing."""
        self.batches: deque[Batch] = deque()
        self.rows = 0


class Unkept:
    """Of each model at most so many rows that users were given, the newest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._models: dict[str, _Memory] = {}

    def add(self, batch: Batch, left: Batch) -> None:
        """Remember what was left of a batch; the oldest give way to it."""
        if batch.role == "shadow":
            return
        with self._lock:
            known = self._models.setdefault(batch.model, _Memory(batch.ids[0]))
            if not left.ids:
                return
            known.batches.append(msgspec.structs.replace(left, caller="", entities=(), keys=()))
            known.rows += len(left.ids)
            while known.rows - len(known.batches[0].ids) >= self._most:
                oldest = known.batches.popleft()
                known.rows -= len(oldest.ids)
                known.whole_from = oldest.ids[-1]

    def of(self, model: str) -> tuple[str, pa.Table] | None:
        """Its rows as the log would have them, and the id from which on no row is missing; None where there are none."""
        with self._lock:
            known = self._models.get(model)
            batches, whole_from = (list(known.batches), known.whole_from) if known else ([], "")
        return (whole_from, table_of(batches)) if batches else None

    def forget(self, model: str) -> None:
        """Know nothing of a model."""
        with self._lock:
            self._models.pop(model, None)
