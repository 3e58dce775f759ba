"""SQL that a user wrote: one SELECT, over the tables that it may read, with the same answer each time.

DuckDB's own parser says what the text is, so no trick of spelling gets past. What it says is checked against lists of what is
allowed, and the store that runs it can reach nothing but its own file (see `offline`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput
from mlbox.store.offline.offline import first_line, one

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest"})
"""Functions that may stand for a table: those that read nothing."""
CLOCKS = frozenset({"current_timestamp", "current_date", "current_time", "localtimestamp", "localtime"})
"""Words that are functions without looking like it."""
SEQUENCE = "_seq"
"""The column of a source's table that counts its rows in the order of their arrival here."""
ARRIVED = "_arrived"
"""The column of a source's table that says when a pushed row came in; null in rows that were loaded."""
_volatile: frozenset[str] = frozenset()


class Select(NamedTuple):
    """A checked SELECT: its text, the tables that it reads, and DuckDB's tree of it."""

    sql: str
    tables: frozenset[str]
    tree: dict[str, Any]


def check_select(
    cursor: Cursor, sql: str, allowed: Sequence[str], *, field: str = "sql", most_bytes: int = 65536
) -> Select:
    """One SELECT that reads allowed tables only; raises InvalidInput for anything else."""
    if len(sql.encode()) > most_bytes:
        raise InvalidInput(
            f"The SQL is longer than {most_bytes:,} bytes.",
            hint="Make it shorter, or raise the setting max_sql.",
            field=field,
        )
    try:
        tree = _tree(cursor, sql, field)
        volatile = _volatile_functions(cursor)
        for node in _nodes(tree):
            _check_node(node, volatile, field)
        tables = _check_tables(list(_tables(tree, frozenset())), allowed, field)
    except RecursionError as err:
        raise InvalidInput("The SQL is nested too deeply.", hint="Make it flatter.", field=field) from err
    return Select(sql.strip().rstrip(";"), tables, tree)


def _tree(cursor: Cursor, sql: str, field: str) -> dict[str, Any]:
    row = one(cursor, "SELECT json_serialize_sql(?)", [sql])
    assert row is not None
    parsed: dict[str, Any] = msgspec.json.decode(row[0])
    if parsed["error"] and parsed["error_type"] != "not implemented":
        raise InvalidInput(f"The SQL cannot be read: {parsed['error_message']}.", hint="Check its syntax.", field=field)
    if parsed["error"] or len(parsed["statements"]) != 1:
        raise InvalidInput("The SQL must be one SELECT.", hint="Leave out everything else.", field=field)
    return parsed


def _check_node(node: dict[str, Any], volatile: frozenset[str], field: str) -> None:
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        name = (node.get("function") or {}).get("function_name")
        if name not in TABLE_FUNCTIONS:
            raise InvalidInput(
                f"The SQL reads from the function {name!r}.", hint="Read from sources only.", field=field
            )
    if kind == "SHOW_REF":
        raise InvalidInput("The SQL reads a description of tables.", hint="Read from sources only.", field=field)
    changing = _changes_by_itself(node, volatile)
    if changing:
        raise InvalidInput(
            f"The SQL uses {changing}, which answers differently each time.",
            hint="Use columns only, so that the same data gives the same features.",
            field=field,
        )


def _changes_by_itself(node: dict[str, Any], volatile: frozenset[str]) -> str | None:
    """What in a node depends on more than the data."""
    if node.get("sample"):
        return "a sample"
    kind = node.get("type")
    if kind == "COLUMN_REF":
        words = [word.lower() for word in node["column_names"]]
        return words[0] if len(words) == 1 and words[0] in CLOCKS else None
    if kind == "FUNCTION":
        name = str(node.get("function_name")).lower()
        if name in volatile or (name == "age" and len(node.get("arguments") or node.get("children") or ()) == 1):
            return f"{name}()"
    return None


def _volatile_functions(cursor: Cursor) -> frozenset[str]:
    """DuckDB's own list of the functions that do not depend on their arguments alone."""
    global _volatile
    if not _volatile:
        rows = cursor.execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'")
        _volatile = frozenset(name for (name,) in rows.fetchall())
    return _volatile


def _check_tables(found: Sequence[dict[str, Any]], allowed: Sequence[str], field: str) -> frozenset[str]:
    """The allowed tables that are read; names are the same in capitals or not, as they are for DuckDB."""
    known = {name.lower(): name for name in allowed}
    for node in found:
        if node.get("schema_name") or node.get("catalog_name") or node["table_name"].lower() not in known:
            raise InvalidInput(
                f"The SQL reads {node['table_name'][:200]!r}, which it may not.",
                hint=f"It may read {', '.join(sorted(allowed)) or 'nothing'}.",
                field=field,
            )
    return frozenset(known[node["table_name"].lower()] for node in found)


def _tables(tree: Any, visible: frozenset[str]) -> Iterator[dict[str, Any]]:
    """The nodes that read a table, and not a common table expression that is visible where they stand.

    Whatever the scopes, a name with a colon is a table: only ours have one.
    """
    if isinstance(tree, list):
        for item in tree:
            yield from _tables(item, visible)
    if not isinstance(tree, dict):
        return
    if tree.get("type") == "BASE_TABLE" and (":" in tree["table_name"] or tree["table_name"].lower() not in visible):
        yield tree
    for entry in (tree.get("cte_map") or {}).get("map", ()):
        name = frozenset({entry["key"].lower()})
        recursive = (entry["value"].get("query_node") or {}).get("type") == "RECURSIVE_CTE_NODE"
        yield from _tables(entry["value"], visible | name if recursive else visible)
        visible |= name
    for key, value in tree.items():
        if key != "cte_map":
            yield from _tables(value, visible)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def with_columns(cursor: Cursor, select: Select, columns: Sequence[str]) -> str | None:
    """The SELECT with more columns of its source, or None where its rows are not those of one source."""
    node = select.tree["statements"][0]["node"]
    plain = (
        node["type"] == "SELECT_NODE"
        and node["from_table"]["type"] == "BASE_TABLE"
        and node["from_table"]["table_name"].lower() in {name.lower() for name in select.tables}
        and all(modifier["type"] == "ORDER_MODIFIER" for modifier in node["modifiers"])
        and not node["group_sets"]
        and node["aggregate_handling"] == "STANDARD_HANDLING"
    )
    if not plain:
        return None
    more = [{"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [name]} for name in columns]
    changed = {**node, "select_list": [*node["select_list"], *more]}
    tree = {**select.tree, "statements": [{**select.tree["statements"][0], "node": changed}]}
    row = one(cursor, "SELECT json_deserialize_sql(?::JSON)", [msgspec.json.encode(tree).decode()])
    assert row is not None
    return str(row[0])


def picked(select: Select, known: Sequence[str]) -> dict[str, str] | None:
    """The column of its one source behind each column that a SELECT yields; None where it does more than pick columns."""
    node = select.tree["statements"][0]["node"]
    source = node.get("from_table", {})
    plain = (
        node["type"] == "SELECT_NODE"
        and source["type"] == "BASE_TABLE"
        and len(select.tables) == 1
        and not any(
            node[clause] for clause in ("where_clause", "having", "qualify", "sample", "group_sets", "modifiers")
        )
        and not (source["sample"] or source.get("column_name_alias") or node["cte_map"]["map"])
        and node["aggregate_handling"] == "STANDARD_HANDLING"
        and all(item["type"] == "COLUMN_REF" for item in node["select_list"])
    )
    if not plain:
        return None
    called = (source["alias"] or source["table_name"]).lower()
    found: dict[str, str] = {}
    for item in node["select_list"]:
        *table, name = item["column_names"]
        yielded = item["alias"] or name
        if name not in known or yielded in found or [word.lower() for word in table] not in ([], [called]):
            return None
        found[yielded] = name
    return found


def is_by_row(select: Select) -> bool:
    """Whether a SELECT that takes more columns of its one source looks at each row alone: no window, no other SELECT."""
    if (select.tree["statements"][0]["node"].get("cte_map") or {}).get("map"):
        return False
    return not any(node.get("class") in ("WINDOW", "SUBQUERY") for node in _nodes(select.tree))


def keeps_column(tree: dict[str, Any], column: str, name: str) -> bool:
    """Whether a SELECT, by DuckDB's tree of it, yields a column of its source as it is, under a name."""
    node = tree["statements"][0]["node"]
    if node["type"] != "SELECT_NODE":
        return False
    yielded = [
        one for one in node["select_list"] if (one.get("alias") or one.get("column_names", [""])[-1]).lower() == name
    ]
    return (
        len(yielded) == 1
        and yielded[0]["type"] == "COLUMN_REF"
        and yielded[0]["column_names"][-1].lower() == column.lower()
    )


@contextlib.contextmanager
def explaining(field: str = "sql", what: str = "The SQL") -> Iterator[None]:
    """What is wrong with a user's SQL, or with the rows that it meets, is the user's to know."""
    import duckdb

    try:
        yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.NotImplementedException) as err:
        raise InvalidInput(
            f"{what} does not work: {first_line(err)}.", hint="Check names and types.", field=field
        ) from err


def columns_of(cursor: Cursor, subquery: str, *, field: str = "sql", what: str = "The SQL") -> list[str]:
    """The names of the columns that a user's SQL yields."""
    with explaining(field, what):
        return list(cursor.sql(f"SELECT * FROM {subquery} LIMIT 0").columns)
