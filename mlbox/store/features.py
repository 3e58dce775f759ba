"""The feature store: one definition, offline as it was at every moment, online as it is now."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import FeatureView, OnlineRow, Source, ViewSpec
from mlbox.store import views
from mlbox.store.catalog import ALL, Catalog
from mlbox.store.db import Database
from mlbox.store.offline import Offline, quote
from mlbox.store.online import Online
from mlbox.store.spine import asked_of
from mlbox.store.tables import arrow_utc, conform
from mlbox.store.usersql import SEQUENCE, check_select
from mlbox.store.vectors import Plan, packed, row_key

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

_STATE = """
CREATE TABLE IF NOT EXISTS "state:source" (name VARCHAR PRIMARY KEY, appends BIGINT NOT NULL, row_count BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS "state:view" (ref VARCHAR PRIMARY KEY, built VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS "state:online" (
  ref VARCHAR PRIMARY KEY, built VARCHAR NOT NULL, store VARCHAR NOT NULL, until_us BIGINT NOT NULL
);
"""
_MOST_PLANS = 1000


class FeatureStore(Catalog):
    """Definitions, their rows offline, and the latest of them online."""

    def __init__(self, db: Database, offline: Offline, online: Online, clock: Clock, *, max_sql: int = 65536) -> None:
        super().__init__(db, max_sql=max_sql)
        self._offline = offline
        self._online = online
        self._clock = clock
        self._plans: dict[tuple[str, ...], Plan] = {}
        """Of features that name versions, which never change."""
        self._materializing = threading.Lock()
        offline.prepare(_STATE)

    # -- sources ----------------------------------------------------------------------------------------------------

    def append(self, source: str, table: pa.Table, *, actor: str) -> int:
        """Add rows to a source, all or none; how many. Columns are those declared, in any order."""
        found = self.declared(source)
        rows = conform(table, found.columns, required=(found.event_time,))

        def write(cursor: Cursor) -> int:
            self._ensure_source(cursor, found)
            return self._insert(cursor, found, self._screened(cursor, found, rows, actor))

        added = self._offline.write(write) if rows.num_rows else 0
        if added:
            self.note_append(source, added, actor=actor)
        return added

    def _screened(self, cursor: Cursor, source: Source, rows: pa.Table, actor: str) -> pa.Table:
        """Those of the rows that go into the source."""
        return rows

    @classmethod
    def _insert(cls, cursor: Cursor, source: Source, rows: pa.Table) -> int:
        """Write rows to a source's table; how many."""
        if not rows.num_rows:
            return 0
        before = dict(cls._source_counts(cursor)).get(source.name, 0)
        cursor.register("incoming", rows)
        cursor.execute(
            f"INSERT INTO {views.source_table(source.name)} SELECT {views.names(source.columns)},"
            f" {before} + row_number() OVER () FROM incoming"
        )
        cursor.unregister("incoming")
        cursor.execute(
            'INSERT INTO "state:source" VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE'
            " SET appends = appends + 1, row_count = row_count + excluded.row_count",
            [source.name, rows.num_rows],
        )
        return int(rows.num_rows)

    def sources(self, *, limit: int = ALL, after: str | None = None) -> list[Source]:
        """Sources by name with their number of rows, from the one after `after`."""
        return self._counted(self.declarations(limit=limit, after=after))

    def source(self, name: str) -> Source:
        """One source with its number of rows; raises NotFound."""
        return self._counted([self.declared(name)])[0]

    def _counted(self, declared: list[Source]) -> list[Source]:
        used = declared and self._offline.used
        counts = dict(self._offline.read(self._source_counts)) if used else {}
        return [msgspec.structs.replace(source, rows=counts.get(source.name, 0)) for source in declared]

    @staticmethod
    def _source_counts(cursor: Cursor) -> list[tuple[str, int]]:
        return cursor.execute('SELECT name, row_count FROM "state:source"').fetchall()

    @staticmethod
    def _ensure_source(cursor: Cursor, source: Source) -> None:
        typed = ", ".join(f"{quote(c.name)} {views.SQL_TYPES[c.dtype]}" for c in source.columns)
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {views.source_table(source.name)} ({typed}, {SEQUENCE} BIGINT NOT NULL)"
        )

    def query_sources(self, cursor: Cursor, sql: str, *, known: datetime, dataset: str) -> str:
        """A user's SELECT over what of any sources was known at a moment, checked for a dataset, as a subquery."""
        declared = self.declarations()
        for source in declared:
            self._ensure_source(cursor, source)
        allowed = [source.name for source in declared]
        select = check_select(cursor, sql, allowed, field="spine", most_bytes=self._max_sql)
        self._db.privacy.shelter("dataset", dataset, [("source", name) for name in select.tables])
        return views.over_sources(sql, [source for source in declared if source.name in select.tables], known=known)

    # -- views ------------------------------------------------------------------------------------------------------

    def apply_view(self, spec: ViewSpec, *, actor: str) -> FeatureView:
        """Keep a view, after its SQL was tried; the same definition is the same version."""
        self.check_view(spec)
        now = self._clock.real()
        tried = FeatureView(**msgspec.structs.asdict(spec), version=0, created_by=actor, created_at=now)
        self._offline.write(lambda cursor: views.check_view_sql(cursor, tried, self._sources_of(cursor, tried)))
        return self.save_view(spec, actor=actor)

    def _sources_of(self, cursor: Cursor, view: FeatureView) -> list[Source]:
        sources = [self.declared(name) for name in view.sources]
        for source in sources:
            self._ensure_source(cursor, source)
        return sources

    def _build_if_stale(self, view: FeatureView) -> None:
        """Compute a view's table if a source was appended to since it was last computed."""

        def write(cursor: Cursor) -> None:
            stamp, built = _stamps(cursor, view)
            if stamp != built:
                views.build(cursor, view, self._sources_of(cursor, view))
                cursor.execute('INSERT OR REPLACE INTO "state:view" VALUES (?, ?)', [view.ref, stamp])

        stamp, built = self._offline.read(lambda cursor: _stamps(cursor, view))
        if stamp != built:
            self._offline.write(write)

    # -- offline ----------------------------------------------------------------------------------------------------

    def historical(self, features: Sequence[str], spine: pa.Table, *, event_time: str) -> pa.Table:
        """Features as they were known at each row's time: one row for each of the spine's, in its order.

        A value is at most as old as its view's TTL, the boundary included; what is unknown or expired is NULL. The new
        columns are named by full reference.
        """
        plan = self._plan(features)
        rows = arrow_utc(spine)
        asked, keys = asked_of(spine, plan, event_time)
        for view in plan.views:
            self._build_if_stale(view)

        def read(cursor: Cursor) -> dict[str, Any]:
            cursor.register("spine", asked)
            columns: dict[str, Any] = {}
            for view in plan.views:
                wanted = {ref: ref.partition(":")[2] for ref in plan.features if ref.startswith(f"{view.ref}:")}
                own = {key.name: keys[key.name, key.dtype] for key in view.join_keys}
                found = views.join(cursor, view, wanted, own)
                columns |= dict(zip(wanted, found.columns, strict=True))
            return columns

        found = self._offline.read(read)
        for feature in plan.features:
            rows = rows.append_column(feature, found[feature])
        return rows

    def _plan(self, features: Sequence[str]) -> Plan:
        plan = self._plans.get(tuple(features))
        if plan is None or not all(self._db.privacy.visible("view", view.name) for view in plan.views):
            full = self.resolve(features)
            refs = dict.fromkeys(feature.partition(":")[0] for feature in full)
            plan = Plan(full, {ref: self.view(ref) for ref in refs})
            if full == tuple(features):
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[full] = plan
        return plan

    # -- online -----------------------------------------------------------------------------------------------------

    def materialize(self, view_ref: str | None = None, *, actor: str | None = None) -> int:
        """Bring the online store up to domain time, for one view or all; how many entities changed.

        A view that cannot be computed does not hold up the others: its error is raised after them.
        """
        written, failed = 0, []
        with self._materializing:
            for view in [self.view(view_ref)] if view_ref else self.views():
                try:
                    written += self._materialize(view)
                except InvalidInput as err:
                    failed.append(err)
        if written and actor is not None:
            self.note_materialized(view_ref, written, actor=actor)
        if failed:
            raise _first_of(failed)
        return written

    def _materialize(self, view: FeatureView) -> int:
        self._build_if_stale(view)
        now, store = self._clock.now(), self._online.id

        def write(cursor: Cursor) -> int:
            built = _stamps(cursor, view)[1]
            done = cursor.execute('SELECT * EXCLUDE (ref) FROM "state:online" WHERE ref = ?', [view.ref]).fetchone()
            if done is not None and done[1] != store:  # another folder: it has nothing of what was written
                cursor.execute(f"DROP TABLE IF EXISTS {views.online_table(view.ref)}")
            since = from_us(done[2]) if done is not None and done[:2] == (built, store) else None
            changes = views.changed_since(cursor, view, since, now)
            width = len(view.join_keys)
            self._online.put(
                ((row_key(view.ref, row[:width]), packed(row[width:])) for row in changes.written),
                gone=[row_key(view.ref, row) for row in changes.gone],
            )
            state = [view.ref, built, store, to_us(now)]
            cursor.execute('INSERT OR REPLACE INTO "state:online" VALUES (?, ?, ?, ?)', state)
            return len(changes.written) + len(changes.gone)

        if self._offline.read(lambda cursor: _is_up_to_date(cursor, view, store, now)):
            return 0
        return self._offline.write(write)

    def online_features(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[OnlineRow]:
        """The latest values of each entity, as of domain time; raises InvalidInput for a missing or odd join key."""
        plan = self._plan(features)
        return plan.rows(self._online.get(plan.keys(entities)), to_us(self._clock.now()))


def _stamps(cursor: Cursor, view: FeatureView) -> tuple[str, str | None]:
    """How often each of a view's sources was appended to, and how often it had been when the view was computed."""
    counts = dict(cursor.execute('SELECT name, appends FROM "state:source"').fetchall())
    state = cursor.execute('SELECT built FROM "state:view" WHERE ref = ?', [view.ref]).fetchone()
    return ",".join(f"{name}:{counts.get(name, 0)}" for name in view.sources), state[0] if state else None


def _is_up_to_date(cursor: Cursor, view: FeatureView, store: str, now: datetime) -> bool:
    """Whether nothing became visible since the view was last written online, from the same rows to the same folder."""
    built = _stamps(cursor, view)[1]
    done = cursor.execute('SELECT * EXCLUDE (ref) FROM "state:online" WHERE ref = ?', [view.ref]).fetchone()
    if done is None or done[:2] != (built, store):
        return False
    between = f"_eff > {views.literal(from_us(done[2]))} AND _eff <= {views.literal(now)}"
    return not cursor.execute(f"SELECT 1 FROM {views.view_table(view.ref)} WHERE {between} LIMIT 1").fetchall()


def _first_of(failed: Sequence[MlboxError]) -> MlboxError:
    first = failed[0]
    if len(failed) > 1:
        first.hint = f"{first.hint} {len(failed) - 1} more failed.".strip()
    return first
