"""Online rows: how an entity is found, how its features are packed, and how fresh they are when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from mlbox.clock import parse_time, to_us
from mlbox.errors import InvalidInput
from mlbox.records import Column, FeatureView, OnlineRow
from mlbox.store.catalog import suggest

Value = float | int | str | bool | None
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, list[Value]]).decode
_json = msgspec.json.Encoder().encode
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "INT64": (int,),
    "FP64": (float, int),
    "STRING": (str,),
    "TIMESTAMP": (str,),
}
_CANONICAL: dict[str, Callable[[Any, str], Any]] = {
    "FP64": lambda value, field: float(value),
    "TIMESTAMP": lambda value, field: to_us(parse_time(value, field=field)),
}
"""How a key's value is written in a row's key, where there is more than one way to say it."""


class Plan:
    """What to read for a set of features: which views, and where in a view's row each feature is."""

    def __init__(self, features: Sequence[str], views: Mapping[str, FeatureView]) -> None:
        self.features = tuple(features)
        self.views = tuple(views.values())
        places = {
            f"{view.ref}:{column.name}": (number, index)
            for number, view in enumerate(self.views)
            for index, column in enumerate(view.features)
        }
        self._places = [(feature, *places[feature]) for feature in self.features]

    def keys(self, entities: Sequence[Mapping[str, Any]]) -> list[str]:
        """The online key of each entity in each view; raises InvalidInput naming the entity and the join key."""
        return [
            row_key(view.ref, [_key_value(view, key, entity, index) for key in view.join_keys])
            for index, entity in enumerate(entities)
            for view in self.views
        ]

    def rows(self, packed: Sequence[bytes | None], now_us: int) -> list[OnlineRow]:
        """What was found under `keys`, judged at a moment of domain time."""
        width = len(self.views)
        return [self._row(packed[start : start + width], now_us) for start in range(0, len(packed), width)]

    def _row(self, packed: Sequence[bytes | None], now_us: int) -> OnlineRow:
        found = [_judged(view, row, now_us) for view, row in zip(self.views, packed, strict=True)]
        values: dict[str, Value] = {}
        statuses: dict[str, Any] = {}
        for feature, view, index in self._places:
            status, row = found[view]
            statuses[feature] = status
            values[feature] = row[index] if row else None
        return OnlineRow(values=values, statuses=statuses)


def row_key(ref: str, values: Sequence[Any]) -> str:
    """The key of an entity's row: the view version and the join keys, times in microseconds."""
    plain = [_microseconds(value) if isinstance(value, datetime) else value for value in values]
    return f"{ref}|{_json(plain).decode()}"


def packed(row: Sequence[Any]) -> bytes:
    """Features and the event time, which comes last, as one packed row."""
    *values, event = row
    plain = [value.replace(tzinfo=UTC).isoformat() if isinstance(value, datetime) else value for value in values]
    return _pack((_microseconds(event), plain))


def _microseconds(moment: datetime) -> int:
    return to_us(moment.replace(tzinfo=UTC))


def _judged(view: FeatureView, row: bytes | None, now_us: int) -> tuple[str, list[Value] | None]:
    if row is None:
        return "NOT_FOUND", None
    event_us, values = _unpack(row)
    if view.ttl_seconds is not None and now_us - event_us > view.ttl_seconds * 1_000_000:
        return "OUTSIDE_MAX_AGE", None
    return "PRESENT", values


def _key_value(view: FeatureView, key: Column, entity: Mapping[str, Any], index: int) -> Any:
    field = f"entities.{index}.{key.name}"
    if key.name not in entity:
        raise InvalidInput(
            f"Entity {index} has no {key.name!r}, which {view.ref} is looked up by.",
            hint=suggest(key.name, entity),
            field=field,
        )
    value: Any = entity[key.name]
    if not isinstance(value, _PYTHON_TYPES[key.dtype]) or (isinstance(value, bool) and key.dtype != "BOOL"):
        raise InvalidInput(
            f"{key.name!r} of entity {index} is {value!r:.60}, and {key.dtype} is wanted.",
            hint="Send the type that the view declares.",
            field=field,
        )
    return _CANONICAL[key.dtype](value, field) if key.dtype in _CANONICAL else value
