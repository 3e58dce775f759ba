"""Rows of the prediction log as columns of numbers."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.serve.predictions.batches import shares_of
from mlbox.serve.predictions.files import FEATURE

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True)
class Window:
    """The last served predictions, oldest first: a float64 array per feature, NaN for missing, the scores, who gave them."""

    features: dict[str, np.ndarray]
    scores: np.ndarray
    versions: np.ndarray
    ids: Sequence[str] = ()
    domain_us: np.ndarray | Sequence[int] = ()
    shares: np.ndarray | Sequence[float] = ()
    """With which probability each was kept."""
    entities: Sequence[dict[str, Any]] = ()
    """Where they were asked for, as the next."""
    latency_ms: np.ndarray | Sequence[float] = ()

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.scores)


def window_of(parts: Sequence[pa.Table], *, whole_from: str | None = None) -> Window:
    """The rows of tables of the log; from the id `whole_from` on they are all that there were, whatever was kept of them."""
    import numpy as np
    import pyarrow as pa

    if not parts:
        return Window({}, np.empty(0), np.empty(0, np.int64))
    rows = pa.concat_tables(parts, promote_options="default").sort_by("id")
    names, ids = rows.column_names, rows.column("id").to_pylist()
    shares = shares_of(rows).to_numpy(zero_copy_only=False)
    if whole_from is not None:
        shares = np.where(np.arange(len(ids)) < bisect.bisect_left(ids, whole_from), shares, 1.0)
    return Window(
        {name.removeprefix(FEATURE): _floats(rows, name) for name in names if name.startswith(FEATURE)},
        _floats(rows, "score"),
        rows.column("version").to_numpy(),
        ids,
        rows.column("domain_us").to_numpy(),
        shares,
        [msgspec.json.decode(text) for text in rows.column("entity").to_pylist()] if "entity" in names else (),
        rows.column("latency_ms").to_numpy() if "latency_ms" in names else (),
    )


def _floats(rows: pa.Table, name: str) -> np.ndarray:
    import numpy as np

    return np.asarray(rows.column(name).to_numpy(zero_copy_only=False), np.float64)
