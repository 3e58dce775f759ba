"""Two versions of a model, scored on the same frozen rows and compared (see `compare`), all together and by segment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from mlbox.errors import Conflict, InvalidInput
from mlbox.records import Compared, CompareSpec, Comparison, ModelVersion, PromotionPolicy
from mlbox.serve import compare as tests
from mlbox.serve.check import score_onnx
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets import Datasets
from mlbox.store.model_folders import ModelFolders
from mlbox.store.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST_ROWS = 1_000_000
MOST_SEGMENTS = 20
"""Of each column, the largest."""


class Comparer:
    """Compares versions."""

    def __init__(self, registry: Registry, datasets: Datasets, artifacts: Artifacts) -> None:
        self._registry = registry
        self._datasets = datasets
        self._folders = ModelFolders(artifacts)

    def freeze(self, policy: PromotionPolicy) -> PromotionPolicy:
        """A policy whose comparison names the rows by their hash; raises NotFound, and InvalidInput for columns that are not."""
        if policy.compare is None:
            return policy
        spec = policy.compare
        dataset = self._datasets.version(spec.dataset)
        if spec.hash and spec.hash != dataset.hash:
            raise _other_rows(spec, dataset.hash)
        _check_columns(spec, {column.name for column in dataset.columns})
        return msgspec.structs.replace(
            policy, compare=msgspec.structs.replace(spec, dataset=dataset.ref, hash=dataset.hash)
        )

    def compare(self, model: str, first: int, second: int, spec: CompareSpec) -> Comparison:
        """How the second version does against the first.

        Raises NotFound, InvalidInput for rows of which nothing can be said, and Conflict where the rows are not those that
        the comparison names by hash.
        """
        versions = [self._registry.version(model, number) for number in (first, second)]
        dataset = self._datasets.version(spec.dataset)
        if spec.hash and spec.hash != dataset.hash:
            raise _other_rows(spec, dataset.hash)
        if dataset.rows > MOST_ROWS:
            raise InvalidInput(
                f"{dataset.ref} has {dataset.rows:,} rows, and {MOST_ROWS:,} are compared.",
                hint="Make a version with fewer.",
                field="dataset",
            )
        _check_columns(spec, {column.name for column in dataset.columns})
        table = self._datasets.open_table(dataset.ref)
        labels = _numbers(table, spec.label)
        scores = [self._scores(version, table) for version in versions]
        groups = _groups(table, spec.entity)
        found = [_compared(spec, labels, scores, groups, "")]
        found += [
            _compared(spec, labels[rows], [one[rows] for one in scores], None if groups is None else groups[rows], name)
            for name, rows in _segments(table, spec.segments)
        ]
        named = msgspec.structs.replace(spec, dataset=dataset.ref, hash=dataset.hash)
        return Comparison(
            model=model, first=first, second=second, spec=named, found=tuple(found), notes=_notes(versions, dataset.ref)
        )

    def _scores(self, version: ModelVersion, table: pa.Table) -> np.ndarray:
        import numpy as np

        if version.artifact is None or not version.servable or not version.features:
            raise InvalidInput(
                f"{version.ref} gives no scores for rows of features.",
                hint="Compare tabular ONNX models.",
                field="version",
            )
        absent = [name for name in version.features if name not in table.column_names]
        if absent:
            raise InvalidInput(
                f"The dataset has no column {absent[0]!r}, which {version.ref} takes.",
                hint="Compare on rows with the features of both.",
                field="dataset",
            )
        rows = np.stack([_numbers(table, name) for name in version.features], axis=1).astype(np.float32)
        return score_onnx(self._folders.of_version(self._registry, version), rows)


def _other_rows(spec: CompareSpec, found: str) -> Conflict:
    return Conflict(
        f"{spec.dataset} has the hash {found[:12]}, and the comparison is on {spec.hash[:12]}.",
        hint="Compare both versions on the same rows.",
        field="dataset",
    )


def _check_columns(spec: CompareSpec, there: set[str]) -> None:
    for name in (spec.label, *spec.entity, *spec.segments):
        if name not in there:
            raise InvalidInput(
                f"{spec.dataset} has no column {name!r:.80}.", hint="`mlbox dataset show` lists them.", field="compare"
            )


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where it is missing."""
    import pyarrow as pa

    try:
        found: np.ndarray = table.column(name).cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise InvalidInput(f"The column {name!r} has no numbers.", hint="Name one that has.", field="label") from err
    return found


def _codes(table: pa.Table, name: str) -> tuple[np.ndarray, list[object]]:
    """A column as numbers of its values, and these; a missing value is a value."""
    encoded = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def _groups(table: pa.Table, columns: tuple[str, ...]) -> np.ndarray | None:
    """A number for each row, the same for rows about the same entity."""
    import numpy as np

    found: np.ndarray | None = None
    for name in columns:
        codes, values = _codes(table, name)
        found = codes if found is None else np.unique(found * len(values) + codes, return_inverse=True)[1]
    return found


def _segments(table: pa.Table, columns: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """The rows of each of the largest values of each column."""
    import numpy as np

    found = []
    for name in columns:
        codes, values = _codes(table, name)
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


def _notes(versions: list[ModelVersion], dataset: str) -> tuple[str, ...]:
    """What makes a comparison worth less."""
    return tuple(f"{version.ref} was trained on these rows." for version in versions if version.dataset == dataset)
