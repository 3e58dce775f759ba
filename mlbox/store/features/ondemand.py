"""On-demand transforms applied: their outputs are asked for like any other feature.

The asked features are split: those of views are read as ever, with whatever the transforms need besides, and the transforms are
applied to what was found: to whole columns in training, to the rows of a request in serving, by the same compiled program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.clock import from_us, parse_time, to_us
from mlbox.errors import InvalidInput, suggest
from mlbox.records import Column, DType, OnlineRow, Transform, TransformInput, TransformSpec
from mlbox.store.casting import cast_column
from mlbox.store.features.transform_definitions import MOST_KEPT, TransformDefinitions, columns_of
from mlbox.store.features.transform_program import Program, from_arrow, plain, to_arrow, values_of
from mlbox.store.features.transforms import compile_transform
from mlbox.store.features.vectors import as_table
from mlbox.store.given import given_value
from mlbox.store.tables import arrow_utc

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.features.transform_ops import Values

_KEYS_AT_HAND, _VALUES_AT_HAND = 128, 2_560
"""How much is read where it is asked for: in a thread of its own, 100 entities of 20 features cost half as much again."""


class _Ready(NamedTuple):
    """A transform that can be applied."""

    transform: Transform
    columns: tuple[Column, ...]
    program: Program


class _Split(NamedTuple):
    """Asked features: in the caller's order, those of views with all that transforms need, and the transforms."""

    asked: tuple[str, ...]
    base: tuple[str, ...]
    ready: tuple[_Ready, ...]


class Transforms(TransformDefinitions):
    """The feature store, with on-demand transforms among its features."""

    _splits: dict[tuple[str, ...], _Split]
    _compiled: dict[str, _Ready]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._splits = {}
        self._compiled = {}

    def _split(self, features: Sequence[str]) -> _Split:
        """Kept by full references: what names a version never changes."""
        key = tuple(features)
        found = self._splits.get(key)
        if found is not None and self._may_see(found):
            return found
        full = self.resolve(features)
        found = self._splits.get(full)
        if found is not None and self._may_see(found):
            return found
        of_transforms = [ref for ref in full if self.is_transform(ref.partition(":")[0])]
        refs = dict.fromkeys(ref.partition(":")[0] for ref in of_transforms)
        ready = tuple(self._ready(ref) for ref in refs)
        needed = [entry.feature for one in ready for entry in one.transform.inputs if entry.feature]
        base = dict.fromkeys([*(ref for ref in full if ref not in of_transforms), *needed])
        found = _Split(full, tuple(base), ready)
        if len(self._splits) >= MOST_KEPT:
            self._splits.clear()
        self._splits[full] = found
        return found

    def _may_see(self, split: _Split) -> bool:
        return all(self._db.privacy.visible("view", one.transform.name) for one in split.ready)

    def _ready(self, ref: str) -> _Ready:
        found = self._compiled.get(ref)
        if found is None:
            if len(self._compiled) >= MOST_KEPT:
                self._compiled.clear()
            transform = self.transform(ref)
            columns = columns_of(transform)
            program = compile_transform(transform.code, columns, transform.outputs)
            found = self._compiled[ref] = _Ready(transform, columns, program)
        return found

    def historical(self, features: Sequence[str], spine: pa.Table, *, event_time: str, **options: Any) -> pa.Table:
        """As `FeatureStore.historical`; what a transform takes with the request is a column of the rows."""
        split = self._split(features)
        if not split.ready:
            return super().historical(features, spine, event_time=event_time, **options)
        for name in set(split.asked) & set(spine.column_names):
            raise InvalidInput(f"The rows have a column {name!r} already.", hint="Leave it out.", field="features")
        table = arrow_utc(spine)
        if split.base:
            table = super().historical(split.base, spine, event_time=event_time, **options)
        made = _made(split, table, spine)
        rows = table.select(range(spine.num_columns))
        for feature in split.asked:
            rows = rows.append_column(feature, made[feature] if feature in made else table.column(feature))
        return rows

    def historical_sql(self, features: Sequence[str], spine: str, empty: pa.Table, *, event_time: str) -> str:
        """As `FeatureStore.historical_sql`; what transforms make comes into what is read by `with_transforms`."""
        split = self._split(features)
        if not split.ready:
            return super().historical_sql(features, spine, empty, event_time=event_time)
        for name in set(split.asked) & set(empty.column_names):
            raise InvalidInput(f"The rows have a column {name!r} already.", hint="Leave it out.", field="features")
        if not split.base:
            return f"SELECT * FROM {spine}"
        return super().historical_sql(split.base, spine, empty, event_time=event_time)

    def with_transforms(self, features: Sequence[str], table: pa.Table, *, last: str | None = None) -> pa.Table:
        """Rows of `historical_sql` with the features that were asked for instead of those that transforms take.

        The columns are the others, then the features in their order, then the one that comes `last`.
        """
        import pyarrow as pa

        split = self._split(features)
        made = _made(split, table, table)
        kept = [name for name in table.column_names if name not in split.base and name != last]
        names = [*kept, *split.asked, *([last] if last is not None else [])]
        return pa.table({name: made[name] if name in made else table.column(name) for name in names})

    def online_features(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[OnlineRow]:
        """As `FeatureStore.online_features`; what a transform takes with the request is among an entity's keys."""
        split = self._split(features)
        if not split.ready:
            return super().online_features(features, entities)
        found = [OnlineRow(values={}, statuses={})] * len(entities)
        if split.base:
            found = super().online_features(split.base, entities)
        made: dict[str, list[Any]] = {}
        for one in split.ready:
            given = [
                _online(entry, column, found, entities)
                for entry, column in zip(one.transform.inputs, one.columns, strict=True)
            ]
            for output, values in zip(one.transform.outputs, one.program.run(given, len(entities)), strict=True):
                made[f"{one.transform.ref}:{output.name}"] = _sent(plain(values), output.dtype)
        return _with(split, found, made)

    def online_table(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> pa.Table:
        """As `FeatureStore.online_table`, with the outputs of transforms among the columns."""
        split = self._split(features)
        if not split.ready:
            return super().online_table(features, entities)
        found = self.online_features(features, entities)
        values = [list(row.values.values()) for row in found]
        statuses = [list(row.statuses.values()) for row in found]
        return as_table({ref: self._dtype_of(ref, split) for ref in split.asked}, values, statuses)

    def is_at_hand(self, features: Sequence[str], entities: int) -> bool:
        """Whether an online read costs so little that a thread of its own would cost more: one look-up of what is planned."""
        kept = self._resolved.get(tuple(features))
        plan = self._plans.get(kept[1]) if kept is not None and kept[0] == self._defined else None
        if plan is None or not self._online.is_open:
            return False
        return entities * len(plan.views) <= _KEYS_AT_HAND and entities * len(plan.features) <= _VALUES_AT_HAND

    def uses_transforms(self, features: Sequence[str]) -> bool:
        """Whether any of the features is made by a transform when it is asked for."""
        return bool(self._split(features).ready)

    def _dtype_of(self, ref: str, split: _Split) -> DType:
        name, _, feature = ref.partition(":")
        made = {one.transform.ref: one.transform.outputs for one in split.ready}
        columns = made[name] if name in made else self.view(name).features
        return next(column.dtype for column in columns if column.name == feature)

    def asked_with(self, features: Sequence[str]) -> list[Column]:
        """What an entity has to name for features: join keys, and what transforms take with the request."""
        split = self._split(features)
        given = [
            Column(name=column.name, dtype=column.dtype)
            for one in split.ready
            for entry, column in zip(one.transform.inputs, one.columns, strict=True)
            if entry.feature is None
        ]
        return list({column.name: column for column in (*super().asked_with(split.base), *given)}.values())

    def try_transform(self, spec: TransformSpec, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A transform's outputs for rows of its inputs, without keeping it."""
        spec = self.checked_transform(spec)
        columns = columns_of(spec)
        program = compile_transform(spec.code, columns, spec.outputs)
        given = [_given(column, rows, "rows") for column in columns]
        found = [_sent(plain(values), dtype) for values, dtype in zip(*_run(program, given, len(rows)), strict=True)]
        return [dict(zip(program.outputs, row, strict=True)) for row in zip(*found, strict=True)]


def _run(program: Program, given: Sequence[Values], rows: int) -> tuple[list[Values], list[DType]]:
    return program.run(given, rows), list(program.outputs.values())


def _with(split: _Split, found: Sequence[OnlineRow], made: Mapping[str, list[Any]]) -> list[OnlineRow]:
    """Rows with what transforms made of them, in the order that was asked for, without what only transforms needed."""
    names = [feature for feature in split.asked if feature in made]
    needed = {one.transform.ref: _needed(one.transform) for one in split.ready}
    refs = [name.partition(":")[0] for name in names]
    in_order = split.asked == (*split.base, *names)
    rows = []
    for row, values in zip(found, zip(*(made[name] for name in names), strict=True), strict=True):
        status = {ref: _status(row, features) for ref, features in needed.items()}
        made_here = dict(zip(names, values, strict=True))
        all_values = {**row.values, **made_here}
        all_statuses: dict[str, Any] = {
            **row.statuses,
            **{name: _or_null(status[ref], made_here[name]) for name, ref in zip(names, refs, strict=True)},
        }
        times: dict[str, Any] = {**row.event_times, **dict.fromkeys(names)}
        if not in_order:
            all_values, all_statuses, times = (
                {feature: kind[feature] for feature in split.asked} for kind in (all_values, all_statuses, times)
            )
        rows.append(OnlineRow(values=all_values, statuses=all_statuses, event_times=times))
    return rows


def _needed(transform: Transform) -> list[str]:
    return [entry.feature for entry in transform.inputs if entry.feature]


def _or_null(status: str, value: Any) -> str:
    return "NULL" if value is None and status == "PRESENT" else status


def _status(row: OnlineRow, needed: Sequence[str]) -> str:
    """There as long as any of its features is, or none is needed; else as the first of them."""
    first: str | None = None
    for feature in needed:
        status: str = row.statuses[feature]
        if status in ("PRESENT", "NULL"):
            return "PRESENT"
        first = first or status
    return first or "PRESENT"


# -- values in ----------------------------------------------------------------------------------------------------------------


def _made(split: _Split, table: pa.Table, spine: pa.Table) -> dict[str, Any]:
    """What transforms make of rows: of the features that are among the table's columns, and of the request's, the spine's."""
    made: dict[str, Any] = {}
    for one in split.ready:
        given = [
            from_arrow(table.column(entry.feature) if entry.feature else _of_spine(spine, column), column.dtype)
            for entry, column in zip(one.transform.inputs, one.columns, strict=True)
        ]
        for output, values in zip(one.transform.outputs, one.program.run(given, spine.num_rows), strict=True):
            made[f"{one.transform.ref}:{output.name}"] = to_arrow(values, output.dtype)
    return made


def _of_spine(spine: pa.Table, column: Column) -> Any:
    if spine.column_names.count(column.name) != 1:
        raise InvalidInput(
            f"The rows need one column {column.name!r}, which a transform takes with the request.",
            hint=suggest(column.name, spine.column_names),
            field=f"spine.{column.name}",
        )
    try:
        return cast_column(spine.column(column.name), column)
    except InvalidInput as err:
        err.field = f"spine.{column.name}"
        raise


def _online(
    entry: TransformInput, column: Column, found: Sequence[OnlineRow], entities: Sequence[Mapping[str, Any]]
) -> Values:
    if entry.feature is None:
        return _given(column, entities, "entities")
    stored = [row.values[entry.feature] for row in found]
    if column.dtype == "TIMESTAMP":
        stored = [None if value is None else to_us(parse_time(str(value), field="entities")) for value in stored]
    return values_of(stored, column.dtype)


def _given(column: Column, rows: Sequence[Mapping[str, Any]], field: str) -> Values:
    """A column of values that came with a request, checked."""
    values = []
    for number, row in enumerate(rows):
        place = f"{field}.{number}.{column.name}"
        if column.name not in row:
            raise InvalidInput(
                f"Row {number} has no {column.name!r}, which a transform takes with the request.",
                hint="Send it beside the keys; it may be null.",
                field=place,
            )
        values.append(given_value(row[column.name], column, place))
    return values_of(values, column.dtype)


def _sent(values: list[Any], dtype: DType) -> list[Any]:
    """As they are sent: times as text, like those of views."""
    if dtype != "TIMESTAMP":
        return values
    return [None if value is None else from_us(value).isoformat() for value in values]
