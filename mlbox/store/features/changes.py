"""What of a view's table is to be written online, in parts of bounded size, each of which is remembered once it is written.

A part is the entities whose hash falls into it. Part by part, the latest row of each entity is found, compared with the offline
copy of what is online, and what differs is written; then the copy and the number of the part are committed. A run that was killed
goes on at the part that it was at, and writes that part again: writing is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import from_us
from mlbox.records import FeatureView
from mlbox.store.features.online import Gone, Written
from mlbox.store.features.vectors import packed, row_key
from mlbox.store.offline.offline import one, quote
from mlbox.store.offline.views import literal, names, view_table

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

STATE = """
CREATE TABLE IF NOT EXISTS "online:state" (
  ref VARCHAR PRIMARY KEY, store VARCHAR NOT NULL, batch BIGINT NOT NULL, until_us BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS "online:task" (ref VARCHAR PRIMARY KEY, task VARCHAR NOT NULL, done BIGINT NOT NULL);
"""
PART_ROWS = 250_000
"""Rows of a view's table that one part looks at, about."""
_FETCH = 10_000


class State(NamedTuple):
    """Up to where a view was written online: to which folder, with which batch of its table, and for which moment."""

    store: str
    batch: int
    until_us: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One run: what it writes, and in how many parts."""

    store: str
    batch: int
    until_us: int
    since: State | None
    """What was written before, where what changed since is enough; None means everything."""
    anew: bool = False
    """Whether what is remembered of the online store is wrong, or is not to be trusted."""
    start_us: int | None = None
    end_us: int | None = None
    parts: int = 1

    @property
    def is_backfill(self) -> bool:
        """Whether only events of a span are written."""
        return self.start_us is not None or self.end_us is not None


class Part(NamedTuple):
    """How many entities a part of a task changed."""

    written: int
    gone: int


def online_table(ref: str) -> str:
    """What of a view version was written online, quoted."""
    return quote(f"online:{ref}")


def state_of(cursor: Cursor, ref: str) -> State | None:
    """Up to where a view was written online."""
    row = one(cursor, 'SELECT * EXCLUDE (ref) FROM "online:state" WHERE ref = ?', [ref])
    return State(*row) if row else None


def is_pending(cursor: Cursor, view: FeatureView, state: State, batch: int, now: datetime) -> bool:
    """Whether rows came in, or became visible, since a view was written online."""
    if batch != state.batch:
        return True
    since = f"_eff > {literal(from_us(state.until_us))} AND _eff <= {literal(now)}"
    return bool(cursor.execute(f"SELECT 1 FROM {view_table(view.ref)} WHERE {since} LIMIT 1").fetchall())


def begin(cursor: Cursor, view: FeatureView, task: Task) -> tuple[Task, int]:
    """The task with its number of parts, and how many of them are done: a task like it that was broken off goes on."""
    wanted = f"SELECT count(*) FROM {view_table(view.ref)} WHERE {_concerned(task)}"
    row = one(cursor, wanted)
    assert row is not None
    task = msgspec.structs.replace(task, parts=max(1, -(-row[0] // PART_ROWS)))
    found = one(cursor, 'SELECT task, done FROM "online:task" WHERE ref = ?', [view.ref])
    if found is not None:
        broken = msgspec.json.decode(found[0], type=Task)
        if msgspec.structs.replace(broken, until_us=task.until_us) == task:
            return broken, found[1]
    if task.anew:
        cursor.execute(f"DROP TABLE IF EXISTS {online_table(view.ref)}")
    note(cursor, view, task, 0)
    return task, 0


def note(cursor: Cursor, view: FeatureView, task: Task, done: int) -> None:
    """Remember how many parts are done; a task that is through is forgotten, and what it wrote becomes the state."""
    if done < task.parts:
        text = msgspec.json.encode(task).decode()
        cursor.execute('INSERT OR REPLACE INTO "online:task" VALUES (?, ?, ?)', [view.ref, text, done])
        return
    cursor.execute('DELETE FROM "online:task" WHERE ref = ?', [view.ref])
    if not task.is_backfill:
        state = [view.ref, task.store, task.batch, task.until_us]
        cursor.execute('INSERT OR REPLACE INTO "online:state" VALUES (?, ?, ?, ?)', state)


def prepare(cursor: Cursor, view: FeatureView, task: Task, part: int) -> None:
    """Have the temporary tables `changed`, rows to be written, and `gone`, keys that are to go or to be written anew."""
    keys, values, target = names(view.join_keys), names((*view.join_keys, *view.features)), online_table(view.ref)
    inside = f" AND hash({keys}) % {task.parts} = {part}" if task.parts > 1 else ""
    some = (
        f" AND ({keys}) IN (SELECT ({keys}) FROM {view_table(view.ref)} WHERE {_concerned(task)})" if task.since else ""
    )
    order = "_event DESC, _arrival DESC" if task.is_backfill else "_eff DESC"
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE latest AS SELECT {values}, _event FROM {view_table(view.ref)}"
        f" WHERE {_visible(task)}{inside}{some}"
        f" QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"
    )
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {target} AS SELECT * FROM latest LIMIT 0")
    if task.is_backfill:
        cursor.execute("CREATE OR REPLACE TEMP TABLE changed AS SELECT * FROM latest")
        cursor.execute("CREATE OR REPLACE TEMP TABLE gone AS SELECT * FROM latest LIMIT 0")
        return
    fallen = f" AND ({keys}) IN (SELECT ({keys}) FROM latest)" if task.since else ""
    cursor.execute(f"CREATE OR REPLACE TEMP TABLE old AS SELECT * FROM {target} WHERE true{inside}{fallen}")
    cursor.execute("CREATE OR REPLACE TEMP TABLE changed AS SELECT * FROM latest EXCEPT SELECT * FROM old")
    on = " AND ".join(f"old.{quote(key.name)} = latest.{quote(key.name)}" for key in view.join_keys)
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE gone AS SELECT {keys}, _event FROM old"
        f" ANTI JOIN latest ON {on} AND latest._event >= old._event"
    )


def copy(cursor: Cursor, view: FeatureView, task: Task) -> None:
    """Take what was prepared into the offline copy of what is online."""
    if task.is_backfill:
        return
    keys, target = names(view.join_keys), online_table(view.ref)
    for left in ("gone", "changed"):
        cursor.execute(f"DELETE FROM {target} WHERE ({keys}) IN (SELECT ({keys}) FROM {left})")
    cursor.execute(f"INSERT INTO {target} SELECT * FROM changed")


def written(cursor: Cursor, view: FeatureView, table: str = "changed") -> Iterator[Written]:
    """The rows of a table of join keys, features and `_event` as the online store keeps them."""
    width = len(view.join_keys)
    times = [place for place, column in enumerate(view.features) if column.dtype == "TIMESTAMP"]
    for row in _fetched(cursor, f"SELECT epoch_us(_event), {_plain(view)} FROM {table}"):
        values: Any = row[width + 1 :]
        if times:
            values = [_iso(value) if place in times else value for place, value in enumerate(values)]
        yield Written(row_key(view.ref, row[1 : width + 1]), row[0], packed(values, row[0]))


def gone(cursor: Cursor, view: FeatureView) -> Iterator[Gone]:
    """The rows that are to go."""
    keys = ", ".join(_key(column.name, column.dtype) for column in view.join_keys)
    for event_us, *key in _fetched(cursor, f"SELECT epoch_us(_event), {keys} FROM gone"):
        yield Gone(row_key(view.ref, key), event_us)


def _fetched(cursor: Cursor, sql: str) -> Iterator[tuple[Any, ...]]:
    cursor.execute(sql)
    while some := cursor.fetchmany(_FETCH):
        yield from some


def _plain(view: FeatureView) -> str:
    return ", ".join(_key(column.name, column.dtype) for column in (*view.join_keys, *view.features))


def _key(name: str, dtype: str) -> str:
    return f"epoch_us({quote(name)})" if dtype == "TIMESTAMP" else quote(name)


def _iso(us: int | None) -> str | None:
    return None if us is None else from_us(us).isoformat()


def _concerned(task: Task) -> str:
    """The rows of a view's table that a task is about."""
    if task.since is None:
        return _visible(task)
    since, until = literal(from_us(task.since.until_us)), literal(from_us(task.until_us))
    return f"(_batch > {task.since.batch} OR (_eff > {since} AND _eff <= {until}))"


def _visible(task: Task) -> str:
    """The rows that the latest of each entity is among; of a span, those that a later event outdid as well."""
    until = literal(from_us(task.until_us))
    if not task.is_backfill:
        return f"_eff <= {until}"
    start = f" AND _event > {literal(from_us(task.start_us))}" if task.start_us is not None else ""
    end = f" AND _event <= {literal(from_us(task.end_us))}" if task.end_us is not None else ""
    return f"greatest(_event, _arrival) <= {until}{start}{end}"  # a null arrival is left out of account
