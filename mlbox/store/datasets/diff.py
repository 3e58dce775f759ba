"""What two versions of datasets have different: columns, statistics, and rows by key, with examples.

Files that both have are not read. The others are joined by a DuckDB in memory of its own, which puts on disk what does not fit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput, suggest
from mlbox.records import ChangedRow, DatasetDiff, DatasetVersion
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.versions import check_tables
from mlbox.store.offline.offline import one, quote

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

EXAMPLES = 5
COMPARED = 100_000
"""Changed rows whose columns are compared one by one."""
_SHOWN = ("nulls", "min", "max", "mean", "q50", "distinct_about", "first", "last")


def diff(
    artifacts: Artifacts,
    before: DatasetVersion,
    after: DatasetVersion,
    *,
    keys: Sequence[str] = (),
    memory: str = "1GB",
) -> DatasetDiff:
    """Compare two versions; `keys` say which rows are the same one, by default entity and time.

    Without keys, or where they do not name a row, a row that changed is one that went and one that came.
    """
    import duckdb

    check_tables(before)
    check_tables(after)
    old, new = ({column.name: column.dtype for column in version.columns} for version in (before, after))
    chosen = _keys(before, after, keys)
    found = DatasetDiff(
        before=before.ref,
        after=after.ref,
        columns_added=tuple(name for name in new if name not in old),
        columns_removed=tuple(name for name in old if name not in new),
        columns_changed={name: (old[name], new[name]) for name in old if name in new and old[name] != new[name]},
        statistics=_moved(before, after),
        keys=tuple(chosen),
        rows=(before.rows, after.rows),
    )
    shared = {file.sha256 for file in before.files} & {file.sha256 for file in after.files}
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{memory}'; SET temp_directory = '{folder}'")
        connection.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        for name, version in (("old", before), ("new", after)):
            paths = [artifacts.path(file.sha256) for file in version.files if file.sha256 not in shared]
            connection.execute(f"CREATE VIEW {name} AS {_reading(paths, version)}")
        both = [name for name in old if name in new and old[name] == new[name]]
        if chosen and all(_is_unique(connection, side, chosen) for side in ("old", "new")):
            return _by_key(connection, found, chosen, [name for name in both if name not in chosen])
        return _by_content(connection, found, both)


def _keys(before: DatasetVersion, after: DatasetVersion, given: Sequence[str]) -> list[str]:
    shared = [column.name for column in before.columns if column.name in {other.name for other in after.columns}]
    for name in given:
        if name not in shared:
            raise InvalidInput(f"{name[:80]!r} is no column of both.", hint=suggest(name, shared), field="key")
    if given:
        return list(given)
    if not before.views and before.label_set is None:
        return []
    value = before.columns[-1].name if before.label_set else None
    return [name for name in shared if ":" not in name and name != value]


def _moved(before: DatasetVersion, after: DatasetVersion) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Of columns of both, the statistics that are not the same."""
    moved = {}
    for name in before.statistics.keys() & after.statistics.keys():
        old, new = before.statistics[name], after.statistics[name]
        changed = {word: (old.get(word), new.get(word)) for word in _SHOWN if old.get(word) != new.get(word)}
        if changed:
            moved[name] = changed
    return {column.name: moved[column.name] for column in before.columns if column.name in moved}


def _reading(paths: Sequence[Path], version: DatasetVersion) -> str:
    if paths:
        listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
        return f"SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
    nothing = ", ".join(f"NULL AS {quote(column.name)}" for column in version.columns)
    return f"SELECT {nothing} LIMIT 0"


def _is_unique(cursor: Cursor, side: str, keys: Sequence[str]) -> bool:
    listed = ", ".join(quote(name) for name in keys)
    return one(cursor, f"SELECT 1 FROM {side} GROUP BY {listed} HAVING count(*) > 1 LIMIT 1") is None


def _by_key(cursor: Cursor, found: DatasetDiff, keys: Sequence[str], others: Sequence[str]) -> DatasetDiff:
    import msgspec

    listed = ", ".join(quote(name) for name in keys)
    row = ", ".join(quote(name) for name in others)
    digest = f"hash({row})" if others else "0"
    same = " AND ".join(f"old.{quote(name)} IS NOT DISTINCT FROM new.{quote(name)}" for name in keys)
    sides = [f"(SELECT {listed}, {digest} AS _row, true AS _in FROM {side}) {side}" for side in ("old", "new")]
    joined = f"{sides[0]} FULL JOIN {sides[1]} ON {same}"
    counts = one(
        cursor,
        "SELECT count(*) FILTER (old._in IS NULL), count(*) FILTER (new._in IS NULL),"
        f" count(*) FILTER (old._in AND new._in AND old._row <> new._row) FROM {joined}",
    )
    assert counts is not None
    picked = ", ".join(f"old.{quote(name)}" for name in keys)
    cursor.execute(
        f"CREATE TABLE changed AS SELECT {picked} FROM {sides[0]} JOIN {sides[1]} ON {same}"
        f" WHERE old._row <> new._row LIMIT {COMPARED}"
    )
    by_column, examples = _columns(cursor, keys, others) if counts[2] else ({}, ())
    return msgspec.structs.replace(
        found,
        added=counts[0],
        removed=counts[1],
        changed=counts[2],
        changed_by_column=by_column,
        examples_changed=examples,
        examples_added=_only(cursor, "new", "old", keys) if counts[0] else (),
        examples_removed=_only(cursor, "old", "new", keys) if counts[1] else (),
    )


def _columns(
    cursor: Cursor, keys: Sequence[str], others: Sequence[str]
) -> tuple[dict[str, int], tuple[ChangedRow, ...]]:
    """How many of the changed rows differ in each column, and some of them."""
    on = {
        side: " AND ".join(f"changed.{quote(name)} IS NOT DISTINCT FROM {side}.{quote(name)}" for name in keys)
        for side in ("old", "new")
    }
    joined = f"changed JOIN old ON {on['old']} JOIN new ON {on['new']}"
    counted = ", ".join(f"count(*) FILTER (old.{quote(n)} IS DISTINCT FROM new.{quote(n)})" for n in others)
    counts = one(cursor, f"SELECT {counted} FROM {joined}") or ()
    order = ", ".join(f"changed.{quote(name)}" for name in keys)
    wanted = [
        f"{side}.{quote(name)}"
        for side in ("changed", "old", "new")
        for name in (keys if side == "changed" else others)
    ]
    rows = cursor.execute(f"SELECT {', '.join(wanted)} FROM {joined} ORDER BY {order} LIMIT {EXAMPLES}").fetchall()
    found = []
    for row in rows:
        key, old, new = row[: len(keys)], row[len(keys) : len(keys) + len(others)], row[len(keys) + len(others) :]
        differs = {name: (_plain(a), _plain(b)) for name, a, b in zip(others, old, new, strict=True) if _differ(a, b)}
        found.append(ChangedRow(key=dict(zip(keys, map(_plain, key), strict=True)), values=differs))
    return {name: count for name, count in zip(others, counts, strict=True) if count}, tuple(found)


def _only(cursor: Cursor, side: str, other: str, keys: Sequence[str]) -> tuple[dict[str, Any], ...]:
    same = " AND ".join(f"{side}.{quote(name)} IS NOT DISTINCT FROM {other}.{quote(name)}" for name in keys)
    order = ", ".join(quote(name) for name in keys)
    return _examples(cursor, f"SELECT * FROM {side} ANTI JOIN {other} ON {same} ORDER BY {order} LIMIT {EXAMPLES}")


def _by_content(cursor: Cursor, found: DatasetDiff, both: Sequence[str]) -> DatasetDiff:
    """Rows as a bag: how often each is there, before and after."""
    import msgspec

    listed = ", ".join(quote(name) for name in both)
    if not both:
        return msgspec.structs.replace(found, keys=(), added=found.rows[1], removed=found.rows[0])
    cursor.execute(
        "CREATE TABLE bag AS SELECT _row, sum(_n)::BIGINT AS n FROM"
        f" (SELECT hash({listed}) AS _row, 1 AS _n FROM new UNION ALL SELECT hash({listed}), -1 FROM old)"
        " GROUP BY _row HAVING sum(_n) <> 0"
    )
    counts = one(cursor, "SELECT coalesce(sum(n) FILTER (n > 0), 0), coalesce(-sum(n) FILTER (n < 0), 0) FROM bag")
    assert counts is not None
    sides = {"new": "n > 0", "old": "n < 0"}
    some = {
        side: _examples(
            cursor,
            f"SELECT DISTINCT {listed} FROM {side} WHERE hash({listed}) IN (SELECT _row FROM bag WHERE {sign}) LIMIT {EXAMPLES}",
        )
        for side, sign in sides.items()
    }
    return msgspec.structs.replace(
        found,
        keys=(),
        added=int(counts[0]),
        removed=int(counts[1]),
        examples_added=some["new"],
        examples_removed=some["old"],
    )


def _examples(cursor: Cursor, sql: str) -> tuple[dict[str, Any], ...]:
    rows = cursor.execute(sql)
    names = [column[0] for column in rows.description or ()]
    return tuple(dict(zip(names, map(_plain, row), strict=True)) for row in rows.fetchall())


def _differ(one: Any, other: Any) -> bool:
    return one != other and not (one != one and other != other)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
