"""Feature views as tables of the offline store, and the point-in-time join over them.

A view's table keeps only rows that some moment can see. A row becomes visible at `_eff`, the later of its event and its
arrival; of the visible rows of a key the one with the latest event counts, of equal events the one that arrived last, and of
those the one appended last. A row that is already outdone when it becomes visible is never the answer and is dropped, so that
along `_eff` the last row is always the answer, and a plain ASOF join is exact.

Where a view's rows are not those of one source (it joins, groups or limits), "appended last" has no meaning, and the greatest
values count: any rule will do, as long as the same data gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Column, FeatureView, Source
from mlbox.store.offline import quote
from mlbox.store.usersql import SEQUENCE, check_select, explaining, run_user_sql, with_sequence

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

SQL_TYPES = {"BOOL": "BOOLEAN", "INT64": "BIGINT", "FP64": "DOUBLE", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMP"}


def source_table(name: str) -> str:
    """The table that a source's rows are in, quoted. The colon keeps it apart from every name that a user can give."""
    return quote(f"source:{name}")


def view_table(ref: str) -> str:
    """The table that a view version's rows are in, quoted."""
    return quote(f"view:{ref}")


def online_table(ref: str) -> str:
    """What of a view version was written online, quoted."""
    return quote(f"online:{ref}")


def names(columns: Sequence[Column], prefix: str = "") -> str:
    """Columns as an SQL list."""
    return ", ".join(f"{prefix}{quote(column.name)}" for column in columns)


def literal(moment: datetime) -> str:
    """A moment as an SQL literal."""
    return f"TIMESTAMP '{moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"


def over_sources(sql: str, sources: Sequence[Source], *, known: datetime | None = None, sequence: bool = False) -> str:
    """A user's SELECT as a subquery that sees each source under its name, or what of it was known at a moment."""
    extra = f", {SEQUENCE}" if sequence else ""
    tables = [
        f"{quote(s.name)} AS (SELECT {names(s.columns)}{extra} FROM {source_table(s.name)}{_known_by(s, known)})"
        for s in sources
    ]
    bare = sql.strip().rstrip(";")
    return f"(WITH {', '.join(tables)} SELECT * FROM (\n{bare}\n))" if tables else f"(\n{bare}\n)"


def _known_by(source: Source, known: datetime | None) -> str:
    if known is None:
        return ""
    event = quote(source.event_time)
    arrival = f"coalesce({quote(source.arrival_time)}, {event})" if source.arrival_time else event
    return f" WHERE {arrival} <= {literal(known)}"


# -- building ---------------------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """A view's SQL as a subquery, whether its rows say when they arrived, and what orders rows of equal times."""

    sql: str
    arrives: bool
    order: str


def check_view_sql(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> None:
    """The SQL is one SELECT over its sources, yields the columns that the view promises, and hides no late arrival."""
    rows = _rows(cursor, view, sources)
    run_user_sql(cursor, f"SELECT * FROM ({_typed(view, rows)}) LIMIT 0")
    late = [source for source in sources if source.arrival_time]
    if late and not rows.arrives:
        raise InvalidInput(
            f"The rows of {late[0].name} say when they became known, and the SQL of {view.name} does not.",
            hint=f"Yield {late[0].arrival_time} AS arrival_time, or event_time itself if they are always on time.",
            field="sql",
        )


def build(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> None:
    """Compute a view version's table from its sources."""
    keys, rows = names(view.join_keys), _rows(cursor, view, sources)
    known = " AND ".join(f"{quote(column.name)} IS NOT NULL" for column in view.join_keys)
    by_time = f"OVER (PARTITION BY {keys} ORDER BY _event, _arrival, {rows.order})"
    ranked = f"""
        SELECT * FROM (
          SELECT *, greatest(_event, _arrival) AS _eff, row_number() {by_time} AS _rank
          FROM typed WHERE _event IS NOT NULL AND {known})
        QUALIFY _rank = max(_rank) OVER (PARTITION BY {keys} ORDER BY _eff)"""
    on_time = f"""
        SELECT *, _event AS _eff FROM typed WHERE _event IS NOT NULL AND {known}
        QUALIFY lead(_event) {by_time} IS DISTINCT FROM _event"""
    run_user_sql(
        cursor,
        f"CREATE OR REPLACE TABLE {view_table(view.ref)} AS WITH typed AS ({_typed(view, rows)})"
        f" SELECT {names((*view.join_keys, *view.features))}, _event, _eff"
        f" FROM ({ranked if rows.arrives else on_time}) ORDER BY _eff",
        what=f"The SQL of {view.name}",
    )


def _rows(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> _Rows:
    select = check_select(cursor, view.sql, view.sources)
    found = _columns(cursor, over_sources(view.sql, sources))
    for promised in (*(c.name for c in (*view.join_keys, *view.features)), "event_time"):
        if promised not in found:
            raise InvalidInput(
                f"The SQL of {view.name} yields no column {promised!r}.",
                hint=f"It yields {', '.join(sorted(found))}.",
                field="sql",
            )
    arrives = "arrival_time" in found
    sequenced = with_sequence(cursor, select)
    if sequenced is not None:
        counted = over_sources(sequenced, sources, sequence=True)
        if _try_columns(cursor, counted) == [*found, SEQUENCE]:
            return _Rows(counted, arrives, SEQUENCE)
    return _Rows(over_sources(view.sql, sources), arrives, names(view.features))


def _columns(cursor: Cursor, subquery: str) -> list[str]:
    return [column[0] for column in run_user_sql(cursor, f"SELECT * FROM {subquery} LIMIT 0").description or ()]


def _try_columns(cursor: Cursor, subquery: str) -> list[str]:
    """As `_columns`, and none where the query does not work: an aggregate has no rows of a source."""
    try:
        return _columns(cursor, subquery)
    except InvalidInput:
        return []


def _typed(view: FeatureView, rows: _Rows) -> str:
    typed = ", ".join(
        f"CAST({quote(c.name)} AS {SQL_TYPES[c.dtype]}) AS {quote(c.name)}" for c in (*view.join_keys, *view.features)
    )
    event = "CAST(event_time AS TIMESTAMP)"
    arrival = f"coalesce(CAST(arrival_time AS TIMESTAMP), {event})" if rows.arrives else event
    sequence = f", {SEQUENCE}" if rows.order == SEQUENCE else ""
    return f"SELECT {typed}, {event} AS _event, {arrival} AS _arrival{sequence} FROM {rows.sql}"


# -- point in time ----------------------------------------------------------------------------------------------------------


def join(cursor: Cursor, view: FeatureView, features: Mapping[str, str], keys: Mapping[str, str]) -> pa.Table:
    """A view's features as of the registered table `spine`: one row for each of the spine's, in its order.

    `spine` has `_row`, which counts its rows, `_at`, the moment that each asks about, and the columns that `keys` names for
    the view's join keys. `features` is the result's columns, by name, and the feature that each shows.
    """
    on = " AND ".join(f"spine.{quote(keys[k.name])} = seen.{quote(k.name)}" for k in view.join_keys)
    columns = ", ".join(f"{_while_fresh(view, name)} AS {quote(column)}" for column, name in features.items())
    sql = (
        f"SELECT {columns} FROM spine ASOF LEFT JOIN {view_table(view.ref)} seen ON {on} AND spine._at >= seen._eff"
        " ORDER BY spine._row"
    )
    with explaining("spine"):
        return cursor.sql(sql).to_arrow_table()


def _while_fresh(view: FeatureView, feature: str) -> str:
    value = f"seen.{quote(feature)}"
    if view.ttl_seconds is None:
        return value
    return f"CASE WHEN epoch_us(spine._at) - epoch_us(seen._event) <= {view.ttl_seconds * 1_000_000} THEN {value} END"


# -- online -----------------------------------------------------------------------------------------------------------------


class Changes(NamedTuple):
    """Rows (keys, features, event) that are to be written online, and keys that are to go."""

    written: list[tuple[Any, ...]]
    gone: list[tuple[Any, ...]]


def changed_since(cursor: Cursor, view: FeatureView, since: datetime | None, now: datetime) -> Changes:
    """What to write online for `now`: what became visible after `since`, or, without it, all that differs from before.

    Leaves the offline copy of what is online as it will be.
    """
    keys, target = names(view.join_keys), online_table(view.ref)
    after = f" AND _eff > {literal(since)}" if since else ""
    cursor.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE latest AS
        SELECT {names((*view.join_keys, *view.features))}, _event FROM {view_table(view.ref)}
        WHERE _eff <= {literal(now)}{after}
        QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _eff DESC) = 1
        """
    )
    if since:
        written = cursor.execute("SELECT * FROM latest").fetchall()
        cursor.execute(f"DELETE FROM {target} WHERE ({keys}) IN (SELECT ({keys}) FROM latest)")
        cursor.execute(f"INSERT INTO {target} SELECT * FROM latest")
        return Changes(written, [])
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {target} AS SELECT * FROM latest LIMIT 0")
    written = cursor.execute(f"SELECT * FROM latest EXCEPT SELECT * FROM {target}").fetchall()
    gone = cursor.execute(f"SELECT {keys} FROM {target} EXCEPT SELECT {keys} FROM latest").fetchall()
    cursor.execute(f"CREATE OR REPLACE TABLE {target} AS SELECT * FROM latest")
    return Changes(written, gone)
