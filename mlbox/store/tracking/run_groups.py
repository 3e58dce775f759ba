"""Runs by what they have in common: how many there are, and what their metrics come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from mlbox.store.db import Row
from mlbox.store.tracking.run_scope import Scope

_TABLES = {"param": "param", "tag": "tag"}
_COLUMNS = {"last": "value", "min": "low", "max": "high"}
MOST_METRICS = 8


class Aspect(NamedTuple):
    """A metric, and what of it: its last value, its least or its greatest."""

    key: str
    of: Literal["last", "min", "max"] = "last"


class Summary(NamedTuple):
    """What a metric comes to among the runs of a group."""

    mean: float | None
    low: float | None
    high: float | None


class Group(NamedTuple):
    """Runs with one value; None for those that have none."""

    value: str | float | None
    runs: int
    metrics: tuple[Summary, ...]


class Place(NamedTuple):
    """The last group of a page, after which the next one begins."""

    runs: int
    value: str | float | None


def query(
    entity: str,
    column: str,
    key: str,
    metrics: Sequence[Aspect],
    about: Scope,
    limit: int,
    after: Place | None,
) -> tuple[str, list[Any]]:
    """SQL for the groups of some runs, and its values."""
    joins = ""
    values: list[Any] = []
    columns: list[str] = []
    value = column
    if entity == "metric":
        joins, value = " LEFT JOIN series AS of ON of.run_id = run.id AND of.key = ?", "of.value"
    elif entity in _TABLES:
        joins, value = f" LEFT JOIN {_TABLES[entity]} AS of ON of.run_id = run.id AND of.key = ?", "of.value"
    values += [key] if joins else []
    for number, metric in enumerate(metrics[:MOST_METRICS]):
        name, of = f"m{number}", f"m{number}.{_COLUMNS[metric.of]}"
        joins += f" LEFT JOIN series AS {name} ON {name}.run_id = run.id AND {name}.key = ?"
        values.append(metric.key)
        columns += [f"avg({of})", f"min({of})", f"max({of})"]
    having: str = ""
    place: list[Any] = []
    if after is not None:
        having = " HAVING count(*) < ? OR (count(*) = ? AND (named IS NULL, named) > (?, ?))"
        place = [after.runs, after.runs, after.value is None, after.value]
        if after.value is None:
            having, place = " HAVING count(*) < ?", [after.runs]
    sql = (
        f"SELECT {', '.join([f'{value} AS named', 'count(*) AS runs', *columns])} FROM {about.tables}{joins} WHERE {about.where}"
        f" GROUP BY 1{having} ORDER BY runs DESC, named IS NULL, named LIMIT ?"
    )
    return sql, [*values, *about.values, *place, limit]


def read(rows: Sequence[Row], metrics: Sequence[Aspect]) -> list[Group]:
    """The groups of a query's rows."""
    wide = len(metrics[:MOST_METRICS])
    return [
        Group(row["named"], row["runs"], tuple(Summary(*tuple(row)[2 + 3 * at : 5 + 3 * at]) for at in range(wide)))
        for row in rows
    ]
