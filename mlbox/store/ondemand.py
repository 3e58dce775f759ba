"""On-demand transforms in the feature store: kept as views are, and asked for like any other feature.

A reference `name@vN:output` may stand wherever a view's feature may. The asked features are split: those of views are read as
ever, with whatever the transforms need besides, and the transforms are applied to what was found: to whole columns in training,
to the rows of a request in serving, by the same compiled program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec

from mlbox.clock import from_us, parse_time, to_us
from mlbox.errors import AlreadyExists, InvalidInput
from mlbox.records import Column, DType, OnlineRow, Transform, TransformInput, TransformSpec, ViewSpec, check_name
from mlbox.store.casting import cast_column
from mlbox.store.catalog import ALL, suggest
from mlbox.store.db import Row, Tx
from mlbox.store.given import given_value
from mlbox.store.quality import Screened
from mlbox.store.tables import arrow_utc
from mlbox.store.transform_program import Program, from_arrow, plain, to_arrow, values_of
from mlbox.store.transforms import compile_transform
from mlbox.store.vectors import as_table

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.transform_ops import Values

MAX_COLUMNS = 256
_MOST_KEPT = 1000
_AT_HAND = 32
"""Keys that are read where they are asked for."""
_NAMES = "SELECT DISTINCT name FROM transform WHERE visible('view', name)"


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


class Transforms(Screened):
    """The feature store, with on-demand transforms among its features."""

    # -- definitions --------------------------------------------------------------------------------------------------

    def apply_transform(self, spec: TransformSpec, *, actor: str) -> Transform:
        """Keep a transform, after it was compiled; the same function of the same inputs is the same version."""
        spec = self.checked_transform(spec)
        program = compile_transform(spec.code, _columns(spec), spec.outputs)
        features = [entry.feature for entry in spec.inputs]
        digest = hashlib.sha256(msgspec.json.encode([program.digest, features])).hexdigest()
        text = spec.to_json().decode()

        def write(tx: Tx) -> int:
            _check_free(tx, "view", spec.name)
            last = tx.one("SELECT * FROM transform WHERE name = ? ORDER BY version DESC LIMIT 1", (spec.name,))
            if last is not None and last["digest"] == digest:
                same: int = last["version"]
                if last["spec"] != text:
                    set_text = "UPDATE transform SET spec = ? WHERE name = ? AND version = ?"
                    tx.run(set_text, (text, spec.name, same))
                    tx.emit("view.described", f"view:{spec.name}@v{same}", actor)
                return same
            version = (last["version"] if last else 0) + 1
            tx.run("INSERT INTO transform VALUES (?,?,?,?,?,?)", (spec.name, version, digest, text, actor, tx.now_us))
            tx.emit("view.applied", f"view:{spec.name}@v{version}", actor, transform=True)
            return version

        version = self._db.write(write)
        self._defined += 1
        return self.transform(f"{spec.name}@v{version}")

    def checked_transform(self, spec: TransformSpec) -> TransformSpec:
        """The same with full references and the types of its inputs; raises InvalidInput naming the field."""
        check_name(spec.name)
        _check_names([entry.name for entry in spec.inputs], "inputs")
        _check_names([column.name for column in spec.outputs], "outputs")
        if not spec.outputs:
            raise InvalidInput("The transform has no outputs.", hint="Declare name and type of each.", field="outputs")
        for column in spec.outputs:
            _check_type(column.dtype, "outputs")
        spec = msgspec.structs.replace(spec, inputs=tuple(self._checked_input(entry) for entry in spec.inputs))
        views = {entry.feature.partition("@")[0] for entry in spec.inputs if entry.feature}
        self._db.privacy.shelter("view", spec.name, [("view", view) for view in sorted(views)])
        return spec

    def _checked_input(self, entry: TransformInput) -> TransformInput:
        if entry.feature is None:
            if entry.dtype is None:
                raise InvalidInput(
                    f"The input {entry.name!r} has neither a feature nor a type.",
                    hint="Give feature = VIEW:FEATURE, or dtype for a value that comes with the request.",
                    field="inputs",
                )
            _check_type(entry.dtype, "inputs")
            return entry
        (full,) = super().resolve([entry.feature]) if ":" in entry.feature else ("",)
        if not full:
            raise InvalidInput(f"{entry.feature!r} is no feature.", hint="Write VIEW:FEATURE.", field="inputs")
        view, _, feature = full.partition(":")
        dtype = next(column.dtype for column in self.view(view).features if column.name == feature)
        if entry.dtype not in (None, dtype):
            raise InvalidInput(f"{full} is {dtype}, not {entry.dtype}.", hint="Leave the type out.", field="inputs")
        return TransformInput(name=entry.name, dtype=dtype, feature=full)

    def transforms(self, *, limit: int = ALL, after: str | None = None) -> list[Transform]:
        """All versions of all transforms by name and version, from the one after the reference `after`."""
        name, _, version = (after or "").partition("@v")
        rows = self._db.all(
            "SELECT * FROM transform WHERE (name, version) > (?, ?) AND visible('view', name)"
            " ORDER BY name, version LIMIT ?",
            (name, int(version) if version.isdecimal() else 0, limit),
        )
        return [_transform(row) for row in rows]

    def transform(self, ref: str) -> Transform:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        found = self._find(ref)
        if found is None:
            raise self._missing("transform", ref, _NAMES)
        return found

    def is_transform(self, ref: str) -> bool:
        """True when a reference, with or without a version, is of a transform that may be seen."""
        return self._find(ref) is not None

    def _find(self, ref: str) -> Transform | None:
        name, at, version = ref.partition("@v")
        if at and not (version.isascii() and version.isdigit() and len(version) < 10):
            return None
        row = self._db.one(
            "SELECT * FROM transform WHERE name = :name AND visible('view', name)"
            " AND (:version IS NULL OR version = :version) ORDER BY version DESC LIMIT 1",
            {"name": name, "version": int(version) if at else None},
        )
        return _transform(row) if row is not None else None

    def check_view(self, spec: ViewSpec) -> None:
        """As `Catalog.check_view`; a view may not have a transform's name."""
        if self._db.one("SELECT 1 FROM transform WHERE name = ? COLLATE NOCASE", (spec.name,)) is not None:
            raise AlreadyExists(f"{spec.name!r} is a transform.", hint="Choose another name.", field="name")
        super().check_view(spec)

    def resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        """Full references, those of transforms among them; a reference without a colon is a service.

        Kept until something is defined: looking names up takes ten times as long as reading the values.
        """
        key, defined = tuple(refs), self._defined
        kept = self._resolved.get(key)
        if kept is None or kept[0] != defined or self._db.is_joined or not self._may_name(key):
            kept = (defined, self._resolve(key))
            if not self._db.is_joined:
                if len(self._resolved) >= _MOST_KEPT:
                    self._resolved.clear()
                self._resolved[key] = kept
        return kept[1]

    def _may_name(self, refs: Sequence[str]) -> bool:
        visible = self._db.privacy.visible
        named = {ref.partition(":")[0]: "view" if ":" in ref else "service" for ref in refs}
        return all(visible(kind, name.partition("@")[0]) for name, kind in named.items())

    def _resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        names = {ref.partition(":")[0] for ref in refs if ":" in ref}
        known = {name: one for name in names if (one := self._find(name)) is not None}
        full = [_output_of(ref, known) for ref in refs]
        if all(given is None for given in full):
            return super().resolve(refs)
        found: list[str] = []
        for ref, of_transform in zip(refs, full, strict=True):
            found.extend((of_transform,) if of_transform else self._resolve([ref]))
        twice = next((ref for ref in found if found.count(ref) > 1), None)
        if twice is not None:
            raise InvalidInput(f"{twice} is named twice.", hint="Name each feature once.", field="features")
        return tuple(found)

    # -- applying -------------------------------------------------------------------------------------------------------

    _resolved: dict[tuple[str, ...], tuple[int, tuple[str, ...]]]
    _splits: dict[tuple[str, ...], _Split]
    _compiled: dict[str, _Ready]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._resolved = {}
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
        if len(self._splits) >= _MOST_KEPT:
            self._splits.clear()
        self._splits[full] = found
        return found

    def _may_see(self, split: _Split) -> bool:
        return all(self._db.privacy.visible("view", one.transform.name) for one in split.ready)

    def _ready(self, ref: str) -> _Ready:
        found = self._compiled.get(ref)
        if found is None:
            if len(self._compiled) >= _MOST_KEPT:
                self._compiled.clear()
            transform = self.transform(ref)
            columns = _columns(transform)
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
        """Whether an online read costs so little that a thread of its own would cost more: one look-up of a few keys."""
        kept = self._resolved.get(tuple(features))
        plan = self._plans.get(kept[1]) if kept is not None and kept[0] == self._defined else None
        return plan is not None and self._online.is_open and entities * len(plan.views) <= _AT_HAND

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
        views = dict.fromkeys(ref.partition(":")[0] for ref in split.base)
        keys = [key for view in views for key in self.view(view).join_keys]
        given = [
            column
            for one in split.ready
            for entry, column in zip(one.transform.inputs, one.columns, strict=True)
            if entry.feature is None
        ]
        return list({column.name: Column(name=column.name, dtype=column.dtype) for column in (*keys, *given)}.values())

    def try_transform(self, spec: TransformSpec, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A transform's outputs for rows of its inputs, without keeping it."""
        spec = self.checked_transform(spec)
        columns = _columns(spec)
        program = compile_transform(spec.code, columns, spec.outputs)
        given = [_given(column, rows, "rows") for column in columns]
        found = [_sent(plain(values), dtype) for values, dtype in zip(*_run(program, given, len(rows)), strict=True)]
        return [dict(zip(program.outputs, row, strict=True)) for row in zip(*found, strict=True)]


def _run(program: Program, given: Sequence[Values], rows: int) -> tuple[list[Values], list[DType]]:
    return program.run(given, rows), list(program.outputs.values())


def _output_of(ref: str, known: Mapping[str, Transform]) -> str | None:
    """The full reference of a transform's output; None for what is no transform's."""
    name, _, output = ref.partition(":")
    found = known.get(name)
    if found is None:
        return None
    names = [column.name for column in found.outputs]
    if output not in names:
        raise InvalidInput(
            f"The transform {found.ref} has no output {output!r}.", hint=suggest(output, names), field="features"
        )
    return f"{found.ref}:{output}"


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
                hint=suggest(column.name, row) if row else "Send it; it may be null.",
                field=place,
            )
        values.append(given_value(row[column.name], column, place))
    return values_of(values, column.dtype)


def _sent(values: list[Any], dtype: DType) -> list[Any]:
    """As they are sent: times as text, like those of views."""
    if dtype != "TIMESTAMP":
        return values
    return [None if value is None else from_us(value).isoformat() for value in values]


# -- definitions ----------------------------------------------------------------------------------------------------------------


def _columns(spec: TransformSpec | Transform) -> tuple[Column, ...]:
    """The inputs as columns; a checked definition has every type."""
    return tuple(Column(name=entry.name, dtype=entry.dtype) for entry in spec.inputs if entry.dtype is not None)


def _check_names(names: Sequence[str], field: str) -> None:
    for name in names:
        if not name.isidentifier() or not name.isascii() or len(name) > 100:
            raise InvalidInput(f"{name[:80]!r} is no name in Python.", hint="Use letters, digits and _.", field=field)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{twice!r} is there twice.", hint="Name each once.", field=field)
    if len(names) > MAX_COLUMNS:
        raise InvalidInput(f"There are more than {MAX_COLUMNS}.", hint="Split the transform.", field=field)


def _check_type(dtype: str, field: str) -> None:
    if dtype not in get_args(DType):
        raise InvalidInput(f"{dtype[:40]!r} is no type.", hint=f"One of {', '.join(get_args(DType))}.", field=field)


def _check_free(tx: Tx, table: str, name: str) -> None:
    if tx.one(f"SELECT 1 FROM {table} WHERE name = ? COLLATE NOCASE", (name,)) is not None:
        raise AlreadyExists(f"{name!r} is a view.", hint="Choose another name.", field="name")


def _transform(row: Row) -> Transform:
    spec = msgspec.json.decode(row["spec"], type=TransformSpec)
    facts = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return Transform(
        **facts,
        version=row["version"],
        digest=row["digest"],
        created_by=row["created_by"],
        created_at=from_us(row["created_us"]),
    )
