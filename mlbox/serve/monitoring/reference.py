"""The training reference: a sample of the rows a model learned from, which drift is measured against.

It is taken from the dataset at registration and kept with the version, so that it stays what it was.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlbox.errors import NotFound
from mlbox.records import ModelVersion
from mlbox.store.artifacts import Artifacts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MAX_ROWS = 10_000
SCORE = "score"
"""The key of the scores that the model gives to the training rows."""


Scorer = Callable[["np.ndarray"], "np.ndarray"]
"""Scores [N] of rows [N, F], whose columns are the features in order."""


def make_reference(
    table: pa.Table, features: Sequence[str], *, scorer: Scorer | None = None, limit: int = MAX_ROWS, seed: int = 0
) -> bytes:
    """An .npz with one float64 array for each feature that is a number; missing values are NaN.

    At most `limit` rows, the same ones of every feature, drawn without replacement and reproducibly. With a scorer, and
    where every feature is a number, the array `score` holds what the model says of these rows.
    """
    import numpy as np
    import pyarrow as pa

    rows = np.arange(table.num_rows)
    if table.num_rows > limit:
        rows = np.sort(np.random.default_rng(seed).choice(table.num_rows, size=limit, replace=False))
    sample = table.select(list(features)).take(pa.array(rows))
    arrays = {}
    for name in features:
        column = sample.column(name)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            arrays[name] = column.cast(pa.float64()).to_numpy()
    if scorer is not None and len(arrays) == len(features) and SCORE not in arrays:
        arrays[SCORE] = scorer(np.stack([arrays[name] for name in features], axis=1).astype(np.float32))
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def store_reference(artifacts: Artifacts, content: bytes) -> str:
    """Keep a reference; its SHA-256."""
    return artifacts.put([content])[0]


def load_reference(artifacts: Artifacts, version: ModelVersion) -> dict[str, np.ndarray]:
    """Training values by feature reference, as float64 with NaN for missing; raises NotFound."""
    import numpy as np

    if version.reference is None:
        raise NotFound(
            f"{version.ref} has no training reference.", hint="Register it from a run with a dataset.", field="version"
        )
    with np.load(artifacts.path(version.reference), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
