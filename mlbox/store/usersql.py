"""SQL that a user wrote: one SELECT, over tables that it may read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.store.offline import first_line

if TYPE_CHECKING:
    from mlbox.store.offline import Cursor

TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest"})
"""Functions that may stand for a table: those that read nothing."""


def check_select(cursor: Cursor, sql: str, allowed: Sequence[str], *, field: str = "sql") -> set[str]:
    """The tables that one SELECT reads; raises InvalidInput for anything else, and for a table that is not allowed.

    DuckDB's own parser says what the text is, so no trick of spelling gets past.
    """
    row = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    parsed = msgspec.json.decode(row[0])
    if parsed["error"]:
        if parsed["error_type"] == "not implemented":
            raise InvalidInput("The SQL must be one SELECT.", hint="Leave out everything else.", field=field)
        raise InvalidInput(f"The SQL cannot be read: {parsed['error_message']}.", hint="Check its syntax.", field=field)
    if len(parsed["statements"]) != 1:
        raise InvalidInput("The SQL must be one SELECT.", hint="Leave out everything else.", field=field)
    nodes = list(_nodes(parsed))
    _check_functions(nodes, field)
    named = {entry["key"] for node in nodes for entry in (node.get("cte_map") or {}).get("map", ())}
    tables = {node["table_name"] for node in nodes if node.get("type") == "BASE_TABLE"} - named
    schemas = {
        node.get("schema_name") or node.get("catalog_name") for node in nodes if node.get("type") == "BASE_TABLE"
    }
    unknown = sorted(tables - set(allowed)) or sorted(filter(None, schemas))
    if unknown:
        raise InvalidInput(
            f"The SQL reads {unknown[0]!r}, which it may not.",
            hint=f"It may read {', '.join(sorted(allowed)) or 'nothing'}.",
            field=field,
        )
    return tables


def _check_functions(nodes: Sequence[dict[str, Any]], field: str) -> None:
    for node in nodes:
        if node.get("type") == "TABLE_FUNCTION":
            name = (node.get("function") or {}).get("function_name")
            if name not in TABLE_FUNCTIONS:
                raise InvalidInput(
                    f"The SQL reads from the function {name!r}.", hint="Read from sources only.", field=field
                )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


@contextlib.contextmanager
def explaining(field: str = "sql") -> Iterator[None]:
    """What is wrong with a user's SQL, or with the rows that it meets, is the user's to know."""
    import duckdb

    try:
        yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.NotImplementedException) as err:
        raise InvalidInput(
            f"The SQL does not work: {first_line(err)}.", hint="Check names and types.", field=field
        ) from err


def run_user_sql(cursor: Cursor, statement: str, *, field: str = "sql") -> Cursor:
    """Execute a statement that holds a user's SQL."""
    with explaining(field):
        return cursor.execute(statement)
