"""Online rows: how an entity is found, how its features are packed, and how fresh they are when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import from_us, parse_time, to_us
from mlbox.errors import InvalidInput
from mlbox.records import Column, DType, FeatureView, OnlineRow, Status
from mlbox.store.casting import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

Value = float | int | str | bool | None
_pack = msgspec.msgpack.Encoder().encode
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
    "TIMESTAMP": lambda value, field: to_us(parse_time(value, field=field, up=True)),
}
"""How a key's value is written in a row's key, where there is more than one way to say it."""


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A view's row for one entity: the microsecond of its event, its values in the view's order, and how it was found.

    A packed row is decoded into one as it is: what is there is PRESENT until it is judged.
    """

    event_us: int | None
    values: Sequence[Value]
    status: Status = "PRESENT"


_unpack = msgspec.msgpack.Decoder(Found).decode


class Vectors:
    """What was read for a number of entities, as it was found; every way to look at it is made when it is asked for."""

    def __init__(self, plan: Plan, found: Sequence[Sequence[Found]]) -> None:
        self._plan = plan
        self._found = found
        """By view, then by entity."""

    def __len__(self) -> int:
        return len(self._found[0])

    @property
    def features(self) -> tuple[str, ...]:
        """Full references, in the order of the values."""
        return self._plan.features

    @property
    def view_of(self) -> Sequence[int]:
        """Which of the views, counted from 0, each feature is of."""
        return self._plan.view_of

    def found(self, view: int) -> Sequence[Found]:
        """One view's row of each entity."""
        return self._found[view]

    def columns(self) -> list[Sequence[Value]]:
        """The values by feature, then by entity: as `values`, turned over at once."""
        if not len(self):
            return [()] * len(self._plan.places)
        every: list[Sequence[Value]] = []
        for view in self._found:
            every += zip(*[one.values for one in view], strict=True)
        return every if self._plan.is_whole else [every[place] for place in self._plan.places]

    def values(self, entity: int) -> Sequence[Value]:
        """One entity's values, None for what is missing."""
        found, plan = self._found, self._plan
        values = found[0][entity].values if len(found) == 1 else [v for view in found for v in view[entity].values]
        return values if plan.is_whole else [values[place] for place in plan.places]

    def is_unknown(self, entity: int) -> bool:
        """Whether no view knows an entity."""
        return all(view[entity].status == "NOT_FOUND" for view in self._found)

    def statuses(self, entity: int) -> list[Status]:
        """How each of an entity's values was found."""
        statuses = [self._found[view][entity].status for view in self._plan.view_of]
        return [
            "NULL" if value is None and status == "PRESENT" else status
            for value, status in zip(self.values(entity), statuses, strict=True)
        ]

    def event_times(self, entity: int) -> list[datetime | None]:
        """When what each of an entity's values tells of happened; None where the entity is unknown."""
        found = [view[entity].event_us for view in self._found]
        times = [None if event_us is None else from_us(event_us) for event_us in found]
        return [times[view] for view in self._plan.view_of]

    def arrow(self) -> pa.Table:
        """As `as_table` says."""
        every = range(len(self))
        return as_table(
            dict(zip(self.features, self._plan.dtypes, strict=True)),
            [self.values(entity) for entity in every],
            [self.statuses(entity) for entity in every],
        )

    def rows(self) -> list[OnlineRow]:
        """A record for each entity."""
        return [self._row(entity) for entity in range(len(self))]

    def _row(self, entity: int) -> OnlineRow:
        names = self._plan.features
        return OnlineRow(
            values=dict(zip(names, self.values(entity), strict=True)),
            statuses=dict(zip(names, self.statuses(entity), strict=True)),
            event_times=dict(zip(names, self.event_times(entity), strict=True)),
        )


class Plan:
    """What to read for a set of features: which views, and where in their rows, put end to end, each feature is."""

    def __init__(self, features: Sequence[str], views: Mapping[str, FeatureView]) -> None:
        self.features = tuple(features)
        self.views = tuple(views.values())
        every = [(f"{v.ref}:{c.name}", number, c.dtype) for number, v in enumerate(self.views) for c in v.features]
        at = {ref: place for place, (ref, _, _) in enumerate(every)}
        self.places = [at[feature] for feature in self.features]
        self.view_of = [every[place][1] for place in self.places]
        self.dtypes = [every[place][2] for place in self.places]
        self.is_whole = self.places == list(range(len(every)))
        self._unknown = [Found(None, (None,) * len(view.features), "NOT_FOUND") for view in self.views]
        self._ttls = [None if view.ttl_seconds is None else view.ttl_seconds * 1_000_000 for view in self.views]

    def keys(self, entities: Sequence[Mapping[str, Any]]) -> list[str]:
        """The online key of each entity, view by view; raises InvalidInput naming the entity and the join key."""
        return [key for view in self.views for key in _keys(view, entities)]

    def read(self, packed: Sequence[bytes | None], now_us: int) -> Vectors:
        """What was found under `keys`, judged at a moment of domain time."""
        count = len(packed) // len(self.views)
        return Vectors(
            self,
            [
                self._judged(packed[place * count : (place + 1) * count], place, now_us)
                for place in range(len(self.views))
            ],
        )

    def _judged(self, packed: Sequence[bytes | None], view: int, now_us: int) -> list[Found]:
        unknown, ttl = self._unknown[view], self._ttls[view]
        found = [unknown if row is None else _unpack(row) for row in packed]
        if ttl is None:
            return found
        oldest = now_us - ttl
        return [
            one
            if one.event_us is None or one.event_us >= oldest
            else Found(one.event_us, unknown.values, "OUTSIDE_MAX_AGE")
            for one in found
        ]


def _keys(view: FeatureView, entities: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(view.join_keys) == 1 and view.join_keys[0].dtype == "INT64":  # the usual case, and twice as fast
        name, prefix = view.join_keys[0].name, f"{view.ref}|["
        plain = [f"{prefix}{entity[name]}]" for entity in entities if type(entity.get(name)) is int]
        if len(plain) == len(entities):
            return plain
    return [
        row_key(view.ref, [_key_value(view, key, entity, index) for key in view.join_keys])
        for index, entity in enumerate(entities)
    ]


def as_table(
    features: Mapping[str, DType], values: Sequence[Sequence[Value]], statuses: Sequence[Sequence[Status]]
) -> pa.Table:
    """Values and statuses by entity as a table: a row for each, with a column `REF.status` after that of each feature."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for place, (feature, dtype) in enumerate(features.items()):
        some: list[Any] = [row[place] for row in values]
        if dtype == "TIMESTAMP":
            some = [None if value is None else datetime.fromisoformat(value) for value in some]
        kind = pa.timestamp("us", "UTC") if dtype == "TIMESTAMP" else arrow_type(dtype)
        columns[feature] = pa.array(some, kind)
        columns[f"{feature}.status"] = pa.array([row[place] for row in statuses], pa.string()).dictionary_encode()
    return pa.table(columns)


def row_key(ref: str, values: Sequence[Any]) -> str:
    """The key of an entity's row: the view version and the join keys, times in microseconds."""
    return f"{ref}|{_json(values).decode()}"


def packed(values: Sequence[Value], event_us: int) -> bytes:
    """Features, times as text, and the microsecond of their event as one packed row."""
    return _pack((event_us, values))


def _key_value(view: FeatureView, key: Column, entity: Mapping[str, Any], index: int) -> Any:
    field = f"entities.{index}.{key.name}"
    if key.name not in entity:
        raise InvalidInput(
            f"Entity {index} has no {key.name!r}, which {view.ref} is looked up by.",
            hint=f"It has {', '.join(map(repr, list(entity)[:10]))}." if entity else f"Name its {key.name}.",
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
