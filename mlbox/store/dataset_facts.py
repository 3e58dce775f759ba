"""What a dataset's columns hold, gathered batch by batch: exact counts and bounds, and quantiles and histograms of a sample.

The sample is every k-th row, with k so that it has `SAMPLE` rows at most: the same rows give the same figures, and a small
dataset is its own sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlbox.records import Column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SAMPLE = 1_000_000
BINS = 20
TOP = 20
"""Categories whose rows are counted."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORDS = tuple(f"q{round(quantile * 100):02}" for quantile in QUANTILES)


class Facts:
    """Statistics of a table of so many rows; add all of them, in their order."""

    def __init__(self, columns: Sequence[Column], rows: int) -> None:
        self._every = max(1, -(-rows // SAMPLE))
        self._seen = 0
        self._columns = [_Numbers(c.name) if c.dtype in ("INT64", "FP64", "BOOL") else _Others(c.name) for c in columns]

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        first = -self._seen % self._every
        for column in self._columns:
            column.add(table.column(column.name), slice(first, None, self._every))
        self._seen += table.num_rows

    def found(self) -> dict[str, dict[str, Any]]:
        """Per column: nulls; of numbers (without NaN) also min, max, mean, quantiles and a histogram; of others the most
        frequent values and, of times, the first and last.
        """
        return {column.name: column.found() for column in self._columns}


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
        self._sample.append(every[sampled])
        missing = np.isnan(every)
        if missing.any():
            every = every[~missing]
        if len(every):
            self._count += len(every)
            self._low, self._high = min(self._low, float(every.min())), max(self._high, float(every.max()))
            self._sum += float(every.sum())

    def found(self) -> dict[str, Any]:
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
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }


class _Others:
    def __init__(self, name: str) -> None:
        self.name = name
        self._nulls = 0
        self._bounds: list[Any] = []
        self._sample: list[pa.ChunkedArray] = []

    def add(self, values: pa.ChunkedArray, sampled: slice) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        self._nulls += values.null_count
        if pa.types.is_timestamp(values.type):
            bounds = pc.min_max(values).as_py()
            self._bounds = [one for one in (*self._bounds, bounds["min"], bounds["max"]) if one is not None]
            self._bounds = [min(self._bounds), max(self._bounds)] if self._bounds else []
        else:
            self._sample.append(values.take(pa.array(np.arange(len(values))[sampled])))

    def found(self) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._bounds:
            return {"first": self._bounds[0].isoformat(), "last": self._bounds[1].isoformat(), "nulls": self._nulls}
        chunks = [chunk.cast(pa.string()) for values in self._sample for chunk in values.chunks]
        sample = pa.chunked_array(chunks, pa.string()).drop_null()
        counted = pc.value_counts(pc.utf8_slice_codeunits(sample, 0, 100)).to_pylist()
        often = sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:TOP]
        return {
            "distinct_about": pc.count_distinct(sample).as_py(),
            "top": {one["values"]: one["counts"] for one in often},
            "nulls": self._nulls,
        }
