"""Feature views in the offline store: tried when applied, up to date when read, and right at every point in time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Column, FeatureView, Source, ViewSpec
from mlbox.store.features.catalog import digest_of
from mlbox.store.features.sources import Sources
from mlbox.store.features.spine import asked_of
from mlbox.store.features.vectors import Plan
from mlbox.store.offline import asof, views
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.usersql import SEQUENCE, explaining, keeps_column
from mlbox.store.sandbox.sandbox import Sandbox, empty, hand_over
from mlbox.store.sandbox.sql_worker import Input, SqlAnswer
from mlbox.store.tables import arrow_utc

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

_STATE = """
DROP TABLE IF EXISTS "state:view";
DROP TABLE IF EXISTS "state:online";
CREATE TABLE IF NOT EXISTS "view:state" (
  ref VARCHAR PRIMARY KEY, stamp VARCHAR NOT NULL, seen BIGINT, batch BIGINT NOT NULL, rebuilt BIGINT NOT NULL,
  arrived BOOLEAN NOT NULL
);
"""
_MOST_KEPT = 1000
EVENT_TIME = "event_time"


class Built(NamedTuple):
    """From what a view's table was computed, and how often."""

    stamp: str
    """How often each of its sources had been changed."""
    seen: int | None
    """Rows of its one source that it knows of, where new ones can be taken alone."""
    batch: int
    rebuilt: int
    """The batch at which it was last computed as a whole."""
    arrived: bool
    """Whether rows became known later than they happened."""


class Shape(NamedTuple):
    """What a view's SQL does with the rows of its one source."""

    picked: dict[str, str] | None
    """The source's column behind each that it yields, where it does nothing but pick them: then it need not run at all."""
    by_row: bool
    """Whether it looks at each row alone."""


class _Todo(NamedTuple):
    """What a view is to be computed from."""

    built: Built | None
    """What its table was computed from before."""
    stamp: str
    seen: int
    """Rows of its first source."""
    relations: list[views.Relation]
    where: str
    """Which of their rows are new, where those alone are enough."""
    inputs: Sequence[Input] = ()


class ViewTables(Sources):
    """Views with their tables."""

    _plans: dict[tuple[str, ...], Plan]
    """Of features that name versions, which never change."""
    _shapes: dict[str, Shape]
    """Of views by digest."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._plans = {}
        self._shapes = {}
        self._sandbox = Sandbox(self._offline.limits)
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self._offline.prepare(_STATE)

    # -- definitions --------------------------------------------------------------------------------------------------

    def apply_view(self, spec: ViewSpec, *, actor: str) -> FeatureView:
        """Keep a view, after its SQL was tried; the same definition is the same version."""
        spec = self.pinned(spec)
        self.try_view(spec)
        return self.save_view(spec, actor=actor)

    def try_view(self, spec: ViewSpec) -> None:
        """Raise what is wrong with a view, its SQL included, and keep nothing."""
        self.check_view(spec)
        if spec.function is not None:
            return
        facts = {**msgspec.structs.asdict(spec), "digest": digest_of(spec)}
        self._look(FeatureView(**facts, version=0, created_by="", created_at=self._clock.real()))

    def _look(self, view: FeatureView) -> None:
        """Look at a view's SQL; raises what is wrong with it."""
        relations = self._offline.read(lambda cursor: self._relations(cursor, view))
        looked = self._sandbox.look(relations, [empty(one) for one in relations], view=view, most_bytes=self._max_sql)
        if len(self._shapes) >= _MOST_KEPT:
            self._shapes.clear()
        self._shapes[view.digest] = Shape(looked.picked, looked.by_row)

    def _shape(self, view: FeatureView) -> Shape:
        """What need not be found out by running a view's SQL; it is looked at once."""
        if view.function is not None:
            return Shape({column.name: column.name for column in views.fed(view).columns}, by_row=True)
        if len(view.sources) != 1 or "@" in view.sources[0]:
            return Shape(None, by_row=False)
        if view.digest not in self._shapes:
            self._look(view)
        return self._shapes[view.digest]

    def _relations(self, cursor: Cursor, view: FeatureView) -> list[views.Relation]:
        """What a view's SQL reads."""
        if view.function is not None:
            return [views.over_fed(view)[1]]
        return [self._relation(cursor, name) for name in view.sources]

    def _relation(self, cursor: Cursor, name: str) -> views.Relation:
        if "@" in name:
            upstream = self.view(name)
            return views.of_view(upstream, late=self._is_late(cursor, upstream))
        return views.of_source(self.declared(name), pushed=_is_pushed(cursor, name))

    def _is_late(self, cursor: Cursor, view: FeatureView) -> bool:
        """Whether rows of a view may become known later than they happened."""
        return view.function is not None or any(
            self._is_late(cursor, self.view(name))
            if "@" in name
            else self.declared(name).arrival_time is not None or _is_pushed(cursor, name)
            for name in view.sources
        )

    # -- tables ---------------------------------------------------------------------------------------------------------

    def refresh(self, view: FeatureView) -> None:
        """Bring a view's table up to date with its sources, and before it those of the views that it reads."""
        for name in _read_by(view):
            if "@" in name:
                self.refresh(self.view(name))
        if self._offline.used and self._offline.read(lambda cursor: is_fresh(cursor, view)):
            return
        with self._computing(view.ref):
            columns = self._shape(view).picked
            if columns is not None:
                self._offline.write(lambda cursor: self._pick(cursor, view, columns))
            else:
                self._run(view)

    def _run(self, view: FeatureView) -> None:
        """Compute a view by its SQL. Nobody waits for it but who asked: what is written meanwhile is for the next time."""
        with self._sandbox.files() as folder:
            self._offline.write(lambda cursor: self._have_tables(cursor, view))
            todo = self._offline.snapshot(lambda cursor: self._hand_over(cursor, view, folder))
            if todo is None:
                return
            ran = self._sandbox.run(folder, todo.relations, todo.inputs, view=view, most_bytes=self._max_sql)

            def take_over(cursor: Cursor) -> None:
                cursor.register("computed", ran.rows)
                self._keep(cursor, view, todo, ran.answer)
                cursor.unregister("computed")

            self._offline.write(take_over)

    def _pick(self, cursor: Cursor, view: FeatureView, columns: dict[str, str]) -> None:
        """Compute a view that only picks columns of its source."""
        self._have_tables(cursor, view)
        todo = self._todo(cursor, view)
        if todo is None:
            return
        found = views.picking(view, todo.relations[0], columns, where=todo.where)
        with explaining("sql", f"The SQL of {view.name}"):
            cursor.execute(f"CREATE OR REPLACE TEMP VIEW computed AS {found.sql}")
            self._keep(cursor, view, todo, found)
            cursor.execute("DROP VIEW computed")

    @contextlib.contextmanager
    def _computing(self, ref: str) -> Iterator[None]:
        """One at a time for each view."""
        with self._locks_lock:
            lock = self._locks.setdefault(ref, threading.Lock())
        with lock:
            yield

    def _have_tables(self, cursor: Cursor, view: FeatureView) -> None:
        if view.function is not None:
            self._ensure_source(cursor, views.fed(view))
        for name in _read_by(view):
            if "@" in name:
                views.ensure_table(cursor, self.view(name))
            else:
                self._ensure_source(cursor, self.declared(name))

    def _todo(self, cursor: Cursor, view: FeatureView) -> _Todo | None:
        """What a view is to be computed from; None where it is up to date."""
        built, stamp = built_of(cursor, view.ref), _stamp(cursor, view)
        if built is not None and built.stamp == stamp:
            return None
        relations = self._relations(cursor, view)
        after = built.seen if built is not None else None
        seen = self._row_count(cursor, relations[0].table.removeprefix("source:"))
        return _Todo(built, stamp, seen, relations, "" if after is None else f"{SEQUENCE} > {after}")

    def _hand_over(self, cursor: Cursor, view: FeatureView, folder: Path) -> _Todo | None:
        """As `_todo`, with the rows in files."""
        todo = self._todo(cursor, view)
        if todo is None:
            return None
        inputs = [hand_over(cursor, folder, one, where=todo.where) for one in todo.relations]
        return todo._replace(inputs=inputs)

    def _keep(self, cursor: Cursor, view: FeatureView, todo: _Todo, found: SqlAnswer | views.Rows) -> None:
        """Keep what a view yields, which is called `computed`."""
        built = todo.built
        batch = built.batch + 1 if built else 1
        if built is not None and built.seen is not None:
            arrived = found.arrives or built.arrived
            views.extend(cursor, view, batch, arrives=arrived)
            built = built._replace(stamp=todo.stamp, seen=todo.seen, batch=batch, arrived=arrived)
        else:
            views.build(cursor, view, batch, arrives=found.arrives, ordered=found.ordered)
            built = Built(todo.stamp, todo.seen if found.by_row else None, batch, batch, found.arrives)
        _note(cursor, view, built)

    def query_sources(self, sql: str, *, known: datetime, dataset: str, since: datetime | None = None) -> pa.Table:
        """What a user's SELECT yields, for a dataset, over what of any sources was known at a moment.

        With `since`, over the events from then on: for one that looks at each row alone.
        """
        declared = self.declarations()
        what: dict[str, Any] = {"sql": sql, "field": "spine", "most_bytes": self._max_sql}
        looked = self._sandbox.look((), (), allowed=tuple(source.name for source in declared), **what)
        self._db.privacy.shelter("dataset", dataset, [("source", name) for name in looked.tables])
        read = [source for source in declared if source.name in looked.tables]
        relations = [views.of_source(source) for source in read]
        with self._sandbox.files() as folder:
            self._offline.write(lambda cursor: [self._ensure_source(cursor, source) for source in read])
            inputs = self._offline.snapshot(
                lambda cursor: [
                    hand_over(cursor, folder, one, where=_within(source, one, known, since))
                    for source, one in zip(read, relations, strict=True)
                ]
            )
            return self._sandbox.run(folder, relations, inputs, **what).rows

    def source_by_row(self, sql: str) -> Source | None:
        """The source whose rows a user's SELECT looks at one by one and whose event time it yields; None for another SELECT."""
        declared = {source.name: source for source in self.declarations()}
        looked = self._sandbox.look((), (), allowed=tuple(declared), sql=sql, field="spine", most_bytes=self._max_sql)
        source = declared[looked.tables[0]] if len(looked.tables) == 1 else None
        if source is None or not keeps_column(msgspec.json.decode(looked.tree), source.event_time, EVENT_TIME):
            return None
        tried = FeatureView(
            name="spine",
            version=0,
            join_keys=(Column(name=EVENT_TIME, dtype="TIMESTAMP"),),
            features=(),
            sql=sql,
            sources=(source.name,),
            created_by="",
            created_at=source.created_at,
        )
        relation = views.of_source(source)._replace(says_arrival=None)
        try:
            found = self._sandbox.look([relation], [empty(relation)], view=tried, most_bytes=self._max_sql)
        except InvalidInput:  # whoever runs it says what is wrong with it
            return None
        return source if found.by_row else None

    # -- what has come since ----------------------------------------------------------------------------------------------

    def counts_of(self, source: str, view_refs: Sequence[str]) -> tuple[int, dict[str, int]]:
        """How many rows a source has, and how often each of some views was computed, once they are up to date."""
        for ref in view_refs:
            self.refresh(self.view(ref))

        def read(cursor: Cursor) -> tuple[int, dict[str, int]]:
            built = {ref: built_of(cursor, ref) for ref in view_refs}
            return self._row_count(cursor, source), {ref: one.batch if one else 0 for ref, one in built.items()}

        return self._offline.snapshot(read)

    def changed_from(
        self, cursor: Cursor, source: str, rows: int, batches: Mapping[str, int], known: tuple[datetime, datetime]
    ) -> list[datetime | None] | None:
        """From which event on each of them may differ from what was known at the first of two moments, when there were so many
        rows and batches; None where that cannot be told.
        """
        found: list[Any] = []
        if source:
            declared = self.declared(source)
            before, now = (views.literal(moment) for moment in known)
            arrival = views.of_source(declared).arrival
            found.append(
                f"SELECT min({quote(declared.event_time)}) FROM {views.source_table(source)}"
                f" WHERE {arrival} <= {now} AND ({SEQUENCE} > {rows} OR {arrival} > {before})"
            )
        for ref, batch in batches.items():
            built = built_of(cursor, ref)
            if built is None or built.rebuilt > batch:
                return None
            reach = "greatest(_event, coalesce(_arrival, _event))"
            found.append(f"SELECT min({reach}) FROM {views.view_table(ref)} WHERE _batch > {batch}")
        moments = [one(cursor, sql) for sql in found]
        return [row[0].replace(tzinfo=UTC) if row and row[0] is not None else None for row in moments]

    # -- point in time --------------------------------------------------------------------------------------------------

    def historical(
        self, features: Sequence[str], spine: pa.Table, *, event_time: str, known: asof.Known = "then"
    ) -> pa.Table:
        """Features as they were known at each row's time: one row for each of the spine's, in its order.

        A value is at most as old as its view's TTL, the boundary included; what is unknown or expired is NULL. With
        `known="latest"` what became known later counts too. The new columns are named by full reference.
        """
        plan = self._plan(features)
        rows = arrow_utc(spine)
        asked, keys = asked_of(spine, plan, event_time)
        for view in plan.views:
            self.refresh(view)

        def read(cursor: Cursor) -> dict[str, Any]:
            cursor.register("spine", asked)
            columns: dict[str, Any] = {}
            for view in plan.views:
                wanted = {ref: ref.partition(":")[2] for ref in plan.features if ref.startswith(f"{view.ref}:")}
                own = {key.name: keys[key.name, key.dtype] for key in view.join_keys}
                built = built_of(cursor, view.ref)
                found = asof.join(cursor, view, wanted, own, known, arrived=built is None or built.arrived)
                columns |= dict(zip(wanted, found.columns, strict=True))
            return columns

        found = self._offline.read(read)
        for feature in plan.features:
            rows = rows.append_column(feature, found[feature])
        return rows

    def historical_sql(self, features: Sequence[str], spine: str, empty: pa.Table, *, event_time: str) -> str:
        """A SELECT of a relation's rows, in any order, with features as they were known at each row's time.

        `empty` is the relation without its rows, whose columns are checked as `historical` does.
        """
        plan = self._plan(features)
        asked_of(arrow_utc(empty), plan, event_time)
        for view in plan.views:
            self.refresh(view)
        at = f"make_timestamp(epoch_us(spine.{quote(event_time)}))"  # whatever kind of time it is
        wanted = [(view, [ref for ref in plan.features if ref.startswith(f"{view.ref}:")]) for view in plan.views]
        return asof.chain(wanted, spine, at)

    def _plan(self, features: Sequence[str]) -> Plan:
        plan = self._plans.get(tuple(features))
        if plan is None or not all(self._db.privacy.visible("view", view.name) for view in plan.views):
            full = self.resolve(features)
            refs = dict.fromkeys(feature.partition(":")[0] for feature in full)
            plan = Plan(full, {ref: self.view(ref) for ref in refs})
            if full == tuple(features):
                if len(self._plans) >= _MOST_KEPT:
                    self._plans.clear()
                self._plans[full] = plan
        return plan


def built_of(cursor: Cursor, ref: str) -> Built | None:
    """From what a view's table was computed; None before the first time."""
    row = one(cursor, 'SELECT * EXCLUDE (ref) FROM "view:state" WHERE ref = ?', [ref])
    return Built(*row) if row else None


def _note(cursor: Cursor, view: FeatureView, built: Built) -> None:
    cursor.execute('INSERT OR REPLACE INTO "view:state" VALUES (?, ?, ?, ?, ?, ?)', [view.ref, *built])


def is_fresh(cursor: Cursor, view: FeatureView) -> bool:
    """Whether a view's table knows of all that its sources have."""
    built = built_of(cursor, view.ref)
    return built is not None and built.stamp == _stamp(cursor, view)


def _read_by(view: FeatureView) -> Sequence[str]:
    """What a view's table is computed from by SQL; what a function reads is read by its jobs."""
    return view.sources if view.function is None else ()


def _stamp(cursor: Cursor, view: FeatureView) -> str:
    """How often what a view's table is computed from was changed."""
    if view.function is not None:
        row = one(cursor, 'SELECT appends FROM "state:source" WHERE name = ?', [views.fed(view).name])
        return f"fed:{row[0] if row else 0}"
    return stamp_of(cursor, view)


def stamp_of(cursor: Cursor, view: FeatureView) -> str:
    """How often each of a view's sources was changed."""
    appends = dict(cursor.execute('SELECT name, appends FROM "state:source"').fetchall())
    batches = dict(cursor.execute('SELECT ref, batch FROM "view:state"').fetchall())
    return ",".join(f"{name}:{(batches if '@' in name else appends).get(name, 0)}" for name in view.sources)


def _within(source: Source, relation: views.Relation, known: datetime, since: datetime | None) -> str:
    """Which rows of a source a dataset's query is given."""
    events = f" AND {quote(source.event_time)} >= {views.literal(since)}" if since is not None else ""
    return f"{relation.arrival} <= {views.literal(known)}{events}"


def _is_pushed(cursor: Cursor, name: str) -> bool:
    row = one(cursor, 'SELECT pushed FROM "state:source" WHERE name = ?', [name])
    return bool(row and row[0])
