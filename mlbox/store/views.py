"""Feature views as tables of the offline store, and the point-in-time join over them.

A view's table keeps only rows that some moment can see. A row becomes visible at `_eff`, the later of its event and its
arrival; of the visible rows of a key the one with the latest event counts, of equal events the one that arrived last, and of
those the one appended last. A row that is already outdone when it becomes visible is never the answer and is dropped, so that
along `_eff` the last row is always the answer, and a plain ASOF join is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import Column, FeatureView, Source
from mlbox.store.offline import quote
from mlbox.store.usersql import check_select, explaining, run_user_sql

if TYPE_CHECKING:
    from mlbox.store.offline import Cursor

SQL_TYPES = {"BOOL": "BOOLEAN", "INT64": "BIGINT", "FP64": "DOUBLE", "STRING": "VARCHAR", "TIMESTAMP": "TIMESTAMP"}
STATE_SQL = """
CREATE TABLE IF NOT EXISTS source_state (name VARCHAR PRIMARY KEY, appends BIGINT NOT NULL, row_count BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS view_state (ref VARCHAR PRIMARY KEY, built VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS online_state (ref VARCHAR PRIMARY KEY, built VARCHAR NOT NULL, until TIMESTAMP NOT NULL);
"""


def source_table(name: str) -> str:
    """The table that a source's rows are in, quoted."""
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


def over_sources(sql: str, sources: Sequence[Source], *, known: datetime | None = None) -> str:
    """A user's SELECT as a subquery that sees each source under its name, or what of it was known at a moment."""
    tables = [
        f"{quote(s.name)} AS (SELECT {names(s.columns)} FROM {source_table(s.name)}{_known_by(s, known)})"
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


def literal(moment: datetime) -> str:
    """A moment as an SQL literal."""
    return f"TIMESTAMP '{moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"


def check_view_sql(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> None:
    """The SQL is one SELECT over its sources, and yields the columns that the view promises."""
    check_select(cursor, view.sql, view.sources)
    run_user_sql(cursor, f"SELECT * FROM ({_typed_rows(cursor, view, sources)}) LIMIT 0")


def build(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> None:
    """Compute a view version's table from its sources."""
    keys = names(view.join_keys)
    known = " AND ".join(f"{quote(column.name)} IS NOT NULL" for column in view.join_keys)
    run_user_sql(
        cursor,
        f"""
        CREATE OR REPLACE TABLE {view_table(view.ref)} AS
        WITH typed AS ({_typed_rows(cursor, view, sources)}),
        ranked AS (
          SELECT *, greatest(_event, _arrival) AS _eff,
            max(row(_event, _arrival, _seq)) OVER (PARTITION BY {keys} ORDER BY greatest(_event, _arrival)) AS _best
          FROM typed WHERE _event IS NOT NULL AND {known}
        )
        SELECT * EXCLUDE (_best) FROM ranked WHERE row(_event, _arrival, _seq) = _best ORDER BY _eff
        """,
    )


def _typed_rows(cursor: Cursor, view: FeatureView, sources: Sequence[Source]) -> str:
    typed = ", ".join(
        f"CAST({quote(c.name)} AS {SQL_TYPES[c.dtype]}) AS {quote(c.name)}" for c in (*view.join_keys, *view.features)
    )
    inner = over_sources(view.sql, sources)
    found = {column[0] for column in run_user_sql(cursor, f"SELECT * FROM {inner} LIMIT 0").description or ()}
    for promised in (*(c.name for c in (*view.join_keys, *view.features)), "event_time"):
        if promised not in found:
            raise InvalidInput(
                f"The SQL of {view.name} yields no column {promised!r}.",
                hint=f"It yields {', '.join(sorted(found))}.",
                field="sql",
            )
    event = "CAST(event_time AS TIMESTAMP)"
    arrival = f"coalesce(CAST(arrival_time AS TIMESTAMP), {event})" if "arrival_time" in found else event
    return f"SELECT {typed}, {event} AS _event, {arrival} AS _arrival, row_number() OVER () AS _seq FROM {inner}"


# -- point in time ----------------------------------------------------------------------------------------------------------


def join(cursor: Cursor, views: Mapping[str, FeatureView], features: Sequence[str], event_time: str) -> Any:
    """The registered table `spine` with a column for each full feature reference, one row each, in its order.

    `spine` has the column `_row`, which counts its rows.
    """
    columns, joins = [], []
    for index, view in enumerate(views.values()):
        alias = f"v{index}"
        on = " AND ".join(
            f"CAST(spine.{quote(k.name)} AS {SQL_TYPES[k.dtype]}) = {alias}.{quote(k.name)}" for k in view.join_keys
        )
        joins.append(
            f"ASOF LEFT JOIN {view_table(view.ref)} {alias} ON {on} AND spine.{quote(event_time)} >= {alias}._eff"
        )
    aliases = {ref: f"v{index}" for index, ref in enumerate(views)}
    for feature in features:
        ref, _, name = feature.partition(":")
        alias, ttl = aliases[ref], views[ref].ttl_seconds
        value = f"{alias}.{quote(name)}"
        if ttl is not None:
            fresh = f"spine.{quote(event_time)} - {alias}._event <= to_seconds({ttl})"
            value = f"CASE WHEN {fresh} THEN {value} END"
        columns.append(f"{value} AS {quote(feature)}")
    sql = f"SELECT spine.* EXCLUDE (_row), {', '.join(columns)} FROM spine {' '.join(joins)} ORDER BY spine._row"
    with explaining("spine"):
        return cursor.sql(sql).to_arrow_table()


# -- online ---------------------------------------------------------------------------------------------------------------


def changed_since(cursor: Cursor, view: FeatureView) -> list[tuple[Any, ...]]:
    """Rows (keys, features, event) whose latest visible value is not the one that was last written online.

    Domain time is in the variable `now`; the new state is left in the temporary table `latest`.
    """
    keys, all_columns = names(view.join_keys), names((*view.join_keys, *view.features))
    cursor.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE latest AS
        SELECT {all_columns}, _event FROM {view_table(view.ref)} WHERE _eff <= getvariable('now')
        QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _eff DESC) = 1
        """
    )
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {online_table(view.ref)} AS SELECT * FROM latest LIMIT 0")
    return cursor.execute(f"SELECT * FROM latest EXCEPT SELECT * FROM {online_table(view.ref)}").fetchall()


def remember_latest(cursor: Cursor, view: FeatureView) -> None:
    """What `changed_since` found is online now."""
    cursor.execute(f"CREATE OR REPLACE TABLE {online_table(view.ref)} AS SELECT * FROM latest")
