"""Arrow tables in the forms that the stores keep: declared columns, declared types, times in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import Column, DType
from mlbox.store.catalog import suggest

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_type(dtype: str) -> Any:
    """The Arrow type of a column's dtype."""
    import pyarrow as pa

    return {
        "BOOL": pa.bool_(),
        "INT64": pa.int64(),
        "FP64": pa.float64(),
        "STRING": pa.string(),
        "TIMESTAMP": pa.timestamp("us"),
    }[dtype]


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


def conform(table: pa.Table, columns: Sequence[Column], *, required: Sequence[str] = ()) -> pa.Table:
    """The declared columns of a table, in their types; raises InvalidInput naming a column, and a row where it helps."""
    import pyarrow as pa

    unknown = sorted(set(table.column_names) - {column.name for column in columns})
    if unknown:
        raise InvalidInput(
            f"The column {unknown[0]!r} is not declared.",
            hint=suggest(unknown[0], [column.name for column in columns]),
            field=unknown[0],
        )
    arrays = []
    for column in columns:
        if column.name not in table.column_names:
            raise InvalidInput(f"The column {column.name!r} is missing.", hint="Send it.", field=column.name)
        values = _cast(table.column(column.name), column)
        if column.name in required and values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise InvalidInput(f"{column.name!r} is null in row {row}.", hint="Fill it.", field=column.name)
        arrays.append(values)
    return pa.table(arrays, names=[column.name for column in columns])


def _cast(values: Any, column: Column) -> Any:
    import pyarrow as pa

    wanted = arrow_type(column.dtype)
    if column.dtype == "TIMESTAMP" and pa.types.is_timestamp(values.type):
        return values
    try:
        return values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise InvalidInput(
            f"{column.name!r} is {values.type}, and {column.dtype} is wanted: {str(err).splitlines()[0]}.",
            hint="Convert it first.",
            field=column.name,
        ) from err


def arrow_utc(table: pa.Table) -> pa.Table:
    """The table with every time in UTC, in microseconds and without a zone: the store's own form."""
    import pyarrow as pa

    for index, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            zoned = table.column(index)
            if column.type.tz is not None:
                zoned = zoned.cast(pa.timestamp(column.type.unit, "UTC"))
            plain = zoned.cast(pa.timestamp("us", zoned.type.tz), safe=False).cast(pa.timestamp("us"))
            table = table.set_column(index, column.name, plain)
    return table
