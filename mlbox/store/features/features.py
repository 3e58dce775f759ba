"""The feature store: one definition, offline as it was at every moment, online as it is now."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Column, FeatureView, OnlineRow, Pushed, Source
from mlbox.store.db import Database
from mlbox.store.features import changes
from mlbox.store.features.folders import Folders
from mlbox.store.features.freshness import Fresh
from mlbox.store.features.online import Online
from mlbox.store.features.vectors import Vectors
from mlbox.store.features.viewtables import built_of
from mlbox.store.offline import views
from mlbox.store.offline.offline import Offline
from mlbox.store.offline.usersql import ARRIVED, SEQUENCE, explaining
from mlbox.store.sandbox.sandbox import hand_over_table
from mlbox.store.tables import conform

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

To = Literal["online_and_offline", "online", "offline"]
EVENT_TIME = Column(name="event_time", dtype="TIMESTAMP")


class FeatureStore(Fresh):
    """Definitions, their rows offline, and the latest of them online."""

    def __init__(
        self,
        db: Database,
        offline: Offline,
        online: Online,
        clock: Clock,
        *,
        max_sql: int = 65536,
        folders: Folders | None = None,
    ) -> None:
        super().__init__(db, offline, clock, max_sql=max_sql, folders=folders)
        self._online = online
        self._materializing = threading.Lock()
        self._at: dict[str, tuple[int, int]] = {}
        offline.prepare(changes.STATE)

    # -- materialize ----------------------------------------------------------------------------------------------------

    def materialize(
        self,
        view_ref: str | None = None,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        full: bool = False,
        actor: str | None = None,
    ) -> int:
        """Bring the online store up to domain time, for one view or all; how many entities changed.

        By default only what came in or became visible since the last time is written; with `full` everything is, and with
        `start` (itself excluded) or `end` the latest of the events between. It is written in parts, and a call that was
        broken off goes on at the part that it was at. A view that cannot be computed does not hold up the others: its error
        is raised after them.
        """
        if start is not None and end is not None and start >= end:
            raise InvalidInput("The start is not before the end.", hint="Swap them.", field="start")
        written: dict[str, int] = {}
        done = []
        failed: dict[str, InvalidInput] = {}
        with self._materializing:
            for view in [self.view(view_ref)] if view_ref else self.views():
                try:
                    written[view.ref] = self._materialize(view, start, end, full=full)
                    done.append(view)
                except InvalidInput as err:
                    failed[view.ref] = err
            whole = start is None and end is None
            self._note_refreshed(done if whole else (), {ref: str(err) for ref, err in failed.items()})
        if any(written.values()) and actor is not None:
            self.note_materialized(view_ref, written, actor=actor)
        if failed:
            raise _first_of(list(failed.values()))
        return sum(written.values())

    def progress(self) -> dict[str, tuple[int, int]]:
        """Parts that are done, and all of them, of each view that is being materialized."""
        return {
            ref: at for ref, at in self._at.copy().items() if self._db.privacy.visible("view", ref.partition("@")[0])
        }

    def _materialize(self, view: FeatureView, start: datetime | None, end: datetime | None, *, full: bool) -> int:
        self.refresh(view)
        now, store = self._clock.now(), self._online.id

        def begin(cursor: Cursor) -> tuple[changes.Task, int] | None:
            built, state = built_of(cursor, view.ref), changes.state_of(cursor, view.ref)
            assert built is not None
            here = state if state is not None and state.store == store and not full else None
            span = (None if start is None else to_us(start), None if end is None else to_us(end))
            is_backfill = span != (None, None)
            if here is not None and not is_backfill and not changes.is_pending(cursor, view, here, built.batch, now):
                return None
            since = here if here is not None and built.rebuilt <= here.batch and not is_backfill else None
            task = changes.Task(
                store=store,
                batch=built.batch,
                until_us=to_us(now),
                since=since,
                anew=here is None and not is_backfill,
                start_us=span[0],
                end_us=span[1],
            )
            return changes.begin(cursor, view, task)

        begun = self._offline.write(begin)
        return self._write_parts(view, *begun) if begun else 0

    def _write_parts(self, view: FeatureView, task: changes.Task, done: int) -> int:
        def write(cursor: Cursor) -> int:
            changes.prepare(cursor, view, task, part)
            gone = list(changes.gone(cursor, view))
            count = self._online.put(changes.written(cursor, view), gone=gone)
            changes.copy(cursor, view, task)
            changes.note(cursor, view, task, part + 1)
            return count + len(gone)

        total = 0
        try:
            for part in range(done, task.parts):
                self._at[view.ref] = (part, task.parts)
                total += self._offline.write(write)
        finally:
            self._at.pop(view.ref, None)
        return total

    # -- push -----------------------------------------------------------------------------------------------------------

    def push(self, source: str, table: pa.Table, *, to: To = "online_and_offline", actor: str) -> Pushed:
        """Take rows that become known now: into a source, and online in the views that look at each of its rows alone.

        A column that says when rows became known is filled where it is left out. Views that aggregate are online at their next
        materialization. Rows that break an expectation are held back from both.
        """
        found = self.declared(source)
        self.check_open(source)
        now = self._clock.now()
        rows = conform(_stamped(table, found, now), found.columns, required=(found.event_time,))
        over = self._over(found)
        _check_keys(found, over, rows)
        passed = self._passed(found, rows, actor, now, keep=to != "online")
        written = 0
        if to != "offline" and passed.num_rows:
            written = sum(self._push_online(view, found, passed, now, wait=to != "online") for view in over)
        return Pushed(rows=passed.num_rows, quarantined=rows.num_rows - passed.num_rows, online=written)

    def _passed(self, source: Source, rows: pa.Table, actor: str, now: datetime, *, keep: bool) -> pa.Table:
        """Rows that meet what is expected; they are in the source as well, if they are to be kept."""
        passed = rows

        def write(cursor: Cursor) -> int:
            nonlocal passed
            self._ensure_source(cursor, source)
            passed = self._screened(cursor, source, rows, actor)
            return self._insert(cursor, source, passed, arrived=now) if keep else 0

        if rows.num_rows:
            self._offline.write(write)
        if keep and passed.num_rows:
            self.note_append(source.name, passed.num_rows, actor=actor)
        self._note_held(source.name, rows.num_rows - passed.num_rows, actor)
        return passed

    def _note_held(self, source: str, rows: int, actor: str) -> None:
        """Tell of rows that were held back."""

    def _over(self, source: Source) -> list[FeatureView]:
        """All versions of the views over a source alone."""
        return [view for view in self.views() if view.sources == (source.name,) and view.function is None]

    def _push_online(self, view: FeatureView, source: Source, rows: pa.Table, now: datetime, *, wait: bool) -> int:
        """What the rows yield for a view, online; with `wait`, events to come are left to a materialization."""
        shape = self._shape(view)
        if not shape.by_row:
            return 0
        relation, numbered = views.of_source(source, pushed=True), _numbered(rows, now)
        if shape.picked is not None:
            given, sql = numbered, views.picking(view, relation._replace(table="given"), shape.picked).sql
        else:
            with self._sandbox.files() as folder:
                pushed = hand_over_table(numbered, folder, relation)
                ran = self._sandbox.run(folder, [relation], [pushed], view=view, most_bytes=self._max_sql)
            given, sql = ran.rows, "SELECT * FROM given"
        keys, columns = views.names(view.join_keys), views.names((*view.join_keys, *view.features))
        upto = f"WHERE greatest(_event, _arrival) <= {views.literal(now)}" if wait else ""
        latest = f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _event DESC, _arrival DESC, _order DESC) = 1"

        def read(cursor: Cursor) -> int:
            cursor.register("given", given)
            some = f"(SELECT {columns}, _event FROM ({sql}) {upto} {latest})"
            with explaining("sql", f"The SQL of {view.name}"):
                return self._online.put(list(changes.written(cursor, view, some)))

        return self._offline.read(read)

    def write_online(self, view_ref: str, table: pa.Table, *, actor: str) -> int:
        """Write rows of a view (join keys, features, `event_time`) online, and nowhere else; how many took effect.

        A row takes effect unless a newer event of its entity is there. Raises InvalidInput naming column and row.
        """
        view = self.view(view_ref)
        keys = tuple(column.name for column in view.join_keys)
        rows = conform(
            table, (*view.join_keys, *view.features, EVENT_TIME), required=(*keys, "event_time")
        ).rename_columns([*keys, *(column.name for column in view.features), "_event"])

        def read(cursor: Cursor) -> int:
            cursor.register("given", rows)
            return self._online.put(list(changes.written(cursor, view, "given")))

        written = self._offline.read(read) if rows.num_rows else 0
        if written:
            self.note_materialized(view.ref, {view.ref: written}, actor=actor)
        return written

    # -- read -----------------------------------------------------------------------------------------------------------

    def online_features(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> list[OnlineRow]:
        """The latest values of each entity, as of domain time; raises InvalidInput for a missing or odd join key."""
        return self.online_vectors(features, entities).rows()

    def online_vectors(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> Vectors:
        """As `online_features`, for those who want values and no records."""
        plan = self._plan(features)
        return plan.read(self._online.get(plan.keys(entities)), to_us(self._clock.now()))

    def online_table(self, features: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> pa.Table:
        """As `online_features`, as a table: a row for each entity, a column for each feature, and one for its status."""
        return self.online_vectors(features, entities).arrow()

    def asked_with(self, features: Sequence[str]) -> list[Column]:
        """What an entity has to name for features: the join keys of their views."""
        views = dict.fromkeys(ref.partition(":")[0] for ref in features)
        keys = [key for view in views for key in self.view(view).join_keys]
        return list({key.name: Column(name=key.name, dtype=key.dtype) for key in keys}.values())

    def uses_transforms(self, features: Sequence[str]) -> bool:
        """Whether any of the features is made when it is asked for: of those of views none is."""
        return False

    def is_at_hand(self, features: Sequence[str], entities: int) -> bool:
        """Whether an online read costs so little that a thread of its own would cost more: not as far as is known here."""
        return False

    def with_transforms(self, features: Sequence[str], table: pa.Table, *, last: str | None = None) -> pa.Table:
        """Rows of `historical_sql` with what is made of them: nothing here."""
        return table


def _stamped(table: pa.Table, source: Source, now: datetime) -> pa.Table:
    """The rows with the moment in the column that says when they became known, where it is left out."""
    import pyarrow as pa

    name = source.arrival_time
    if name is None or name in table.column_names:
        return table
    return table.append_column(name, pa.array([now] * table.num_rows, pa.timestamp("us", "UTC")))


def _check_keys(source: Source, over: Sequence[FeatureView], rows: pa.Table) -> None:
    """Raise InvalidInput for a row that no view over the source could be looked up by: it would be there and never be seen.

    A key that the SQL of a view makes is not looked at.
    """
    import pyarrow.compute as pc

    names = {column.name for column in source.columns}
    keyed = [(view, [key.name for key in view.join_keys if key.name in names]) for view in over]
    if not all(keys for _, keys in keyed):
        return
    lost = None
    for _, keys in keyed:
        lacking = functools.reduce(pc.or_, [rows.column(key).is_null() for key in keys])
        lost = lacking if lost is None else pc.and_(lost, lacking)
    row = -1 if lost is None else pc.index(lost, True).as_py()
    if row >= 0:
        view, keys = keyed[-1]
        key = next(key for key in keys if not rows.column(key)[row].is_valid)
        raise InvalidInput(
            f"{key!r} is missing in row {row + 1}, and {view.ref} is looked up by it.", hint="Fill it.", field=key
        )


def _numbered(rows: pa.Table, now: datetime) -> pa.Table:
    """The rows with the columns of ours: their number, and when they arrived."""
    import numpy as np
    import pyarrow as pa

    stamped = pa.array([now.astimezone(UTC).replace(tzinfo=None)] * rows.num_rows, pa.timestamp("us"))
    return rows.append_column(SEQUENCE, pa.array(np.arange(rows.num_rows))).append_column(ARRIVED, stamped)


def _first_of(failed: Sequence[MlboxError]) -> MlboxError:
    first = failed[0]
    if len(failed) > 1:
        first.hint = f"{first.hint} {len(failed) - 1} more failed.".strip()
    return first
