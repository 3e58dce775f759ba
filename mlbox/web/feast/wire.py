"""Feast's JSON on the wire: columns of values in, columns out, and errors as its SDK reads them.

Times come as ISO 8601, without a zone when they are UTC, or as seconds since 1970. An error is a JSON string that holds the name
of an exception of Feast's, which its SDK raises again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import MICROSECOND, from_us, is_finer, to_us
from mlbox.errors import InvalidInput, MlboxError, NotFound, suggest
from mlbox.records import Column
from mlbox.store.casting import arrow_type
from mlbox.store.given import given_value
from mlbox.web.problems import SHAPES

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "/feast"
EPOCH = "1970-01-01T00:00:00Z"
EVENT, CREATED = "event_timestamp", "created"
"""What Feast calls the times of an event and of its arrival, whatever they are called in a source."""
Frame = dict[str, list[Any]]


BASE, PUSH_SOURCE = "FeastError", "push_source_name"
_CLASSES = {
    PUSH_SOURCE: "PushSourceNotFoundException",
    "view": "FeatureViewNotFoundException",
    "feature service": "FeatureServiceNotFoundException",
    "source": "DataSourceObjectNotFoundException",
}


def shape(err: MlboxError) -> str:
    """An error as Feast's SDK reads it."""
    name = _CLASSES.get(err.field or "", BASE) if isinstance(err, NotFound) or err.field == PUSH_SOURCE else BASE
    detail = {"module": "feast.errors", "class": name, "message": str(err)}
    return msgspec.json.encode(detail).decode()


SHAPES.append((PREFIX, shape))


@functools.lru_cache(maxsize=16_384)
def moment_text(us: int | None) -> str:
    """The time of an event; 1970 where there is none, as Feast has it. Kept, since a text costs what the rest of a row does."""
    return EPOCH if us is None else from_us(us).isoformat().replace("+00:00", "Z")


def moment(value: Any, field: str) -> datetime:
    """A time as Feast writes one; raises InvalidInput."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError, OSError) as err:
        raise InvalidInput(f"{value!r:.80} is no time.", hint="Write ISO 8601.", field=field) from err
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _rounded_up(value: Any, field: str) -> datetime:
    """As `moment`, of something that happened: never earlier than it is said to be."""
    return moment(value, field) + (MICROSECOND if isinstance(value, str) and is_finer(value) else timedelta())


def table_of(frame: Frame, columns: Sequence[Column], renamed: Mapping[str, str], *, optional: str = "") -> pa.Table:
    """Feast's columns as a table of ours; `renamed` says what a column of ours is called there if it has not our name.

    Raises InvalidInput naming the column, for one that is missing, unknown, of another length or of another type.
    """
    import pyarrow as pa

    rows = row_count(frame)
    names = {column.name: column.name if column.name in frame else renamed.get(column.name, "") for column in columns}
    unknown = next((name for name in frame if name not in names.values() and name != CREATED), None)
    if unknown is not None:
        raise InvalidInput(f"{unknown!r:.200} is no column.", hint=suggest(unknown, names), field=f"df.{unknown[:80]}")
    arrays = {}
    for column in columns:
        there = names[column.name]
        if there not in frame:
            if column.name == optional:
                continue
            raise InvalidInput(f"The column {column.name!r} is missing.", hint="Send it.", field=f"df.{column.name}")
        arrays[column.name] = _array(frame[there], column, f"df.{there}")
    assert all(len(array) == rows for array in arrays.values())
    return pa.table(arrays)


def row_count(frame: Frame, field: str = "df") -> int:
    """How many rows the columns have; raises InvalidInput where they do not agree, or there is none."""
    counts = {len(values) for values in frame.values()}
    if len(counts) != 1:
        raise InvalidInput(
            "The columns have different numbers of rows." if counts else "There are no columns.",
            hint="Send as many values in each.",
            field=field,
        )
    return counts.pop()


def _array(values: Sequence[Any], column: Column, field: str) -> Any:
    import pyarrow as pa

    if column.dtype == "TIMESTAMP":
        times = [None if value is None else to_us(_rounded_up(value, field)) for value in values]
        return pa.array(times, pa.int64()).cast(arrow_type("TIMESTAMP"))
    return pa.array([given_value(value, column, field) for value in values], arrow_type(column.dtype))
