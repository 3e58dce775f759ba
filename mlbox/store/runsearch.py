"""Search of runs, experiments and logged models: filters and orders compiled to SQL with bound values.

Pages go on from the last row's own values. Where runs are ordered by a metric, they come out of that metric's index and the
search stops at the page's end: first those with a value, then those whose value is no number, then those without the metric,
whichever way the order goes. What else has no value comes last, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Experiment
from mlbox.store.db import Row
from mlbox.store.experiments import Alive, Experiments, alive_condition, of_row
from mlbox.store.filters import Bound, Clause, Grammar, Value, all_of, attribute, comparison, parse
from mlbox.store.tracking import Tracker

ADDRESS = "'mlflow-artifacts:/' || run.experiment_id || '/' || run.id || '/artifacts'"
_ENTITIES = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attribute"),
    **dict.fromkeys(("dataset", "datasets"), "dataset"),
}
_COLUMNS = {
    "run_id": "run.id",
    "run_name": "run.name",
    "status": "run.status",
    "user_id": "run.user",
    "artifact_uri": ADDRESS,
    "start_time": "run.started_us / 1000",
    "end_time": "run.ended_us / 1000",
}
RUNS = Grammar(
    entities=_ENTITIES,
    texts=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"}),
    numbers=frozenset({"start_time", "end_time"}),
    lists=frozenset({"run_id"}),
    aliases={
        "created": "start_time",
        "Created": "start_time",
        **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
    },
    datasets=frozenset({"name", "digest", "context"}),
)
_EXPERIMENT_COLUMNS = {
    "name": "name",
    "experiment_id": "CAST(id AS INTEGER)",
    "creation_time": "created_us / 1000",
    "last_update_time": "updated_us / 1000",
}
EXPERIMENTS = Grammar(
    entities={name: plain for name, plain in _ENTITIES.items() if plain in ("tag", "attribute") and name != "run"},
    texts=frozenset({"name"}),
    numbers=frozenset({"creation_time", "last_update_time"}),
    lists=frozenset(),
)


class Page(NamedTuple):
    """One page, and the values that the next one begins after; None at the end."""

    found: list[Any]
    next: list[Any] | None


class Term(NamedTuple):
    """A column of an order: SQL that is never NULL, its values, and whether it ascends."""

    sql: str
    ascending: bool
    values: tuple[Any, ...] = ()


class Source(NamedTuple):
    """Where rows come from: SQL after FROM with its values, a condition, and the terms that order them."""

    tables: str
    values: tuple[Any, ...]
    condition: str
    terms: tuple[Term, ...]


class RunSearch:
    """Runs and experiments by filter."""

    def __init__(self, tracker: Tracker, experiments: Experiments) -> None:
        self._tracker = tracker
        self._experiments = experiments

    def runs(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        alive: Alive = "active",
        limit: int = 1000,
        after: Sequence[Any] | None = None,
    ) -> Page:
        """Runs of these experiments; raises InvalidInput for a filter, an order or a page that is not of the grammar."""
        clauses = parse(filter, RUNS)
        where, values = all_of(clauses, compile_run)
        groups = ",".join("?" * len(experiment_ids))
        where = f"run.experiment_id IN ({groups}) AND {alive_condition(alive, 'run')} AND {where}"
        bound = [*experiment_ids, *values]
        sources = _sources(_order(order_by), clauses)
        begin = _place(after, sources)
        rows: list[tuple[int, Row]] = []
        for number in range(begin, len(sources)):
            place = values_of(after[1:]) if after and number == begin else None
            sql, given = _query(sources[number], where, bound, place, limit + 1 - len(rows))
            rows += [(number, row) for row in self._tracker.select(sql, given)]
            if len(rows) > limit:
                break
        found = self._tracker.by_ids([row[0] for _, row in rows[:limit]])
        return Page(found, _after_run(*rows[limit - 1]) if len(rows) > limit else None)

    def experiments(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        alive: Alive = "active",
        limit: int = 1000,
        after: Sequence[Any] | None = None,
    ) -> Page:
        """Experiments, the newest first unless an order says otherwise; raises InvalidInput."""
        where, values = all_of(parse(filter, EXPERIMENTS), _compile_experiment)
        terms = _experiment_terms(order_by)
        if after is not None:
            beyond, more = after_row(terms, after)
            where, values = f"{where} AND {beyond}", [*values, *more]
        rows = self._experiments.select(f"{alive_condition(alive)} AND {where}", values, sorting(terms), limit + 1)
        found: list[Experiment] = [of_row(row) for row in rows[:limit]]
        return Page(found, _after_experiment(rows[limit - 1], terms) if len(rows) > limit else None)


# -- filters ------------------------------------------------------------------------------------------------------------


def compile_run(clause: Clause) -> Bound:
    """A clause about a run as SQL over `run`."""
    if clause.entity == "attribute":
        return comparison(_COLUMNS[clause.key], clause.comparator, clause.value)
    if clause.entity == "dataset":
        column = (
            "json_extract(run_dataset.tags, '$.\"mlflow.data.context\"')"
            if clause.key == "context"
            else f"dataset.{clause.key}"
        )
        sql, values = comparison(column, clause.comparator, clause.value)
        joined = "run_dataset JOIN dataset ON dataset.id = run_dataset.dataset"
        return f"EXISTS (SELECT 1 FROM {joined} WHERE run_dataset.run_id = run.id AND {sql})", values
    table = {"metric": "series", "param": "param", "tag": "tag"}[clause.entity]
    return pair_condition(f"{table} WHERE run_id = run.id", clause)


def pair_condition(rows: str, clause: Clause) -> Bound:
    """A clause about a key and its value, which are a row of another table."""
    if clause.comparator == "IS NULL":
        return f"NOT EXISTS (SELECT 1 FROM {rows} AND key = ?)", [clause.key]
    if clause.comparator == "IS NOT NULL":
        return f"EXISTS (SELECT 1 FROM {rows} AND key = ?)", [clause.key]
    sql, values = comparison("value", clause.comparator, clause.value)
    return f"EXISTS (SELECT 1 FROM {rows} AND key = ? AND {sql})", [clause.key, *values]


def _compile_experiment(clause: Clause) -> Bound:
    if clause.entity == "tag":
        return pair_condition("experiment_tag WHERE experiment_id = experiment.id", clause)
    return comparison(_EXPERIMENT_COLUMNS[clause.key], clause.comparator, clause.value)


# -- orders -------------------------------------------------------------------------------------------------------------

_CLAUSE = re.compile(r"(?P<key>.*?)(?:\s+(?P<way>ASC|DESC))?", re.IGNORECASE | re.DOTALL)
Order = list[tuple[str, str, bool]]
"""Entity, key, and whether it ascends."""


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


def _order(order_by: Sequence[str]) -> Order:
    order: Order = []
    for text in order_by:
        key, ascending = split_order(text)
        entity, dot, name = key.partition(".")
        if not dot or entity not in _ENTITIES:
            entity, name = "attribute", key
        plain = name[1:-1] if len(name) > 1 and name[0] in '`"' and name[-1] == name[0] else name
        entity = _ENTITIES[entity]
        if entity == "dataset" or not plain:
            raise bad_order(text)
        if entity == "attribute":
            plain = attribute(RUNS, plain)[0]
        order.append((entity, plain, ascending))
    if len({(entity, key) for entity, key, _ in order}) < len(order):
        raise InvalidInput(f"`order_by` contains duplicate fields: {str(list(order_by))[:200]}", field="order_by")
    return order


_LAST = (Term("run.started_us", False), Term("run.id", True))


def _sources(order: Order, clauses: Sequence[Clause]) -> list[Source]:
    """Where the runs of an order come from, one after the other."""
    if not order or order[0][0] != "metric":
        tables, values, terms = _joined(order, 0)
        return [Source(f"run{tables}", values, "1", (*terms, *_LAST))]
    _, key, ascending = order[0]
    tables, values, terms = _joined(order[1:], 1)
    with_metric = f"series AS o0 CROSS JOIN run ON run.id = o0.run_id{tables}"
    sources = [
        Source(
            with_metric, values, "o0.key = ? AND o0.value IS NOT NULL", (Term("o0.value", ascending), *terms, *_LAST)
        )
    ]
    if not any(clause.entity == "metric" and clause.key == key for clause in clauses):
        sources.append(Source(with_metric, values, "o0.key = ? AND o0.value IS NULL", (*terms, *_LAST)))
        absent = "NOT EXISTS (SELECT 1 FROM series WHERE run_id = run.id AND key = ?)"
        sources.append(Source(f"run{tables}", values, absent, (*terms, *_LAST)))
    return [source._replace(condition=source.condition, values=(*source.values, key)) for source in sources]


def _joined(order: Order, first: int) -> tuple[str, tuple[Any, ...], list[Term]]:
    """The tables that an order needs beside `run`, the values in them, and its terms."""
    tables, values, terms = "", [], []
    for number, (entity, key, ascending) in enumerate(order, first):
        if entity == "attribute":
            column = _COLUMNS[key]
            terms += [Term(f"(({column}) IS NULL)", True), Term(f"coalesce({column}, 0)", ascending)]
            continue
        table, name = {"metric": "series", "param": "param", "tag": "tag"}[entity], f"o{number}"
        tables += f" LEFT JOIN {table} AS {name} ON {name}.run_id = run.id AND {name}.key = ?"
        values.append(key)
        missing = f"({name}.run_id IS NULL)"
        rank = (
            f"CASE WHEN {missing} THEN 2 WHEN {name}.value IS NULL THEN 1 ELSE 0 END" if entity == "metric" else missing
        )
        terms += [Term(rank, True), Term(f"coalesce({name}.value, 0)", ascending)]
    return tables, tuple(values), terms


def _query(source: Source, where: str, values: list[Any], place: list[Any] | None, limit: int) -> tuple[str, list[Any]]:
    beyond, more = after_row(source.terms, place) if place is not None else ("1", [])
    columns = ", ".join(["run.id", *(term.sql for term in source.terms)])
    sql = (
        f"SELECT {columns} FROM {source.tables} WHERE {source.condition} AND {where} AND {Tracker.VISIBLE} AND {beyond}"
        f" ORDER BY {sorting(source.terms)} LIMIT ?"
    )
    return sql, [*source.values, *values, *more, limit]


def sorting(terms: Sequence[Term]) -> str:
    """Terms as ORDER BY takes them."""
    return ", ".join(f"{term.sql} {'ASC' if term.ascending else 'DESC'}" for term in terms)


def after_row(terms: Sequence[Term], place: Sequence[Any]) -> Bound:
    """True for the rows that come after one with these values."""
    if len(place) != len(terms):
        raise wrong_page()
    ways: list[str] = []
    values: list[Value | int] = []
    for number, term in enumerate(terms):
        same = [f"{before.sql} = ?" for before in terms[:number]]
        ways.append(" AND ".join([*same, f"{term.sql} {'>' if term.ascending else '<'} ?"]))
        values += [*place[:number], place[number]]
    first = f"{terms[0].sql} {'>=' if terms[0].ascending else '<='} ?"  # where an index can begin
    return f"({first} AND ({' OR '.join(f'({way})' for way in ways)}))", [place[0], *values]


_INFINITE = {"\0inf": math.inf, "\0-inf": -math.inf}
"""Infinities in a page's token, because JSON has none; no other text begins like that."""


def token_of(values: Sequence[Any]) -> list[Any]:
    """The values of a row's terms as a page's token has them."""
    infinite = {value: text for text, value in _INFINITE.items()}
    return [infinite.get(value, value) for value in values]


def values_of(token: Sequence[Any]) -> list[Any]:
    """The values in a page's token."""
    return [_INFINITE.get(value, value) for value in token]


def _after_run(source: int, row: Row) -> list[Any]:
    return [source, *token_of(tuple(row)[1:])]


def _place(after: Sequence[Any] | None, sources: Sequence[Source]) -> int:
    if after is None:
        return 0
    if not after or not isinstance(after[0], int) or not 0 <= after[0] < len(sources):
        raise wrong_page()
    return after[0]


def wrong_page() -> InvalidInput:
    """The error of a page's token that is another search's."""
    return InvalidInput("Invalid page_token: it is of another search.", hint="Begin again.", field="page_token")


def _experiment_terms(order_by: Sequence[str]) -> list[Term]:
    terms: list[Term] = []
    for text in order_by:
        key, ascending = split_order(text)
        plain = re.sub(r"^(?:attributes?|attr)\.", "", key).strip('`"')
        if plain not in _EXPERIMENT_COLUMNS:
            raise bad_order(text)
        terms.append(Term(_EXPERIMENT_COLUMNS[plain], ascending))
    if not terms:
        terms = [Term("created_us", False)]
    return [*terms, Term("CAST(id AS INTEGER)", False)]


def _after_experiment(row: Row, terms: Sequence[Term]) -> list[Any]:
    facts = {
        "name": row["name"],
        "CAST(id AS INTEGER)": int(row["id"]),
        "created_us": row["created_us"],
        "created_us / 1000": row["created_us"] // 1000,
        "updated_us / 1000": row["updated_us"] // 1000,
    }
    return [facts[term.sql] for term in terms]
