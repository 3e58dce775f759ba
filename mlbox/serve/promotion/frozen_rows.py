"""Rows of a frozen dataset version on which versions are judged, and what these answer on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlbox.errors import Conflict, InvalidInput
from mlbox.records import DatasetVersion, ModelVersion
from mlbox.serve.inference.check import score_onnx
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pyarrow as pa

MOST_ROWS = 1_000_000


class FrozenRows:
    """Opens dataset versions by name and hash, and has them scored."""

    def __init__(self, registry: Registry, datasets: Datasets, artifacts: Artifacts) -> None:
        self._registry = registry
        self._datasets = datasets
        self._folders = ModelFolders(artifacts)

    def dataset(self, ref: str, digest: str, columns: Iterable[str], *, field: str) -> DatasetVersion:
        """The version of this name; raises NotFound, Conflict where its hash is another, InvalidInput for absent columns."""
        dataset = self._datasets.version(ref)
        if digest and digest != dataset.hash:
            raise Conflict(
                f"{ref} has the hash {dataset.hash[:12]}, and the {_NOUNS[field]} is on {digest[:12]}.",
                hint="Use the same rows for all versions.",
                field="dataset",
            )
        there = {column.name for column in dataset.columns}
        for name in columns:
            if name not in there:
                raise InvalidInput(
                    f"{ref} has no column {name!r:.80}.", hint="`mlbox dataset show` lists them.", field=field
                )
        return dataset

    def table(self, dataset: DatasetVersion) -> pa.Table:
        """Its rows; raises InvalidInput for more than are judged."""
        if dataset.rows > MOST_ROWS:
            raise InvalidInput(
                f"{dataset.ref} has {dataset.rows:,} rows, and {MOST_ROWS:,} are judged at most.",
                hint="Make a version with fewer.",
                field="dataset",
            )
        return self._datasets.open_table(dataset.ref)

    def scores(self, version: ModelVersion, table: pa.Table) -> np.ndarray:
        """What a version answers to each row; raises InvalidInput for one that takes no rows of features."""
        import numpy as np

        if version.artifact is None or not version.servable or not version.features:
            raise InvalidInput(
                f"{version.ref} gives no scores for rows of features.",
                hint="Judge tabular ONNX models.",
                field="version",
            )
        absent = [name for name in version.features if name not in table.column_names]
        if absent:
            raise InvalidInput(
                f"The dataset has no column {absent[0]!r}, which {version.ref} takes.",
                hint="Judge on rows with all of its features.",
                field="dataset",
            )
        rows = np.stack([numbers(table, name) for name in version.features], axis=1).astype(np.float32)
        return score_onnx(self._folders.of_version(self._registry, version), rows)


_NOUNS = {"compare": "comparison", "fairness": "fairness"}


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where it is missing."""
    import pyarrow as pa

    try:
        found: np.ndarray = table.column(name).cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise InvalidInput(f"The column {name!r} has no numbers.", hint="Name one that has.", field="label") from err
    return found


def encode(table: pa.Table, name: str) -> tuple[np.ndarray, list[object]]:
    """A column as numbers of its values, and these; a missing value is a value."""
    encoded = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def seen_in_training(versions: Iterable[ModelVersion], dataset: str) -> tuple[str, ...]:
    """What makes a judgement worth less: the versions that know these rows."""
    return tuple(f"{version.ref} was trained on these rows." for version in versions if version.dataset == dataset)
