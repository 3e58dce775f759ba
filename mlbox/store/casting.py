"""Columns of what people send, cast without loss to the declared type, or refused with the row that does not fit.

A cast that could change a value is not made: text becomes a number only where the format has nothing but text (CSV). Times are
instants: a zone is converted to UTC, a time without one is taken as UTC. The stores keep microseconds; where nanoseconds do not
fit, the time of an event is rounded up and a moment that is asked about is rounded down, so that nothing is seen before it
happened.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from mlbox.errors import InvalidInput
from mlbox.records import Column

if TYPE_CHECKING:
    import pyarrow as pa

Rounding = Literal["down", "up"]
EARLIEST, LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
"""What a datetime can say, and so what the stores keep."""


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


def cast_column(values: pa.ChunkedArray, column: Column, *, text: bool = False, rounding: Rounding = "down") -> Any:
    """Values in a column's declared type; raises InvalidInput with the column and the first row, counted from 1.

    `text` allows to read numbers and times out of text.
    """
    import pyarrow as pa

    cast = _caster(values.type, column.dtype, text, rounding)
    if cast is None:
        raise InvalidInput(
            f"{column.name!r} is {values.type}, and {column.dtype} is wanted.",
            hint="Convert the column first.",
            field=column.name,
        )
    try:
        cast_values = cast(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as err:
        row = _first_bad(values, cast)
        raise InvalidInput(
            f"{column.name!r} is {_shown(values, row)} in row {row + 1}, and {column.dtype} is wanted.",
            hint=f"{str(err).splitlines()[0].rstrip('.')}.",
            field=column.name,
        ) from err
    if column.dtype == "TIMESTAMP":
        _check_range(cast_values, column.name)
    return cast_values


def to_utc(values: Any, rounding: Rounding = "down") -> Any:
    """Timestamps of any unit and zone as microseconds of UTC without a zone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    plain = values.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp(kind.unit)) if kind.tz else values
    if kind.unit == "ns":
        whole = (pc.ceil_temporal if rounding == "up" else pc.floor_temporal)(plain, unit="microsecond")
        plain = whole.cast(pa.timestamp("us"), safe=False)
    return plain.cast(pa.timestamp("us"))


def _caster(found: Any, dtype: str, text: bool, rounding: Rounding) -> Callable[[Any], Any] | None:
    """The cast from an Arrow type, or None where there is none without loss of meaning."""
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_dictionary(found):
        inner = _caster(found.value_type, dtype, text, rounding)
        return inner and (lambda values: inner(values.cast(found.value_type)))
    if is_a.is_null(found):
        return lambda values: values.cast(arrow_type(dtype))
    if dtype == "TIMESTAMP":
        return _time_caster(found, text, rounding)
    is_text = is_a.is_string(found) or is_a.is_large_string(found) or is_a.is_string_view(found)
    fits = {
        "BOOL": is_a.is_boolean(found),
        "INT64": is_a.is_integer(found) or is_a.is_floating(found) or is_a.is_boolean(found),
        "FP64": is_a.is_integer(found) or is_a.is_floating(found) or is_a.is_boolean(found) or is_a.is_decimal(found),
        "STRING": is_text,
    }[dtype]
    return (lambda values: values.cast(arrow_type(dtype))) if fits or (text and is_text) else None


def _time_caster(found: Any, text: bool, rounding: Rounding) -> Callable[[Any], Any] | None:
    import pyarrow as pa

    if pa.types.is_timestamp(found):
        return lambda values: to_utc(values, rounding)
    if pa.types.is_date(found):
        return lambda values: values.cast(pa.timestamp("us"))
    if text and pa.types.is_string(found):
        return lambda values: to_utc(parse_times(values), rounding)
    return None


def parse_times(values: Any) -> Any:
    """ISO 8601 texts as instants: all with a zone or all without, to the nanosecond at most."""
    import pyarrow as pa

    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.timestamp("ns", "UTC")):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:
            continue
    return values.cast(pa.timestamp("ns"))


def _first_bad(values: Any, cast: Callable[[Any], Any]) -> int:
    """The index of the first value that a cast refuses, by halves."""
    import pyarrow as pa

    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(values.slice(low, middle - low))
            low = middle
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
            high = middle
    return low


def _shown(values: Any, row: int) -> str:
    import pyarrow as pa

    return f"{values.slice(row, 1).cast(pa.string())[0].as_py()!r:.60}"


def _check_range(values: Any, name: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    edges = [pa.scalar(edge.replace(tzinfo=None), pa.timestamp("us")) for edge in (EARLIEST, LATEST)]
    outside = pc.or_(pc.less(values, edges[0]), pc.greater(values, edges[1]))
    if pc.any(outside).as_py():
        row = pc.index(outside, True).as_py()
        raise InvalidInput(
            f"{name!r} is outside the years 1 to 9999 in row {row + 1}.", hint="Is its unit right?", field=name
        )
