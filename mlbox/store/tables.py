"""Arrow tables in the forms that the stores keep: declared columns, declared types, times in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import Column, DType
from mlbox.store.casting import arrow_type as arrow_type
from mlbox.store.casting import cast_column, to_utc
from mlbox.store.catalog import suggest

if TYPE_CHECKING:
    import pyarrow as pa


def dtype_of(arrow: Any) -> DType:
    """The dtype that an Arrow type is closest to."""
    import pyarrow as pa

    if pa.types.is_boolean(arrow):
        return "BOOL"
    if pa.types.is_integer(arrow):
        return "INT64"
    if pa.types.is_floating(arrow) or pa.types.is_decimal(arrow):
        return "FP64"
    return "TIMESTAMP" if pa.types.is_temporal(arrow) else "STRING"


def conform(
    table: pa.Table, columns: Sequence[Column], *, required: Sequence[str] = (), text: bool = False
) -> pa.Table:
    """The declared columns of a table, in their types and with times rounded up to microseconds of UTC.

    Raises InvalidInput naming the column and, where it helps, the row, counted from 1. `text` allows to read numbers and
    times out of text, as CSV needs it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    _check_names(table.column_names, [column.name for column in columns])
    arrays = []
    for column in columns:
        values = cast_column(table.column(column.name), column, text=text, rounding="up")
        if column.name in required and values.null_count:
            row = pc.index(values.is_null(), True).as_py() + 1
            raise InvalidInput(f"{column.name!r} is null in row {row}.", hint="Fill it.", field=column.name)
        arrays.append(values)
    return pa.table(arrays, names=[column.name for column in columns])


def _check_names(found: Sequence[str], declared: Sequence[str]) -> None:
    for name in found:
        if name not in declared:
            raise InvalidInput(
                f"The column {name[:200]!r} is not declared.", hint=suggest(name, declared), field=name[:200]
            )
        if found.count(name) > 1:
            raise InvalidInput(f"The column {name!r} is there twice.", hint="Send it once.", field=name)
    for name in declared:
        if name not in found:
            raise InvalidInput(f"The column {name!r} is missing.", hint="Send it; it may be null.", field=name)


def arrow_utc(table: pa.Table) -> pa.Table:
    """The table with every time in UTC, in microseconds (rounded down) and without a zone: the store's own form."""
    import pyarrow as pa

    for index, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(index, column.name, to_utc(table.column(index)))
    return table
