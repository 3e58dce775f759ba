"""What a dataset's columns hold, gathered batch by batch in bounded memory.

Counts, bounds and means are exact. Quantiles, histograms and frequent values are of a sample: every k-th row, with k a power of
two that grows with the rows, so that the same rows give the same figures and a small dataset is its own sample. How many values
are distinct is estimated from the smallest hashes: Bar-Yossef et al., "Counting distinct elements in a data stream" (2002).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.records import Column
from mlbox.store.offline.offline import quote

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

SAMPLED_ROWS = (4096, 65_536)
"""A sample has no fewer rows than this, where there are as many, and at most twice the second."""
SAMPLED_VALUES = 1 << 20
"""Of all columns together, where the bounds allow it."""
BINS = 20
TOP = 20
"""Categories whose rows are counted."""
SHOWN = 100
"""Characters of a category."""
SMALLEST = 4096
"""Hashes that are kept of a column: the estimate is then within some 1.6 %, and exact below as many values."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORDS = tuple(f"q{round(quantile * 100):02}" for quantile in QUANTILES)


class Facts:
    """Statistics of a table; add all of its rows, in their order."""

    def __init__(self, columns: Sequence[Column]) -> None:
        low, high = SAMPLED_ROWS
        self._most = 2 * min(high, max(low, SAMPLED_VALUES // max(1, len(columns))))
        self._every = 1
        self._seen = 0
        self._columns = [_Numbers(c.name) if c.dtype in ("INT64", "FP64", "BOOL") else _Others(c.name) for c in columns]
        self._distinct = _Distinct([c.name for c in columns if c.dtype == "STRING"])

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        first = -self._seen % self._every
        for column in self._columns:
            column.add(table.column(column.name), slice(first, None, self._every))
        self._distinct.add(table)
        self._seen += table.num_rows
        while -(-self._seen // self._every) > self._most:
            self._every *= 2
            for column in self._columns:
                column.thin()

    def copy(self) -> Facts:
        """The same so far, to be dumped or to be added to by itself."""
        made = copy.copy(self)
        made._columns = [one.copy() for one in self._columns]
        made._distinct = self._distinct.copy()
        return made

    def dump(self) -> bytes:
        """All of it, for `resumed`."""
        told = {
            "seen": self._seen,
            "every": self._every,
            "columns": [one.dump() for one in self._columns],
            "distinct": {name: kept.tobytes() for name, kept in self._distinct.smallest.items()},
        }
        return msgspec.msgpack.encode(told)

    @classmethod
    def resumed(cls, columns: Sequence[Column], dumped: bytes) -> Facts:
        """Facts of what was counted before, to be added to."""
        import numpy as np

        told = msgspec.msgpack.decode(dumped)
        made = cls(columns)
        made._seen, made._every = told["seen"], told["every"]
        for one, state in zip(made._columns, told["columns"], strict=True):
            one.load(state)
        made._distinct.smallest = {n: np.frombuffer(kept, np.uint64) for n, kept in told["distinct"].items()}
        return made

    def found(self) -> dict[str, dict[str, Any]]:
        """Per column: nulls; of numbers (without NaN) also min, max, mean, quantiles and a histogram; of others the most
        frequent values and, of times, the first and last.
        """
        found = {column.name: column.found(self._every) for column in self._columns}
        for name, count in self._distinct.found().items():
            found[name] |= {"distinct_about": count}
        return found


class _Numbers:
    def __init__(self, name: str) -> None:
        self.name = name
        self._nulls = self._count = 0
        self._low, self._high, self._sum = float("inf"), float("-inf"), 0.0
        self._sample: list[np.ndarray] = []

    def add(self, values: pa.ChunkedArray, sampled: slice) -> None:
        import numpy as np
        import pyarrow as pa

        self._nulls += values.null_count
        every = values.cast(pa.float64(), safe=False).to_numpy()
        self._sample.append(every[sampled].copy())
        low, high = float(np.fmin.reduce(every, initial=np.inf)), float(np.fmax.reduce(every, initial=-np.inf))
        total = float(every.sum())
        if total != total:  # a value is missing, or infinite ones cancel out
            every = every[~np.isnan(every)]
            total = float(every.sum())
        self._count += len(every)
        self._low, self._high, self._sum = min(self._low, low), max(self._high, high), self._sum + total

    def thin(self) -> None:
        import numpy as np

        self._sample = [np.concatenate(self._sample)[::2].copy()]

    def copy(self) -> _Numbers:
        made = copy.copy(self)
        made._sample = list(self._sample)
        return made

    def dump(self) -> list[Any]:
        sample = b"".join(one.tobytes() for one in self._sample)
        return [self._nulls, self._count, self._low, self._high, self._sum, sample]

    def load(self, state: list[Any]) -> None:
        import numpy as np

        self._nulls, self._count, self._low, self._high, self._sum, sample = state
        self._sample = [np.frombuffer(sample, np.float64)]

    def found(self, every: int) -> dict[str, Any]:
        import numpy as np

        sample = np.concatenate(self._sample) if self._sample else np.empty(0)
        sample = sample[~np.isnan(sample)]
        known = np.quantile(sample, QUANTILES).tolist() if len(sample) else [None] * len(QUANTILES)
        finite = sample[np.isfinite(sample)]
        counts, edges = np.histogram(finite, BINS) if len(finite) else (np.empty(0), np.empty(0))
        return {
            "min": self._low if self._count else None,
            "max": self._high if self._count else None,
            "mean": self._sum / self._count if self._count else None,
            **dict(zip(_WORDS, known, strict=True)),
            "nulls": self._nulls,
            "histogram": {"edges": edges.tolist(), "counts": (counts * every).tolist()},
        }


class _Others:
    def __init__(self, name: str) -> None:
        self.name = name
        self._nulls = 0
        self._bounds: list[Any] = []
        self._sample: list[pa.Array] = []

    def add(self, values: pa.ChunkedArray, sampled: slice) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        self._nulls += values.null_count
        if pa.types.is_timestamp(values.type):
            bounds = pc.min_max(values).as_py()
            self._bounds = [one for one in (*self._bounds, bounds["min"], bounds["max"]) if one is not None]
            self._bounds = [min(self._bounds), max(self._bounds)] if self._bounds else []
            return
        taken = _text(values.take(pa.array(np.arange(len(values))[sampled])))
        if taken is not None:
            self._sample.append(pc.utf8_slice_codeunits(taken, 0, SHOWN).combine_chunks())

    def thin(self) -> None:
        import pyarrow as pa

        if self._sample:
            whole = pa.concat_arrays(self._sample)
            self._sample = [whole.take(pa.array(range(0, len(whole), 2)))]

    def copy(self) -> _Others:
        made = copy.copy(self)
        made._sample, made._bounds = list(self._sample), list(self._bounds)
        return made

    def dump(self) -> list[Any]:
        bounds = [to_us(one if one.tzinfo else one.replace(tzinfo=UTC)) for one in self._bounds]
        aware = bool(self._bounds) and self._bounds[0].tzinfo is not None
        return [self._nulls, bounds, aware, [one.to_pylist() for one in self._sample]]

    def load(self, state: list[Any]) -> None:
        import pyarrow as pa

        self._nulls, bounds, aware, sample = state
        moments = [from_us(one) for one in bounds]
        self._bounds = moments if aware else [one.replace(tzinfo=None) for one in moments]
        self._sample = [pa.array(one, pa.string()) for one in sample]

    def found(self, every: int) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._bounds:
            return {"first": self._bounds[0].isoformat(), "last": self._bounds[1].isoformat(), "nulls": self._nulls}
        counted = pc.value_counts(pa.chunked_array(self._sample, pa.string()).drop_null()).to_pylist()
        often = sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:TOP]
        return {"top": {one["values"]: one["counts"] * every for one in often}, "nulls": self._nulls}


class _Distinct:
    """About how many values columns of text have."""

    def __init__(self, names: Sequence[str]) -> None:
        import numpy as np

        self.smallest = {name: np.empty(0, np.uint64) for name in names}
        self._duckdb: Cursor | None = None

    def copy(self) -> _Distinct:
        made = copy.copy(self)
        made.smallest, made._duckdb = dict(self.smallest), None
        return made

    def add(self, table: pa.Table) -> None:
        import duckdb
        import numpy as np

        if not self.smallest or not table.num_rows:
            return
        if self._duckdb is None:
            self._duckdb = duckdb.connect(config={"threads": 1})
        hashed = ", ".join(f"hash({quote(name)}) AS c{at}" for at, name in enumerate(self.smallest))
        self._duckdb.register("texts", table.select(list(self.smallest)))
        hashes = self._duckdb.sql(f"SELECT {hashed} FROM texts").to_arrow_table()
        self._duckdb.unregister("texts")
        for at, (name, kept) in enumerate(self.smallest.items()):
            found = np.asarray(hashes.column(at))
            if table.column(name).null_count:
                found = found[np.asarray(table.column(name).is_valid())]
            if len(kept) == SMALLEST:
                found = found[found < kept[-1]]
            self.smallest[name] = np.unique(np.concatenate([kept, found]))[:SMALLEST]

    def found(self) -> dict[str, int]:
        return {name: _distinct(kept) for name, kept in self.smallest.items()}


def _distinct(smallest: np.ndarray) -> int:
    if len(smallest) < SMALLEST:
        return len(smallest)
    return round((SMALLEST - 1) / (int(smallest[-1]) / 2**64))


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Values as text; None for those that have none, such as lists."""
    import pyarrow as pa

    try:
        return values.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return None
