"""The current window of a version as small integers: D of every feature is one cumulative sum, and stays exact.

The sorted distinct values r1 < r2 < ... < rK of a feature's reference cut the line into 2K + 1 cells: below r1, r1, between
r1 and r2, r2 itself, ..., above rK. Both distribution functions are compared at the end of each cell. In between, the reference's
does not move and the current one only rises, so their distance is largest at an end: nothing is lost by not comparing all.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from mlbox.serve.monitoring.drift import Comparison

if TYPE_CHECKING:
    import numpy as np

MISSING, ABSENT = -1, -2
"""Instead of a cell: no value where one was wanted, and a row that the column is not asked of."""
ReferenceState = Literal["usable", "absent", "empty", "constant", "infinite"]


class Grid:
    """The cells of one feature, with what the reference has in each. A reference of float64, NaN for missing."""

    def __init__(self, reference: np.ndarray) -> None:
        import numpy as np

        there = reference[~np.isnan(reference)]
        self.rows, self.values = len(reference), len(there)
        self.points, self.counts = np.unique(there, return_counts=True)
        in_cells = np.zeros(self.width, np.int64)
        in_cells[1::2] = self.counts
        self.below = np.cumsum(in_cells)
        """How many of the reference's values are not above each cell's end."""

    @property
    def width(self) -> int:
        """How many cells there are."""
        return 2 * len(self.points) + 1

    @property
    def state(self) -> ReferenceState:
        """What is odd about the reference, if anything."""
        import numpy as np

        if not self.values:
            return "empty"
        if np.isinf(self.points[[0, -1]]).any():
            return "infinite"
        return "constant" if len(self.points) == 1 else "usable"

    def cells(self, values: np.ndarray) -> np.ndarray:
        """The cell of each of float64 values [N]; MISSING for NaN."""
        import numpy as np

        if not self.values:
            return np.where(np.isnan(values), MISSING, 0)
        at = np.searchsorted(self.points, values)
        found: np.ndarray = 2 * at + (self.points[np.minimum(at, len(self.points) - 1)] == values)
        found[np.isnan(values)] = MISSING
        return found


class Ring:
    """The last rows, of fixed number: their cells, their values, and how many are in each cell."""

    def __init__(self, grids: Sequence[Grid], size: int) -> None:
        import numpy as np

        self._grids = grids
        self._size = size
        narrow = all(grid.width < 2**15 for grid in grids)
        self._cells = np.full((len(grids), size), ABSENT, np.int16 if narrow else np.int32)
        self._values = np.full((len(grids), size), np.nan)
        self._counts = [np.zeros(grid.width, np.int64) for grid in grids]
        self._missing = [0] * len(grids)
        self._first = 0
        self.rows = 0

    def push(self, values: np.ndarray, asked: np.ndarray | None = None) -> None:
        """Take rows, the newest last: float64 [F, N], and where a column is not asked of a row, False in bool [F, N].

        The oldest give way to them.
        """
        import numpy as np

        values = values[:, -self._size :]
        count = values.shape[1]
        self.drop(max(0, self.rows + count - self._size))
        places = (self._first + self.rows + np.arange(count)) % self._size
        for number, grid in enumerate(self._grids):
            cells = grid.cells(values[number])
            if asked is not None:
                cells[~asked[number][-self._size :]] = ABSENT
            self._cells[number, places] = cells
            self._count(number, cells, 1)
        self._values[:, places] = values
        self.rows += count

    def drop(self, count: int) -> None:
        """Forget the oldest rows."""
        import numpy as np

        count = min(count, self.rows)
        places = (self._first + np.arange(count)) % self._size
        for number in range(len(self._grids)):
            self._count(number, self._cells[number, places], -1)
        self._cells[:, places] = ABSENT
        self._first = (self._first + count) % self._size
        self.rows -= count

    def _count(self, number: int, cells: np.ndarray, sign: int) -> None:
        import numpy as np

        np.add.at(self._counts[number], cells[cells >= 0], sign)
        self._missing[number] += sign * int((cells == MISSING).sum())

    def counts(self, number: int) -> np.ndarray:
        """How many of a feature's values are in each cell."""
        return self._counts[number]

    def values(self, number: int) -> np.ndarray:
        """A feature's values, without the missing ones and in no order."""
        kept: np.ndarray = self._values[number, self._cells[number] >= 0]
        return kept

    def compare(self, number: int) -> Comparison:
        """A feature against its reference: what `drift.compare` says of both samples, in a time that has no sorting."""
        import numpy as np

        grid, below = self._grids[number], np.cumsum(self._counts[number])
        n, m = grid.values, int(below[-1])
        lead = int(np.abs(below * n - grid.below * m).max())
        return Comparison(
            reference_rows=grid.rows,
            current_rows=m + self._missing[number],
            reference_missing=grid.rows - n,
            current_missing=self._missing[number],
            distance=Fraction(lead, n * m) if n and m else None,
        )
