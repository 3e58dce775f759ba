"""Feature views as tables of the offline store: how they are computed from what their SQL reads, and kept up to date.

A view's table keeps the rows that some question can be about. A row becomes visible at `_eff`, the later of its event and its
arrival; of the visible rows of a key the one with the latest event counts, of equal events the one that arrived last, and of
those the one appended last. A row that is already outdone when it becomes visible is never the answer: its `_eff` is null, so
that along `_eff` the last row is always the answer, and a plain ASOF join is exact. It is kept only where it is `_last` of its
event, for those who ask about events whatever was known when.

Where a view's rows are not those of one source (it joins, groups or limits), "appended last" has no meaning, and the greatest
values count: any rule will do, as long as the same data gives the same answer.

A view whose SQL looks at one row of one source at a time is brought up to date with the source's new rows alone; any other is
computed anew. `_batch` counts the times that a table was changed and says when a row came in, so that what was written online
is brought up to date by arrival: a late row is never missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import Column, FeatureView, Source
from mlbox.store.offline.offline import quote
from mlbox.store.offline.usersql import ARRIVED, SEQUENCE, check_select, columns_of, is_by_row, picked, with_columns

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

SQL_TYPES = {"BOOL": "BOOLEAN", "INT64": "BIGINT", "FP64": "DOUBLE", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMP"}


def source_table(name: str) -> str:
    """The table that a source's rows are in, quoted. The colon keeps it apart from every name that a user can give."""
    return quote(f"source:{name}")


def view_table(ref: str) -> str:
    """The table that a view version's rows are in, quoted."""
    return quote(f"view:{ref}")


def names(columns: Sequence[Column], prefix: str = "") -> str:
    """Columns as an SQL list."""
    return ", ".join(f"{prefix}{quote(column.name)}" for column in columns)


def typed_names(columns: Sequence[Column]) -> str:
    """Columns as an SQL list with their types."""
    return ", ".join(f"{quote(column.name)} {SQL_TYPES[column.dtype]}" for column in columns)


def literal(moment: datetime) -> str:
    """A moment as an SQL literal."""
    return f"TIMESTAMP '{moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"


# -- what SQL reads -----------------------------------------------------------------------------------------------------------


class Relation(NamedTuple):
    """What a view's SQL can read: a source, or another view."""

    name: str
    table: str
    """The table that its rows are in, as it is called."""
    columns: str
    arrival: str
    """When a row became known, as an expression."""
    says_arrival: str | None
    """The column that says so, where rows may be late."""
    given: tuple[Column, ...]
    """All columns that its rows are handed over with."""
    hidden: str = ""
    """Columns of ours that a SELECT by row carries along."""
    pushed: bool = False
    """Whether there are rows that the server stamped with their arrival."""


def of_source(source: Source, *, pushed: bool = False) -> Relation:
    """A source as SQL reads it."""
    event = quote(source.event_time)
    said = f"{quote(source.arrival_time)}, " if source.arrival_time else ""
    ours = (Column(name=SEQUENCE, dtype="INT64"), Column(name=ARRIVED, dtype="TIMESTAMP"))
    return Relation(
        source.name,
        f"source:{source.name}",
        names(source.columns),
        f"coalesce({said}{ARRIVED}, {event})",
        source.arrival_time,
        (*source.columns, *ours),
        f", {SEQUENCE}, {ARRIVED}",
        pushed,
    )


def fed(view: FeatureView) -> Source:
    """Where the rows are kept that a view's function yields: like a source, under a name that none can have."""
    times = (Column(name="event_time", dtype="TIMESTAMP"), Column(name="arrival_time", dtype="TIMESTAMP"))
    return Source(
        name=f"view:{view.ref}",
        columns=(*view.join_keys, *view.features, *times),
        event_time="event_time",
        arrival_time="arrival_time",
        created_at=view.created_at,
    )


def over_fed(view: FeatureView) -> tuple[FeatureView, Relation]:
    """A view in free Python as one in SQL over what its function yielded."""
    kept = fed(view)
    sql = f"SELECT {names(kept.columns)} FROM fed"
    return msgspec.structs.replace(view, sql=sql, function=None), of_source(kept, pushed=True)._replace(name="fed")


def of_view(view: FeatureView, *, late: bool) -> Relation:
    """A view as the SQL of another reads it: under its name, with the times at which its rows happened and became known."""
    arrival = "coalesce(_arrival, _event)"
    values = (*view.join_keys, *view.features)
    columns = f"{names(values)}, _event AS event_time, {arrival} AS arrival_time"
    times = tuple(Column(name=name, dtype="TIMESTAMP") for name in ("_event", "_arrival"))
    said = "arrival_time" if late else None
    return Relation(view.name, f"view:{view.ref}", columns, arrival, said, (*values, *times))


def over(sql: str, relations: Sequence[Relation], *, hidden: bool = False) -> str:
    """A user's SELECT as a subquery that sees each relation under its name."""
    tables = [
        f"{quote(one.name)} AS (SELECT {one.columns}{one.hidden if hidden else ''} FROM {quote(one.table)})"
        for one in relations
    ]
    bare = sql.strip().rstrip(";")
    return f"(WITH {', '.join(tables)} SELECT * FROM (\n{bare}\n))" if tables else f"(\n{bare}\n)"


# -- what it yields -----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """A view's SQL as a SELECT of typed columns, `_event`, `_arrival` and `_order`, and what is known of it."""

    sql: str
    arrives: bool
    """Whether rows may become known later than they happened."""
    by_row: bool
    """Whether new rows of its source can be taken alone."""
    ordered: bool
    """Whether `_order` is there, and says which row was appended last."""


def rows_of(cursor: Cursor, view: FeatureView, relations: Sequence[Relation], *, most_bytes: int = 65536) -> Rows:
    """What a view's SQL yields; raises InvalidInput for a SELECT that does not work or lacks a promised column."""
    select = check_select(cursor, view.sql, [one.name for one in relations], most_bytes=most_bytes)
    found = columns_of(cursor, over(view.sql, relations))
    for promised in (*(c.name for c in (*view.join_keys, *view.features)), "event_time"):
        if promised not in found:
            raise InvalidInput(
                f"The SQL of {view.name} yields no column {promised!r}.",
                hint=f"It yields {', '.join(sorted(found))}.",
                field="sql",
            )
    yields_arrival = "arrival_time" in found
    carried = with_columns(cursor, select, (SEQUENCE, ARRIVED)) if all(one.hidden for one in relations) else None
    if carried is not None:
        subquery = over(carried, relations, hidden=True)
        if _try_columns(cursor, subquery) == [*found, SEQUENCE, ARRIVED]:
            arrives = yields_arrival or any(one.pushed for one in relations)
            stamped = f"CAST(arrival_time AS TIMESTAMP), {ARRIVED}" if yields_arrival else ARRIVED
            return Rows(_typed(view, subquery, stamped, SEQUENCE), arrives, is_by_row(select), ordered=True)
    arrival = "CAST(arrival_time AS TIMESTAMP)" if yields_arrival else "NULL"
    return Rows(_typed(view, over(view.sql, relations), arrival, None), yields_arrival, by_row=False, ordered=False)


def picked_of(cursor: Cursor, view: FeatureView, relations: Sequence[Relation]) -> dict[str, str] | None:
    """As `usersql.picked`, of a view whose SQL works; None also where `picking` cannot take its place."""
    if len(relations) != 1 or not relations[0].hidden:
        return None
    select = check_select(cursor, view.sql, [relations[0].name])
    return picked(select, [column.name for column in relations[0].given if column.name not in (SEQUENCE, ARRIVED)])


def picking(view: FeatureView, relation: Relation, columns: Mapping[str, str], *, where: str = "") -> Rows:
    """What a view yields whose SQL only picks columns of a source: known without running a word of it."""
    items = ", ".join(f"{quote(source)} AS {quote(name)}" for name, source in columns.items())
    condition = f" WHERE {where}" if where else ""
    subquery = f"(SELECT {items}{relation.hidden} FROM {quote(relation.table)}{condition})"
    says = "arrival_time" in columns
    stamped = f"CAST(arrival_time AS TIMESTAMP), {ARRIVED}" if says else ARRIVED
    return Rows(_typed(view, subquery, stamped, SEQUENCE), says or relation.pushed, by_row=True, ordered=True)


def _try_columns(cursor: Cursor, subquery: str) -> list[str]:
    """As `columns_of`, and none where the query does not work: an aggregate has no rows of a source."""
    try:
        return columns_of(cursor, subquery)
    except InvalidInput:
        return []


def _typed(view: FeatureView, subquery: str, arrival: str, order: str | None) -> str:
    typed = ", ".join(
        f"CAST({quote(c.name)} AS {SQL_TYPES[c.dtype]}) AS {quote(c.name)}" for c in (*view.join_keys, *view.features)
    )
    event = "CAST(event_time AS TIMESTAMP)"
    known = " AND ".join(f"{quote(column.name)} IS NOT NULL" for column in view.join_keys)
    carried = f", {order} AS _order" if order else ""
    return (
        f"SELECT * FROM (SELECT {typed}, {event} AS _event, coalesce({arrival}, {event}) AS _arrival{carried}"
        f" FROM {subquery}) WHERE _event IS NOT NULL AND {known}"
    )


def check_view_sql(cursor: Cursor, view: FeatureView, relations: Sequence[Relation], rows: Rows) -> None:
    """The SQL is one SELECT over its sources, yields the columns that the view promises, and hides no late arrival."""
    columns_of(cursor, f"({rows.sql})")
    late = [one for one in relations if one.says_arrival]
    if late and "arrival_time" not in columns_of(cursor, over(view.sql, relations)):
        raise InvalidInput(
            f"The rows of {late[0].name} say when they became known, and the SQL of {view.name} does not.",
            hint=f"Yield {late[0].says_arrival} AS arrival_time, or event_time itself if they are always on time.",
            field="sql",
        )


# -- keeping it -----------------------------------------------------------------------------------------------------------------


def ensure_table(cursor: Cursor, view: FeatureView) -> None:
    """Have a view version's table, empty at first."""
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {view_table(view.ref)} ({typed_names((*view.join_keys, *view.features))},"
        " _event TIMESTAMP, _eff TIMESTAMP, _arrival TIMESTAMP, _last BOOLEAN, _batch BIGINT)"
    )


def build(cursor: Cursor, view: FeatureView, batch: int, *, arrives: bool, ordered: bool) -> None:
    """Compute a view version's table from what its SQL yields, the registered `computed` (see `Rows`)."""
    order = "_order" if ordered else names(view.features)
    kept = _kept(view, order, arrives=arrives, batch=str(batch))
    cursor.execute(
        f"CREATE OR REPLACE TABLE {view_table(view.ref)} AS WITH rows AS (SELECT * FROM computed) {kept}{_as_joined(view)}"
    )


def extend(cursor: Cursor, view: FeatureView, batch: int, *, arrives: bool) -> None:
    """Add what the SQL of a view that looks at each row alone yields for new ones, the registered `computed`.

    `arrives`: whether there are rows, old or new, that became known late. Rows of the same keys are judged again with the new
    ones: a row that was outdone before stays so, because what outdid it is outdone only by what outdoes both.
    """
    table, keys = view_table(view.ref), names(view.join_keys)
    same = [column.name for column in view.join_keys] + ([] if arrives else ["_event"])
    on = " AND ".join(f"old.{quote(name)} = fresh.{quote(name)}" for name in same)
    both = names((*view.join_keys, *view.features)) + ", _event, _arrival, _batch, _order"
    cursor.execute("CREATE OR REPLACE TEMP TABLE fresh AS SELECT * FROM computed")
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE merged AS WITH rows AS (SELECT {both} FROM ("
        f" SELECT *, {batch} AS _batch FROM fresh UNION ALL BY NAME SELECT * EXCLUDE (_eff, _last), 0 AS _order"
        f" FROM {table} old SEMI JOIN fresh ON {on}))"
        f" {_kept(view, '_order', arrives=arrives, batch='_batch')}"
    )
    where = f"({keys})" if arrives else f"({keys}, _event)"
    cursor.execute(f"DELETE FROM {table} WHERE {where} IN (SELECT {where} FROM fresh)")
    cursor.execute(f"INSERT INTO {table} BY NAME SELECT * FROM merged{_as_joined(view)}")
    cursor.execute("DROP TABLE fresh; DROP TABLE merged")


def _as_joined(view: FeatureView) -> str:
    """The order in which a join wants a table's rows: sorting what is sorted costs half as much."""
    return f" ORDER BY {names(view.join_keys)}, _eff"


def _kept(view: FeatureView, order: str, *, arrives: bool, batch: str) -> str:
    """A SELECT of the rows of `rows` that some question can be about, in the shape of a view's table."""
    keys, values = names(view.join_keys), names((*view.join_keys, *view.features))
    known = "coalesce(_arrival, _event)"  # null in a row from before the first late one
    by_time = f"OVER (PARTITION BY {keys} ORDER BY _event, {known}, {order})"
    if not arrives:
        return (
            f"SELECT {values}, _event, _event AS _eff, NULL::TIMESTAMP AS _arrival, true AS _last,"
            f" {batch}::BIGINT AS _batch FROM rows QUALIFY lead(_event) {by_time} IS DISTINCT FROM _event"
        )
    return f"""
        SELECT {values}, _event, CASE WHEN _seen THEN _reach END AS _eff, _arrival, _last, {batch}::BIGINT AS _batch FROM (
          SELECT *, _rank = max(_rank) OVER (PARTITION BY {keys} ORDER BY _reach) AS _seen
          FROM (SELECT *, greatest(_event, {known}) AS _reach, row_number() {by_time} AS _rank,
                  lead(_event) {by_time} IS DISTINCT FROM _event AS _last FROM rows))
        WHERE _seen OR _last"""
