"""Features of requests that were made, as the history knows them for the moment of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import Column
from mlbox.store.casting import arrow_type
from mlbox.store.features.ondemand import Transforms
from mlbox.store.given import given_value

if TYPE_CHECKING:
    import pyarrow as pa

AT = "at:served"
"""The moment's column: no join key can have this name."""


def as_known(
    store: Transforms, names: Sequence[str], entities: Sequence[Mapping[str, Any]], moments_us: Sequence[int]
) -> tuple[list[int], dict[str, list[float | None]]]:
    """The places of those entities that name what the features of a view are looked up by, and their values by feature.

    Raises NotFound for a feature that the store does not have.
    """
    import pyarrow as pa

    columns = store.asked_with(names)
    found = [(place, keys) for place, entity in enumerate(entities) if (keys := _keys(entity, columns)) is not None]
    if not found:
        return [], {}
    arrays = {column.name: _array([keys[column.name] for _, keys in found], column) for column in columns}
    moments = pa.array([moments_us[place] for place, _ in found], pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = store.historical(names, pa.table({AT: moments, **arrays}), event_time=AT)
    return [place for place, _ in found], {
        name: [_as_served(value) for value in table.column(name).to_pylist()] for name in names
    }


def _keys(entity: Mapping[str, Any], columns: Sequence[Column]) -> dict[str, Any] | None:
    """Every join key in its type; None where one is missing, or is something else."""
    try:
        return {column.name: given_value(entity[column.name], column, column.name) for column in columns}
    except (KeyError, InvalidInput):
        return None


def _array(values: Sequence[Any], column: Column) -> pa.Array:
    import pyarrow as pa

    kind = arrow_type(column.dtype)
    return pa.array(values, pa.int64() if column.dtype == "TIMESTAMP" else kind).cast(kind)


def _as_served(value: Any) -> float | None:
    """As a model is given it."""
    return None if value is None or isinstance(value, str | datetime) else float(value)
