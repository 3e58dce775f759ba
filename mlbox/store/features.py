"""The feature store: one definition, offline as it was at every moment, online as it is now."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput
from mlbox.records import FeatureView, OnlineRow, Source, ViewSpec
from mlbox.store import views
from mlbox.store.catalog import Catalog, suggest
from mlbox.store.db import Database
from mlbox.store.offline import Offline, quote
from mlbox.store.online import Online
from mlbox.store.tables import arrow_utc, conform
from mlbox.store.usersql import check_select

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

Value = float | int | str | bool | None
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, list[Value]]).decode
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "INT64": (int,),
    "FP64": (float, int),
    "STRING": (str,),
    "TIMESTAMP": (str,),
}


class FeatureStore(Catalog):
    """Definitions, their rows offline, and the latest of them online."""

    def __init__(self, db: Database, offline: Offline, online: Online, clock: Clock, *, max_sql: int = 65536) -> None:
        super().__init__(db, max_sql=max_sql)
        self._offline = offline
        self._online = online
        self._clock = clock
        self._known_views: dict[str, FeatureView] = {}
        self._full: set[str] = set()
        """References that were resolved before and name a version, and so need no second look."""
        self._materializing = threading.Lock()
        self._has_state = False

    # -- sources ----------------------------------------------------------------------------------------------------

    def append(self, source: str, table: pa.Table, *, actor: str) -> int:
        """Add rows to a source, all or none; how many. Columns are those declared, in any order."""
        found = self.source(source)
        rows = arrow_utc(conform(table, found.columns, required=(found.event_time,)))
        target = views.source_table(source)

        def write(cursor: Cursor) -> None:
            self._ensure_source(cursor, found)
            cursor.register("incoming", rows)
            cursor.execute(
                f"INSERT INTO {target} SELECT {views.names(found.columns)}, {self._next_seq(target)} + row_number() OVER ()"
                " FROM incoming"
            )
            cursor.unregister("incoming")
            cursor.execute(
                "INSERT INTO source_state VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE"
                " SET appends = appends + 1, row_count = row_count + excluded.row_count",
                [source, rows.num_rows],
            )

        self._offline.write(write)
        self.note_append(source, rows.num_rows, actor=actor)
        return int(rows.num_rows)

    def sources(self) -> list[Source]:
        """All sources by name, with their number of rows."""
        known = super().sources()
        if not known:
            return []
        counts = dict(self._offline.read(self._source_counts))
        return [msgspec.structs.replace(source, rows=counts.get(source.name, 0)) for source in known]

    def _source_counts(self, cursor: Cursor) -> list[tuple[str, int]]:
        self._ensure_state(cursor)
        return cursor.execute("SELECT name, row_count FROM source_state").fetchall()

    @staticmethod
    def _next_seq(target: str) -> str:
        return f"(SELECT coalesce(max(_seq), 0) FROM {target})"

    def _ensure_state(self, cursor: Cursor) -> None:
        if not self._has_state:
            cursor.execute(views.STATE_SQL)
            self._has_state = True

    def _ensure_source(self, cursor: Cursor, source: Source) -> None:
        self._ensure_state(cursor)
        typed = ", ".join(f"{quote(c.name)} {views.SQL_TYPES[c.dtype]}" for c in source.columns)
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {views.source_table(source.name)} ({typed}, _seq BIGINT NOT NULL)")

    def query_sources(self, cursor: Cursor, sql: str, *, known: datetime) -> str:
        """A user's SELECT over what of any sources was known at a moment, checked, as a subquery."""
        declared = Catalog.sources(self)
        for source in declared:
            self._ensure_source(cursor, source)
        used = check_select(cursor, sql, [source.name for source in declared], field="spine")
        return views.over_sources(sql, [source for source in declared if source.name in used], known=known)

    # -- views ------------------------------------------------------------------------------------------------------

    def apply_view(self, spec: ViewSpec, *, actor: str) -> FeatureView:
        """Keep a view, after its SQL was tried; the same definition is the same version."""
        self.check_view(spec)
        now = self._clock.real()
        tried = FeatureView(**msgspec.structs.asdict(spec), version=0, created_by=actor, created_at=now)

        def attempt(cursor: Cursor) -> None:
            sources = self._sources_of(cursor, tried)
            views.check_view_sql(cursor, tried, sources)

        self._offline.write(attempt)
        return self.save_view(spec, actor=actor)

    def _sources_of(self, cursor: Cursor, view: FeatureView) -> list[Source]:
        sources = [self.source(name) for name in view.sources]
        for source in sources:
            self._ensure_source(cursor, source)
        return sources

    def _build_if_stale(self, view: FeatureView) -> str:
        """Compute a view's table if a source changed since; what it was built from."""

        def write(cursor: Cursor) -> str:
            sources = self._sources_of(cursor, view)
            counts = dict(cursor.execute("SELECT name, appends FROM source_state").fetchall())
            stamp = ",".join(f"{source.name}:{counts.get(source.name, 0)}" for source in sources)
            state = cursor.execute("SELECT built FROM view_state WHERE ref = ?", [view.ref]).fetchone()
            if state is None or state[0] != stamp:
                views.build(cursor, view, sources)
                cursor.execute("INSERT OR REPLACE INTO view_state VALUES (?, ?)", [view.ref, stamp])
            return stamp

        return self._offline.write(write)

    def _view_of(self, ref: str) -> FeatureView:
        """A version by its full reference; a version never changes, but for its text."""
        view = self._known_views.get(ref)
        if view is None:
            view = self._known_views[ref] = self.view(ref)
        return view

    # -- offline ----------------------------------------------------------------------------------------------------

    def historical(self, features: Sequence[str], spine: pa.Table, *, event_time: str) -> pa.Table:
        """Features as they were known at each row's time: one row for each of the spine's, in its order.

        A value is at most as old as its view's TTL, the boundary included; what is unknown or expired is NULL. The new
        columns are named by full reference.
        """
        full = self.resolve(features)
        plan = self._plan(full)
        rows = arrow_utc(_check_spine(spine, plan, event_time))
        for view in plan.values():
            self._build_if_stale(view)
        return self._offline.read(lambda cursor: self._join(cursor, rows, plan, full, event_time))

    @staticmethod
    def _join(
        cursor: Cursor, rows: pa.Table, plan: Mapping[str, FeatureView], full: Sequence[str], event_time: str
    ) -> pa.Table:
        import pyarrow as pa

        cursor.register("spine", rows.append_column("_row", pa.array(range(rows.num_rows), pa.int64())))
        return views.join(cursor, plan, full, event_time)

    def _plan(self, full: Sequence[str]) -> dict[str, FeatureView]:
        return {ref: self._view_of(ref) for ref in dict.fromkeys(feature.partition(":")[0] for feature in full)}

    # -- online -----------------------------------------------------------------------------------------------------

    def materialize(self, view_ref: str | None = None) -> int:
        """Bring the online store up to domain time, for one view or all; how many entities changed."""
        chosen = [self.view(view_ref)] if view_ref else self.views()
        with self._materializing:
            return sum(self._materialize(view) for view in chosen)

    def _materialize(self, view: FeatureView) -> int:
        stamp = f"{self._build_if_stale(view)};{self._online.id}"
        now = self._clock.now().replace(tzinfo=None)

        def write(cursor: Cursor) -> int:
            state = cursor.execute("SELECT built, until FROM online_state WHERE ref = ?", [view.ref]).fetchone()
            if state is not None and state[0] == stamp and not _any_between(cursor, view, state[1], now):
                return 0
            if state is None or state[0].rpartition(";")[2] != self._online.id:
                cursor.execute(f"DROP TABLE IF EXISTS {views.online_table(view.ref)}")
            cursor.execute("SET VARIABLE now = ?::TIMESTAMP", [now])
            changed = views.changed_since(cursor, view)
            width = len(view.join_keys)
            self._online.put((_key(view.ref, row[:width]), _packed(row[width:])) for row in changed)
            views.remember_latest(cursor, view)
            cursor.execute("INSERT OR REPLACE INTO online_state VALUES (?, ?, ?)", [view.ref, stamp, now])
            return len(changed)

        return self._offline.write(write)

    def online_features(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[OnlineRow]:
        """The latest values of each entity, as of domain time; raises InvalidInput for a missing or odd join key."""
        full = features if all(ref in self._full for ref in features) else self.resolve(features)
        self._full.update(full)
        plan = self._plan(full)
        keys = [
            _key(view.ref, _entity_key(view, entity, index))
            for index, entity in enumerate(entities)
            for view in plan.values()
        ]
        found = self._online.get(keys)
        now_us = to_us(self._clock.now())
        width = len(plan)
        return [
            _online_row(full, plan, found[start : start + width], now_us)
            for start in range(0, len(entities) * width, width)
        ]


def _any_between(cursor: Cursor, view: FeatureView, after: datetime, until: datetime) -> bool:
    """Whether any row became visible in (after, until]."""
    row = cursor.execute(
        f"SELECT 1 FROM {views.view_table(view.ref)} WHERE _eff > ? AND _eff <= ? LIMIT 1", [after, until]
    ).fetchone()
    return row is not None


def _key(ref: str, values: Sequence[Any]) -> str:
    return f"{ref}|{msgspec.json.encode(values).decode()}"


def _packed(row: Sequence[Any]) -> bytes:
    """Features and the event time, which comes last, as one packed row."""
    *values, event = row
    plain = [v.replace(tzinfo=UTC).isoformat() if isinstance(v, datetime) else v for v in values]
    return _pack((to_us(event.replace(tzinfo=UTC)), plain))


def _entity_key(view: FeatureView, entity: Mapping[str, Any], index: int) -> list[Any]:
    values = []
    for column in view.join_keys:
        if column.name not in entity:
            raise InvalidInput(
                f"Entity {index} has no {column.name!r}, which {view.ref} is looked up by.",
                hint=suggest(column.name, entity),
                field=f"entities.{index}.{column.name}",
            )
        value = entity[column.name]
        if not isinstance(value, _PYTHON_TYPES[column.dtype]) or (isinstance(value, bool) and column.dtype != "BOOL"):
            raise InvalidInput(
                f"{column.name!r} of entity {index} is {value!r:.60}, and {column.dtype} is wanted.",
                hint="Send the type that the view declares.",
                field=f"entities.{index}.{column.name}",
            )
        values.append(value)
    return values


def _online_row(
    full: Sequence[str], plan: Mapping[str, FeatureView], packed: Sequence[bytes | None], now_us: int
) -> OnlineRow:
    values: dict[str, Value] = {}
    statuses: dict[str, Any] = {}
    by_view = dict(zip(plan, packed, strict=True))
    rows = {ref: _fresh(plan[ref], row, now_us) for ref, row in by_view.items()}
    for feature in full:
        ref, _, name = feature.partition(":")
        statuses[feature], found = rows[ref]
        values[feature] = found.get(name)
    return OnlineRow(values=values, statuses=statuses)


def _fresh(view: FeatureView, packed: bytes | None, now_us: int) -> tuple[str, dict[str, Value]]:
    if packed is None:
        return "NOT_FOUND", {}
    event_us, values = _unpack(packed)
    if view.ttl_seconds is not None and now_us - event_us > view.ttl_seconds * 1_000_000:
        return "OUTSIDE_MAX_AGE", {}
    return "PRESENT", dict(zip((column.name for column in view.features), values, strict=True))


# -- checks ----------------------------------------------------------------------------------------------------------------


def _check_spine(spine: pa.Table, plan: Mapping[str, FeatureView], event_time: str) -> pa.Table:
    import pyarrow as pa

    for name in (event_time, *(key.name for view in plan.values() for key in view.join_keys)):
        if name not in spine.column_names:
            raise InvalidInput(
                f"The rows have no column {name!r}.", hint=suggest(name, spine.column_names), field=f"spine.{name}"
            )
    times = spine.column(event_time)
    if not pa.types.is_timestamp(times.type):
        raise InvalidInput(
            f"{event_time!r} is {times.type}, and a timestamp is wanted.",
            hint="Convert it.",
            field=f"spine.{event_time}",
        )
    if times.null_count:
        raise InvalidInput(f"{event_time!r} is null in some rows.", hint="Fill it.", field=f"spine.{event_time}")
    return spine
