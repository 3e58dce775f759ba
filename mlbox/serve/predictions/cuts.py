"""Segments by any column of the prediction log: a feature, or a key of the entity that was sent.

A column whose 20 most frequent values are half of its rows is cut by these values, whatever their type; what is not among them is
`others`. One of more different numbers is cut into tenths of what it is cut by: training's values, or those that were served.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import to_us
from mlbox.errors import InvalidInput
from mlbox.serve.predictions.files import FEATURE, LogFile
from mlbox.serve.predictions.log import PredictionLog

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SEGMENTS = 20
"""Values that are told by themselves, the most frequent."""
TENTHS = 10
MOST_ROWS = 2_000_000
"""Predictions that are cut at once."""
MOST_TEXT = 80
OTHERS, MISSING = "others", "missing"


class Cut(NamedTuple):
    """What numbers are cut into: `labels` are of the places that `places` gives; -1 is what is in none."""

    edges: np.ndarray
    """Sorted: the values themselves, or the upper ends of all bins but the last."""
    labels: tuple[str, ...]
    by_value: bool

    def places(self, values: np.ndarray) -> np.ndarray:
        """The segment of each value; -1 for missing ones and for others."""
        import numpy as np

        at = np.searchsorted(self.edges, values)
        if not self.by_value:
            return np.where(np.isnan(values), -1, at)
        there = np.minimum(at, len(self.edges) - 1)
        return np.where(self.edges[there] == values, there, -1) if len(self.edges) else np.full(len(values), -1)


def cut_of(values: np.ndarray, by: np.ndarray) -> Cut:
    """Cut values, by their most frequent ones or into tenths of `by`."""
    import numpy as np

    there = values[~np.isnan(values)]
    points, counts = np.unique(there, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:SEGMENTS]
    known = by[np.isfinite(by)]
    if 2 * counts[first].sum() >= len(there) or not len(known):
        edges = np.sort(points[first])
        return Cut(edges, tuple(f"{edge:.12g}" for edge in edges), True)
    edges = np.unique(np.quantile(known, np.arange(1, TENTHS) / TENTHS, method="inverted_cdf"))
    inner = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    return Cut(edges, (f"up to {edges[0]:g}", *inner, f"above {edges[-1]:g}"), False)


def segmented(
    log: PredictionLog,
    model: str,
    column: str,
    *,
    reference: Mapping[str, np.ndarray],
    since: datetime | None,
    until: datetime | None,
) -> pa.Table:
    """`_id` and `_segment` of a model's predictions of a time, by a feature or an entity's key.

    Raises InvalidInput for a column that none of them has, and for more of them than can be cut at once.
    """
    import pyarrow as pa

    times = [None if at is None else to_us(at) for at in (since, until)]
    with log.reading(model) as files:
        wanted = [file for file in files if file.spans(*times)]
        parts = [part for file in wanted if (part := _read(file, column)).num_rows]
    if sum(part.num_rows for part in parts) > MOST_ROWS:
        raise InvalidInput(
            f"These are more than {MOST_ROWS:,} predictions to cut by {column[:80]!r}.",
            hint="Give `since`.",
            field="segment",
        )
    rows = pa.concat_tables(parts, promote_options="default") if parts else pa.table({"_id": pa.array([], pa.string())})
    if "number" in rows.column_names:
        labels = _by_number(rows, reference.get(column))
    elif "text" in rows.column_names and rows.column("text").null_count < rows.num_rows:
        labels = _by_text(rows)
    else:
        raise InvalidInput(
            f"No prediction of {model} in that time has a feature or a key {column[:80]!r}.",
            hint=f"Segments are of one of: {', '.join(_columns(parts)) or 'none'}.",
            field="segment",
        )
    return pa.table({"_id": rows.column("_id"), "_segment": labels})


def _read(file: LogFile, column: str) -> pa.Table:
    """`_id`, with `number` where the column is a feature, or else `text` from the entity."""
    import pyarrow as pa

    name = FEATURE + column
    if name in file.names():
        rows = file.read(("id", name), features=False)
        return pa.table({"_id": rows.column("id"), "number": rows.column(name).cast(pa.float64())})
    rows = file.read(("id", "entity"), features=False)
    encoded = rows.column("entity").combine_chunks().dictionary_encode()
    found = [_text(msgspec.json.decode(text).get(column)) for text in encoded.dictionary.to_pylist()]
    features = [name.removeprefix(FEATURE) for name in file.names() if name.startswith(FEATURE)]
    known = {**dict.fromkeys(_keys(encoded.dictionary.to_pylist())), **dict.fromkeys(features)}
    table = pa.table({"_id": rows.column("id"), "text": pa.array(found, pa.string()).take(encoded.indices)})
    return table.replace_schema_metadata({"columns": "\n".join(known)})


def _keys(entities: Sequence[str]) -> list[str]:
    """Of the first few."""
    return [key for text in entities[:10] for key in msgspec.json.decode(text)]


def _columns(parts: Sequence[pa.Table]) -> list[str]:
    names = [name for part in parts for name in (part.schema.metadata or {}).get(b"columns", b"").decode().split("\n")]
    return [name for name in dict.fromkeys(names) if name][:50]


def _by_number(rows: pa.Table, reference: np.ndarray | None) -> Any:
    import numpy as np
    import pyarrow as pa

    values = rows.column("number").to_numpy().astype(np.float64)
    cut = cut_of(values, values if reference is None else reference)
    places = cut.places(values)
    places = np.where(places < 0, len(cut.labels) + np.isnan(values), places)
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), [*cut.labels, OTHERS, MISSING]).cast(
        pa.string()
    )


def _by_text(rows: pa.Table) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    text = rows.column("text")
    counted = sorted(
        ((one["values"], one["counts"]) for one in pc.value_counts(text).to_pylist() if one["values"] is not None),
        key=lambda one: (-one[1], one[0]),
    )
    top = pa.array([value for value, _ in counted[:SEGMENTS]], pa.string())
    named = pc.if_else(pc.is_in(text, value_set=top), text, OTHERS)
    return pc.fill_null(pc.if_else(pc.is_null(text), None, named), MISSING)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:MOST_TEXT]
