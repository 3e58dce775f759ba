"""Single values as JSON has them, checked against a column's type."""

from __future__ import annotations

from typing import Any

from mlbox.clock import parse_time, to_us
from mlbox.errors import InvalidInput
from mlbox.records import Column
from mlbox.store.casting import EARLIEST, LATEST

_PYTHON: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "INT64": (int,),
    "FP64": (float, int),
    "STRING": (str,),
    "TIMESTAMP": (str,),
}
_INT64 = range(-(2**63), 2**63)


def given_value(value: Any, column: Column, field: str) -> Any:
    """The value, times in microseconds since 1970 and rounded up, None for null; raises InvalidInput with the field."""
    if value is None:
        return None
    fits = isinstance(value, _PYTHON[column.dtype]) and (column.dtype == "BOOL" or not isinstance(value, bool))
    if not fits or (isinstance(value, int) and value not in _INT64):
        raise InvalidInput(
            f"{column.name!r} is {value!r:.60}, and {column.dtype} is wanted.",
            hint="Send the declared type, or null.",
            field=field,
        )
    if column.dtype == "FP64":
        return float(value)
    if column.dtype != "TIMESTAMP":
        return value
    moment = parse_time(value, field=field, up=True)
    if not EARLIEST <= moment <= LATEST:
        raise InvalidInput(f"{column.name!r} is not in the years 1 to 9999.", hint="Send another.", field=field)
    return to_us(moment)
