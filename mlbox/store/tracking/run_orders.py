"""Orders of runs: MLflow's `order_by` compiled to where rows come from and the terms that sort them.

Where runs are ordered by a metric, first come those with a value, then those whose value is no number, then those without the
metric, whichever way the order goes. They come out of that metric's index, and the search stops at the page's end. What else
has no value comes last, too. `min:` and `max:` before a metric order by its extremes, `num:` before a parameter or a tag by the
numbers that its values are: all of these are read and sorted, in the order in which runs began, which is how they lie in
the file. An index of the extremes would be written by every call that logs, which is what there is most of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.store.tracking.filters import Clause, attribute, comparison
from mlbox.store.tracking.keyset import Term
from mlbox.store.tracking.run_filters import COLUMNS, ENTITIES, RUNS, TABLES
from mlbox.store.tracking.run_scope import Scope

_CLAUSE = re.compile(r"(?P<key>.*?)(?:\s+(?P<way>ASC|DESC))?", re.IGNORECASE | re.DOTALL)
Order = list[tuple[str, str, bool, str]]
"""Entity, key, whether it ascends, and the column of a metric."""
ASPECTS = {"min:": "low", "max:": "high", "num:": "number"}
"""What stands before a metric that its extremes order by, and before a parameter or tag whose values are read as numbers."""


class Source(NamedTuple):
    """Where rows come from: SQL after FROM, a condition, the values of both, and the terms that order them."""

    tables: str
    condition: str
    values: tuple[Any, ...]
    terms: tuple[Term, ...]


def parse_order(order_by: Sequence[str]) -> Order:
    """What runs are ordered by; raises InvalidInput."""
    order: Order = []
    for text in order_by:
        key, ascending = split_order(text)
        column = ASPECTS.get(key[:4], "value")
        entity, plain = named_value(key if column == "value" else key[4:], text)
        if column != "value" and (entity in ("param", "tag")) != (column == "number"):
            raise bad_order(text)
        order.append((entity, plain, ascending, column))
    if len({(entity, key) for entity, key, _, _ in order}) < len(order):
        raise InvalidInput(f"`order_by` contains duplicate fields: {str(list(order_by))[:200]}", field="order_by")
    return order


def split_order(text: str) -> tuple[str, bool]:
    """An order's key, and whether it ascends."""
    match = _CLAUSE.fullmatch(text.strip())
    if match is None or not match["key"]:
        raise bad_order(text)
    return match["key"], (match["way"] or "ASC").upper() == "ASC"


def bad_order(text: str) -> InvalidInput:
    """The error of an order that cannot be read."""
    return InvalidInput(
        f"Invalid order_by clause '{text[:80]}'.", hint="For example: metrics.auc DESC", field="order_by"
    )


def named_value(key: str, text: str = "") -> tuple[str, str]:
    """The entity and the plain key of a value that every run has at most one of; raises InvalidInput, saying `text`."""
    entity, dot, name = key.partition(".")
    if not dot or entity not in ENTITIES:
        entity, name = "attribute", key
    plain = name[1:-1] if len(name) > 1 and name[0] in '`"' and name[-1] == name[0] else name
    plain = plain.replace('""', '"') if name.startswith('"') else plain
    entity = ENTITIES[entity]
    if entity == "dataset" or not plain:
        raise bad_order(text or key)
    return entity, attribute(RUNS, plain)[0] if entity == "attribute" else plain


def walks(order: Order) -> bool:
    """Whether an order comes out of a metric's index."""
    return bool(order) and order[0][0] == "metric" and order[0][3] == "value"


def of_order(order: Order, clauses: Sequence[Clause]) -> list[Clause]:
    """Those of a filter's clauses that are about the metric whose index an order comes out of."""
    return [one for one in clauses if walks(order) and one.entity == "metric" and one.key == order[0][1]]


_LAST = (Term("run.started_us", False), Term("run.id", True))


def sources(order: Order, own: Sequence[Clause], scope: Scope) -> list[Source]:
    """Where the runs of an order come from, one after the other; `own` are the clauses about the metric that orders them."""
    if not walks(order):
        tables, values, terms = _joined(order, 0)
        return [Source(scope.tables + tables, "1", values, (*terms, *_LAST))]
    _, key, ascending, _ = order[0]
    tables, values, terms = _joined(order[1:], 1)
    walk = "series AS o0 CROSS JOIN run ON run.id = o0.run_id"
    metric = f"{scope.driver} CROSS JOIN series AS o0 ON o0.run_id = run.id" if scope.driver else walk
    # A comparison of what orders is where its index begins; only without one is that where the values are.
    compared = [comparison("o0.value", clause.comparator, clause.value) for clause in own] or [
        ("o0.value IS NOT NULL", [])
    ]
    condition = " AND ".join(["o0.key = ?", *(sql for sql, _ in compared)])
    bound = (*values, key, *(one for _, given in compared for one in given))
    found = [Source(metric + tables, condition, bound, (Term("o0.value", ascending), *terms, *_LAST))]
    if not own:
        absent = "NOT EXISTS (SELECT 1 FROM series WHERE run_id = run.id AND key = ?)"
        found += [
            Source(metric + tables, "o0.key = ? AND o0.value IS NULL", (*values, key), (*terms, *_LAST)),
            Source(scope.tables + tables, absent, (*values, key), (*terms, *_LAST)),
        ]
    return found


def _joined(order: Order, first: int) -> tuple[str, tuple[Any, ...], list[Term]]:
    """The tables that an order needs beside `run`, the values in them, and its terms."""
    tables, values, terms = "", [], []
    for number, (entity, key, ascending, column) in enumerate(order, first):
        if entity == "attribute":
            own = COLUMNS[key]
            terms += [Term(f"(({own}) IS NULL)", True), Term(f"coalesce({own}, 0)", ascending)]
            continue
        name = f"o{number}"
        tables += f" LEFT JOIN {TABLES[entity]} AS {name} ON {name}.run_id = run.id AND {name}.key = ?"
        values.append(key)
        missing = f"({name}.run_id IS NULL)"
        if column == "number":
            terms += [Term(missing, True), *_numbers_first(f"{name}.value", ascending)]
            continue
        rank = (
            f"CASE WHEN {missing} THEN 2 WHEN {name}.{column} IS NULL THEN 1 ELSE 0 END"
            if entity == "metric"
            else missing
        )
        terms += [Term(rank, True), Term(f"coalesce({name}.{column}, 0)", ascending)]
    return tables, tuple(values), terms


def _numbers_first(value: str, ascending: bool) -> list[Term]:
    """Texts in order: those that are numbers by what they are worth, then the others."""
    # Only CASE keeps SQLite from reading as JSON what is none.
    is_number = f"CASE WHEN json_valid({value}) THEN json_type({value}) IN ('integer', 'real') ELSE 0 END"
    number = f"CASE WHEN {is_number} THEN CAST({value} AS REAL) ELSE 0 END"
    return [Term(f"NOT {is_number}", True), Term(number, ascending), Term(f"coalesce({value}, '')", ascending)]
