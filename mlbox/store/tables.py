"""Arrow tables in the forms that the stores keep: declared columns, declared types, times in UTC."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column, DType
from mlbox.store.casting import Rounding, cast_column, parse_times, to_utc
from mlbox.store.casting import arrow_type as arrow_type
from mlbox.store.given import given_value

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
    table: pa.Table,
    columns: Sequence[Column],
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    text: bool = False,
) -> pa.Table:
    """The declared columns of a table, in their types and with the times of events rounded up to microseconds of UTC.

    Raises InvalidInput naming the column and, where it helps, the row, counted from 1. `text` allows to read numbers and
    times out of text, as CSV needs it. An optional column that is not there is null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in columns:
        if column.name in optional and column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(table.num_rows, arrow_type(column.dtype)))
    _check_names(table.column_names, [column.name for column in columns])
    order = _in_time(table, required, text=text)
    arrays = []
    for column in columns:
        values = cast_column(table.column(column.name), column, text=text, rounding="up")
        if column.name in required and values.null_count:
            row = pc.index(values.is_null(), True).as_py() + 1
            raise InvalidInput(f"{column.name!r} is null in row {row}.", hint="Fill it.", field=column.name)
        arrays.append(values)
    found = pa.table(arrays, names=[column.name for column in columns])
    return found if order is None else found.take(order)


def _in_time(table: pa.Table, names: Sequence[str], *, text: bool) -> Any:
    """The order of the nanoseconds of a time: where two fall into one microsecond, the later one comes last; None without any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names:
        values = table.column(name)
        if text and pa.types.is_string(values.type):
            with contextlib.suppress(pa.ArrowInvalid):  # what is no time is told when it is cast
                values = parse_times(values)
        if pa.types.is_timestamp(values.type) and values.type.unit == "ns":
            return pc.sort_indices(values)
    return None


def conform_spine(
    table: pa.Table, columns: Sequence[Column], *, required: Sequence[str] = (), text: bool = False
) -> pa.Table:
    """All columns of a table in their order: declared ones in their types, others as they are.

    Moments that are asked about, which are required, are rounded down; times that are keys up, as they are in sources.

    Raises InvalidInput as `conform`, and for a column that holds more than one value a row.
    """
    declared = {column.name: column for column in columns}
    _check_names([name for name in table.column_names if name in declared], list(declared))
    for index, name in enumerate(table.column_names):
        if name in declared:
            rounding: Rounding = "down" if name in required else "up"
            values = cast_column(table.column(index), declared[name], text=text, rounding=rounding)
            table = table.set_column(index, name, values)
        else:
            _check_single(table.schema.field(index))
    for name in required:
        if table.column(name).null_count:
            row = table.column(name).is_null().to_pylist().index(True) + 1
            raise InvalidInput(f"{name!r} is null in row {row}.", hint="Fill it.", field=name)
    return arrow_utc(table)


def check_single(table: pa.Table) -> pa.Table:
    """The same table; raises InvalidInput for a column that holds more than one value a row, or is there twice."""
    names = table.column_names
    _check_names(names, names)
    for field in table.schema:
        _check_single(field)
    return table


def _check_single(field: pa.Field) -> None:
    import pyarrow as pa

    if pa.types.is_nested(field.type):
        raise InvalidInput(
            f"The column {field.name[:200]!r} is {field.type!s:.60}.",
            hint="Leave out what is no single value.",
            field=field.name[:200],
        )


def plain(table: pa.Table) -> pa.Table:
    """The same values in as few types as may be: text in one, no dictionaries, times in UTC, nothing said on the side."""
    import pyarrow as pa

    for at, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
            kind = pa.string()
        if kind != field.type:
            table = table.set_column(at, field.name, table.column(at).cast(kind))
    table = arrow_utc(table)
    return table.cast(pa.schema([pa.field(field.name, field.type) for field in table.schema]))


def table_of(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], field: str, *, optional: str = ""
) -> pa.Table:
    """Rows as JSON has them as a table of columns; what a row leaves out is null.

    Raises InvalidInput naming the field. The column `optional` is left out where no row has it.
    """
    import pyarrow as pa

    names = [column.name for column in columns]
    for number, row in enumerate(rows):
        unknown = next((name for name in row if name not in names), None)
        if unknown is not None:
            raise InvalidInput(
                f"{unknown!r:.200} is no column.",
                hint=suggest(unknown, names),
                field=f"{field}.{number}.{unknown[:80]}",
            )
    arrays = {}
    for column in columns:
        if column.name == optional and not any(column.name in row for row in rows):
            continue
        kind = arrow_type(column.dtype)
        raw = pa.int64() if column.dtype == "TIMESTAMP" else kind
        values = [
            given_value(row.get(column.name), column, f"{field}.{number}.{column.name}")
            for number, row in enumerate(rows)
        ]
        arrays[column.name] = pa.array(values, raw).cast(kind)
    return pa.table(arrays)


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
