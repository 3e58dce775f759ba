"""How the values of a view are spread: now, over the rows of its table, and in each dataset that a model was trained on.

The figures are of at most a million rows, chosen by a hash of entity and time, so that the answer is the same every time. They
are kept until the table is computed again. What a dataset version keeps of its columns is taken as it is; its histogram, in the
same bins as today's, is counted from its files when first asked for, and kept, because a version never changes.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mlbox.records import Column, DatasetVersion, Distribution, FeatureView, Trained, ViewProfile
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.datasets.facts import QUANTILES
from mlbox.store.features.ondemand import Transforms
from mlbox.store.features.viewtables import Built, built_of
from mlbox.store.offline.offline import Offline, one, quote
from mlbox.store.offline.views import names, view_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

    Numbers = np.ndarray[Any, np.dtype[np.float64]]

T = TypeVar("T")
MOST_ROWS = 1_000_000
BINS = 20
MOST_BINS = 30
TOP = 10
SECONDS = 30.0
"""A profile that takes longer is given up."""
MOST_KEPT = 2000
_WORDS = tuple(f"q{round(quantile * 100):02}" for quantile in QUANTILES)
_OUTER = (0.01, 0.99)
"""The bins of a histogram lie between these quantiles: one odd value does not flatten all the others."""


class Profiles:
    """Distributions of the features of view versions."""

    def __init__(self, features: Transforms, offline: Offline, datasets: Datasets, artifacts: Artifacts) -> None:
        self._features = features
        self._offline = offline
        self._datasets = datasets
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Any] = OrderedDict()

    def now(self, ref: str, *, refresh: bool = False) -> ViewProfile:
        """A view version's rows as they were last computed; `refresh` computes them first.

        Raises NotFound, and InvalidInput where the view cannot be computed or the profile takes too long.
        """
        view = self._features.view(ref)
        if refresh:
            self._features.refresh(view)
        built = self._offline.read(lambda cursor: built_of(cursor, view.ref)) if self._offline.used else None
        if built is None:
            return ViewProfile(ref=view.ref, built=False, rows=0, sampled=0, features=())
        key = (view.ref, built)
        return self._get(key) or self._keep(key, self._profiled(view, built))

    def at_training(self, profile: ViewProfile, dataset: DatasetVersion) -> dict[str, Trained]:
        """A view's features as a dataset version has them, by name; with histograms where today has one."""
        today = {found.feature: found for found in profile.features}
        found = {}
        for column in dataset.columns:
            ref, _, feature = column.name.partition(":")
            if ref == profile.ref:
                kept = _of_statistics(feature, column, dataset)
                found[feature] = Trained(
                    dataset=dataset.ref,
                    created_at=dataset.created_at,
                    distribution=self._in_bins(kept, column, dataset, today.get(feature)),
                )
        return found

    def _in_bins(
        self, kept: Distribution, column: Column, dataset: DatasetVersion, today: Distribution | None
    ) -> Distribution:
        if today is None or not (today.edges or today.top):
            return kept
        key = (dataset.hash, column.name, today.edges, tuple(text for text, _ in today.top))
        return self._get(key) or self._keep(key, self._counted(kept, column, dataset, today))

    def _counted(
        self, kept: Distribution, column: Column, dataset: DatasetVersion, today: Distribution
    ) -> Distribution:
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [
            pq.read_table(self._artifacts.verified(file.sha256), columns=[column.name]).column(0)
            for file in dataset.files
        ]
        values = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
        if today.edges:
            return msgspec.structs.replace(kept, edges=today.edges, counts=counted(_numbers(values), today.edges))
        return msgspec.structs.replace(kept, top=_counted_texts(values, [text for text, _ in today.top]))

    # -- now ----------------------------------------------------------------------------------------------------------

    def _profiled(self, view: FeatureView, built: Built) -> ViewProfile:
        def read(cursor: Cursor) -> ViewProfile:
            rows = f"(SELECT * FROM {view_table(view.ref)} WHERE _last)"
            (total,) = one(cursor, f"SELECT count(*) FROM {rows}") or (0,)
            sample = rows if total <= MOST_ROWS else _sampled(view, rows, total)
            columns = ", ".join(f"{_number(c)} AS {quote(c.name)}" for c in view.features)
            cursor.execute(f"CREATE OR REPLACE TEMP TABLE sampled AS SELECT {columns} FROM {sample}")
            (taken,) = one(cursor, "SELECT count(*) FROM sampled") or (0,)
            found = tuple(_distribution(cursor, column, taken) for column in view.features)
            return ViewProfile(ref=view.ref, built=True, rows=total, sampled=taken, features=found)

        return self._offline.read(read, seconds=SECONDS)

    # -- what is kept ---------------------------------------------------------------------------------------------------

    def _get(self, key: Any) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Any, value: T) -> T:
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return value


def _sampled(view: FeatureView, rows: str, total: int) -> str:
    """About a million rows, by a hash of entity and time: the same ones every time."""
    share = math.floor(0.99 * MOST_ROWS / total * 2**32)
    return f"(SELECT * FROM {rows} WHERE hash({names(view.join_keys)}, _event) % {2**32} < {share} LIMIT {MOST_ROWS})"


def _number(column: Column) -> str:
    """A column as what is profiled: numbers as such, times as seconds, texts and truths as texts."""
    name = quote(column.name)
    if column.dtype == "TIMESTAMP":
        return f"epoch({name})"
    if column.dtype == "BOOL":
        return f"CASE WHEN {name} THEN 'true' WHEN NOT {name} THEN 'false' END"
    return f"CAST({name} AS DOUBLE)" if column.dtype in ("INT64", "FP64") else name


def _distribution(cursor: Cursor, column: Column, rows: int) -> Distribution:
    name = quote(column.name)
    (nulls,) = one(cursor, f"SELECT count(*) FROM sampled WHERE {name} IS NULL") or (0,)
    empty = Distribution(feature=column.name, dtype=column.dtype, rows=rows, nulls=nulls)
    if column.dtype in ("STRING", "BOOL"):
        return _of_texts(cursor, name, empty)
    finite = f"FROM sampled WHERE isfinite({name})"
    asked = [*QUANTILES, *_OUTER]
    summary = one(
        cursor,
        f"SELECT min({name}), max({name}), avg({name}), quantile_cont({name}, {asked}), count(*) {finite}",
    )
    if summary is None or not summary[4]:
        return empty
    low, high, mean, quantiles, _ = summary
    edges = edges_of(low, high, quantiles[-2], quantiles[-1], whole=column.dtype == "INT64")
    return msgspec.structs.replace(
        empty,
        min=low,
        max=high,
        mean=mean,
        quantiles=dict(zip(_WORDS, quantiles, strict=False)),
        edges=edges,
        counts=_in_sql(cursor, name, edges),
    )


def _of_texts(cursor: Cursor, name: str, empty: Distribution) -> Distribution:
    (distinct,) = one(cursor, f"SELECT approx_count_distinct({name}) FROM sampled") or (0,)
    top = cursor.execute(
        f"SELECT left({name}, 100) AS word, count(*) AS n FROM sampled WHERE {name} IS NOT NULL GROUP BY word"
        f" ORDER BY n DESC, word LIMIT {TOP}"
    ).fetchall()
    return msgspec.structs.replace(empty, distinct=distinct, top=tuple((word, n) for word, n in top))


def _in_sql(cursor: Cursor, name: str, edges: Sequence[float]) -> tuple[int, ...]:
    """Rows in each bin; what lies beyond the outer edges is in the outer bins."""
    inner = list(edges[1:-1])
    place = f"len(list_filter({inner}::DOUBLE[], lambda edge: edge <= {name}))" if inner else "0"
    found = dict(
        cursor.execute(f"SELECT {place} AS bin, count(*) FROM sampled WHERE isfinite({name}) GROUP BY bin").fetchall()
    )
    return tuple(found.get(bin_, 0) for bin_ in range(len(edges) - 1))


def edges_of(low: float, high: float, inner_low: float, inner_high: float, *, whole: bool) -> tuple[float, ...]:
    """Where the bins of a histogram begin, and where the last ends: one for each of a few whole numbers, else equal ones."""
    if whole and high - low < MOST_BINS:
        return tuple(value - 0.5 for value in range(int(low), int(high) + 2))
    begin, end = (inner_low, inner_high) if inner_low < inner_high else (low, high)
    width = end / BINS - begin / BINS  # the difference itself may not fit into a float
    edges = (*(begin + number * width for number in range(BINS)), end)
    return edges if all(a < b for a, b in itertools.pairwise(edges)) else (begin, end)


def counted(values: Numbers, edges: Sequence[float]) -> tuple[int, ...]:
    """Finite values in each bin; those beyond the outer edges are in the outer bins."""
    import numpy as np

    places = np.searchsorted(np.asarray(edges[1:-1], np.float64), values[np.isfinite(values)], side="right")
    return tuple(np.bincount(places, minlength=len(edges) - 1).tolist())


def _numbers(values: pa.ChunkedArray) -> Numbers:
    """Values as floats, times as seconds since 1970; nulls are NaN."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(values.type):
        values = pc.divide(
            values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6
        )
    found: Numbers = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    return found


def _counted_texts(values: pa.ChunkedArray, texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Rows of each of some categories."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.value_counts(pc.utf8_slice_codeunits(values.cast(pa.string()), 0, 100)).to_pylist()
    known = {entry["values"]: entry["counts"] for entry in found}
    return tuple((text, known.get(text, 0)) for text in texts)


def _of_statistics(feature: str, column: Column, dataset: DatasetVersion) -> Distribution:
    """What a dataset version keeps of a column."""
    kept = dataset.statistics.get(column.name, {})
    plain = Distribution(feature=feature, dtype=column.dtype, rows=dataset.rows, nulls=kept.get("nulls", 0))
    if column.dtype == "BOOL":
        return plain  # its shares say more than the quantiles of 0 and 1
    return msgspec.structs.replace(
        plain,
        min=kept.get("min"),
        max=kept.get("max"),
        mean=kept.get("mean"),
        quantiles={word: kept[word] for word in _WORDS if kept.get(word) is not None},
        distinct=kept.get("distinct_about"),
    )
