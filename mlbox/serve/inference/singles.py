"""Requests of a row of one tensor each that say the same beside it, for the one quick version that answers them.

What follows from the version and from what they say is found out once, so that a row costs little more than its run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlbox.ids import new_ids
from mlbox.serve.inference.answers import Inferred, Running
from mlbox.serve.inference.execution import Ask, Begun, shown, wanted_of
from mlbox.serve.inference.tab import Entry
from mlbox.serve.inference.targets import Target
from mlbox.serve.inference.tensors import Tensor, check_inputs
from mlbox.serve.inference.work import Work

if TYPE_CHECKING:
    import numpy as np


class Singles:
    """Answers them. Raises InvalidInput for outputs that the version does not have."""

    def __init__(self, target: Target, caller: str, name: str, dtype: str, outputs: Sequence[str] = ()) -> None:
        assert target.alone is not None
        self.target = target
        self.caller = caller
        self.outputs = outputs
        self.route, self.loaded = target.alone
        self._name = name
        self._dtype = dtype
        self._wanted = wanted_of(self.loaded, outputs, target.model)
        self._named = outputs or self._wanted
        self._checked: tuple[int, ...] | None = None
        """The shape of a row that was seen to be the version's."""

    def run(self, data: np.ndarray) -> Entry:
        """Answer rows; raises what is wrong with them, or Apart, and nothing has happened then."""
        loaded, rows = self.loaded, len(data)
        tensors = [Tensor(self._name, self._dtype, data)]
        if data.shape[1:] != self._checked:
            check_inputs(loaded.inputs, tensors, self.target.model)
            self._checked = data.shape[1:]
        work = Work(tensors, self._wanted, rows=rows)
        running = Running(loaded, self.route, range(rows), work, self._named, self.caller)
        loaded.used = time.perf_counter()
        ran, runs = loaded.lane.run_rows({self._name: data}, self._wanted, rows)
        work.ids = new_ids(rows)
        return Entry(shown(running, ran), runs, data.nbytes)

    def begun(self, entry: Entry) -> Begun:
        """The request that these rows are, for who answers it as well."""
        tensors, rows = entry.part.running.work.tensors, len(entry.part.ids)
        ask = Ask(self.target, tensors, self.caller, self.outputs)
        return Begun(ask, rows, [self.route], [], self.loaded.inputs)

    def inferred(self, entry: Entry) -> Inferred:
        """What the rows are answered with."""
        part, rows = entry.part, len(entry.part.ids)
        return Inferred(part.outputs, part.ids, [self.route.version] * rows, [self.route.role] * rows)
