"""Two versions of a model, scored on the same frozen rows and compared (see `compare`), all together and by segment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Compared, CompareSpec, Comparison, DatasetVersion, PromotionPolicy
from mlbox.serve.promotion import compare as tests
from mlbox.serve.promotion.frozen_rows import FrozenRows, encode, numbers, seen_in_training
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST_SEGMENTS = 20
"""Of each column, the largest."""


class Comparer:
    """Compares versions."""

    def __init__(self, registry: Registry, rows: FrozenRows) -> None:
        self._registry = registry
        self._rows = rows

    def freeze(self, policy: PromotionPolicy) -> PromotionPolicy:
        """A policy whose comparison names the rows by their hash; raises NotFound, and InvalidInput for columns that are not."""
        if policy.compare is None:
            return policy
        return msgspec.structs.replace(policy, compare=self._named(policy.compare, self._dataset(policy.compare)))

    def compare(self, model: str, first: int, second: int, spec: CompareSpec) -> Comparison:
        """How the second version does against the first.

        Raises NotFound, InvalidInput for rows of which nothing can be said, and Conflict where the rows are not those that
        the comparison names by hash.
        """
        versions = [self._registry.version(model, number) for number in (first, second)]
        dataset = self._dataset(spec)
        table = self._rows.table(dataset)
        labels = numbers(table, spec.label)
        scores = [self._rows.scores(version, table) for version in versions]
        groups = _groups(table, spec.entity)
        found = [_compared(spec, labels, scores, groups, "")]
        found += [
            _compared(spec, labels[rows], [one[rows] for one in scores], None if groups is None else groups[rows], name)
            for name, rows in _segments(table, spec.segments)
        ]
        return Comparison(
            model=model,
            first=first,
            second=second,
            spec=self._named(spec, dataset),
            found=tuple(found),
            notes=seen_in_training(versions, dataset.ref),
        )

    def _dataset(self, spec: CompareSpec) -> DatasetVersion:
        columns = (spec.label, *spec.entity, *spec.segments)
        return self._rows.dataset(spec.dataset, spec.hash, columns, field="compare")

    def _named(self, spec: CompareSpec, dataset: DatasetVersion) -> CompareSpec:
        return msgspec.structs.replace(spec, dataset=dataset.ref, hash=dataset.hash)


def _groups(table: pa.Table, columns: tuple[str, ...]) -> np.ndarray | None:
    """A number for each row, the same for rows about the same entity."""
    import numpy as np

    found: np.ndarray | None = None
    for name in columns:
        codes, values = encode(table, name)
        found = codes if found is None else np.unique(found * len(values) + codes, return_inverse=True)[1]
    return found


def _segments(table: pa.Table, columns: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """The rows of each of the largest values of each column."""
    import numpy as np

    found = []
    for name in columns:
        codes, values = encode(table, name)
        counts = np.bincount(codes, minlength=len(values))
        for code in np.argsort(-counts, kind="stable")[:MOST_SEGMENTS]:
            found.append((f"{name}={values[code]}", np.flatnonzero(codes == code)))
    return found


def _compared(
    spec: CompareSpec, labels: np.ndarray, scores: list[np.ndarray], groups: np.ndarray | None, segment: str
) -> Compared:
    """One comparison; of a segment that says nothing it is said why, and of all rows it is an error."""
    import numpy as np

    rows = len(labels)
    count = rows if groups is None else len(np.unique(groups))
    if count < tests.LEAST_ROWS:
        words = (
            f"{count} {'rows' if groups is None else 'entities'}, and of fewer than {tests.LEAST_ROWS} nothing is said"
        )
        return Compared(segment=segment, rows=rows, outcome="undecided", note=words)
    try:
        found = tests.compare(spec.metric, labels, *scores, groups=groups)
    except InvalidInput as err:
        if not segment:
            raise
        return Compared(segment=segment, rows=rows, outcome="undecided", note=err.message)
    lower = spec.metric in tests.LOWER_IS_BETTER
    outcome = tests.outcome(found, spec.margin, lower_is_better=lower)
    needed = tests.rows_to_decide(found, spec.margin, rows, lower_is_better=lower) if outcome == "undecided" else None
    return Compared(
        segment=segment,
        rows=rows,
        outcome=outcome,
        first=_finite(found.first),
        second=_finite(found.second),
        difference=_finite(found.value),
        low=_finite(found.low),
        high=_finite(found.high),
        p_value=found.p_value,
        method=found.method,
        rows_to_decide=needed,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
