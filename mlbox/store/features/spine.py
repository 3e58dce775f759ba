"""The rows that features are asked for: entities and moments, checked and in the types that the views declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column
from mlbox.store.casting import Rounding, cast_column
from mlbox.store.features.vectors import Plan

if TYPE_CHECKING:
    import pyarrow as pa

    Keys = dict[tuple[str, str], str]


def asked_of(spine: pa.Table, plan: Plan, event_time: str) -> tuple[pa.Table, Keys]:
    """What a join needs of a spine: `_row`, `_at` and the join keys; and each key's column, by its name and type.

    Raises InvalidInput naming the column and, where it helps, the row, counted from 1.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = {(key.name, key.dtype): key for view in plan.views for key in view.join_keys}
    for name in (event_time, *(name for name, _ in wanted)):
        _check_once(spine, name)
    taken = sorted(set(plan.features) & set(spine.column_names))
    if taken:
        raise InvalidInput(f"The rows have a column {taken[0]!r} already.", hint="Leave it out.", field="features")
    at = _cast(spine, Column(name=event_time, dtype="TIMESTAMP"))
    if at.null_count:
        row = pc.index(at.is_null(), True).as_py() + 1
        raise InvalidInput(f"{event_time!r} is null in row {row}.", hint="Fill it.", field=f"spine.{event_time}")
    columns = {"_row": pa.array(np.arange(spine.num_rows)), "_at": at}
    keys: Keys = {}
    for index, (kind, key) in enumerate(wanted.items()):
        keys[kind] = f"key{index}"
        columns[keys[kind]] = _cast(spine, key, rounding="up")  # as it is in sources
    return pa.table(columns), keys


def _check_once(spine: pa.Table, name: str) -> None:
    found = spine.column_names.count(name)
    if found != 1:
        raise InvalidInput(
            f"The rows have no column {name!r}." if not found else f"The rows have the column {name!r} twice.",
            hint=suggest(name, spine.column_names) if not found else "Send it once.",
            field=f"spine.{name}",
        )


def _cast(spine: pa.Table, column: Column, rounding: Rounding = "down") -> Any:
    try:
        return cast_column(spine.column(column.name), column, rounding=rounding)
    except InvalidInput as err:
        err.field = f"spine.{column.name}"
        raise
