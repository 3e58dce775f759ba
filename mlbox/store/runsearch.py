"""Search of runs, experiments and logged models: filters and orders compiled to SQL with bound values.

Pages go on from the last row's own values. Where runs are ordered by a metric, they come out of that metric's index and the
search stops at the page's end: first those with a value, then those whose value is no number, then those without the metric,
whichever way the order goes. What else has no value comes last, too. `min:` and `max:` before a metric order by its extremes,
`num:` before a parameter or a tag by the numbers that its values are.

A run whose tag `mlflow.parentRunId` names another one of the search is nested in that: `roots` leaves it out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import Experiment
from mlbox.store import run_groups
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
    "duration": "(run.ended_us - run.started_us) / 1000",
    "experiment_name": "(SELECT name FROM experiment WHERE experiment.id = run.experiment_id)",
    "dataset": "coalesce(run.dataset, '')",
    "git_commit": "coalesce(run.git_commit, '')",
    "job_id": "coalesce(run.job_id, '')",
}
OWN_TEXTS = frozenset({"experiment_name", "dataset", "git_commit", "job_id"})
"""Texts of a run that MLflow has no words for."""
RUNS = Grammar(
    entities=_ENTITIES,
    texts=frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri"}) | OWN_TEXTS,
    numbers=frozenset({"start_time", "end_time", "duration"}),
    lists=frozenset({"run_id"}),
    aliases={
        "created": "start_time",
        "Created": "start_time",
        **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
    },
    datasets=frozenset({"name", "digest", "context"}),
)
PARENT = "mlflow.parentRunId"
_IS_ROOT = (
    "NOT EXISTS (SELECT 1 FROM tag JOIN run AS parent ON parent.id = tag.value WHERE tag.run_id = run.id"
    f" AND tag.key = '{PARENT}' AND parent.deleted_us IS NULL AND parent.id <> run.id"
    " AND parent.experiment_id IN ({places}))"
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
        roots: bool = False,
    ) -> Page:
        """Runs of these experiments; raises InvalidInput for a filter, an order or a page that is not of the grammar."""
        clauses = parse(filter, RUNS)
        order = _order(order_by)
        where, bound = self._where(experiment_ids, clauses, alive, roots=roots, walk=not order)
        sources = _sources(order, clauses)
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

    def count(self, experiment_ids: Sequence[str], filter: str = "", *, roots: bool = False, most: int = 10_000) -> int:
        """How many active runs a filter finds; `most + 1` for more than that."""
        where, bound = self._where(experiment_ids, parse(filter, RUNS), "active", roots=roots)
        row = self._tracker.select(
            f"SELECT count(*) FROM (SELECT 1 FROM run WHERE {where} LIMIT ?)", [*bound, most + 1]
        )
        return int(row[0][0])

    def groups(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        by: str,
        metrics: Sequence[run_groups.Aspect] = (),
        limit: int = 100,
        after: run_groups.Place | None = None,
    ) -> list[run_groups.Group]:
        """The active runs that a filter finds, by what they have as a parameter, a tag or an attribute; large groups first."""
        entity, key = named_value(by)
        where, bound = self._where(experiment_ids, parse(filter, RUNS), "active")
        sql, values = run_groups.query(entity, _COLUMNS.get(key, key), key, metrics, where, bound, limit, after)
        return run_groups.read(self._tracker.select(sql, values), metrics)

    def _where(
        self,
        experiment_ids: Sequence[str],
        clauses: Sequence[Clause],
        alive: Alive,
        *,
        roots: bool = False,
        walk: bool = False,
    ) -> tuple[str, list[Any]]:
        """What holds for the runs of a search. To `walk` is to go through all runs in their order until a page is full."""
        visible = self._experiments.visible_ids()
        seen = [one for one in dict.fromkeys(experiment_ids) if one in visible]
        places = ",".join("?" * len(seen))
        # The sign keeps SQLite off the index by experiment, whose parts it would have to sort together.
        own = "+run.experiment_id" if walk and len(seen) > 1 else "run.experiment_id"
        where, values = all_of(list(clauses), compile_run)
        nested, above = (_IS_ROOT.format(places=places), seen) if roots else ("1", [])
        whole = f"{own} IN ({places}) AND {alive_condition(alive, 'run')} AND {where} AND {nested}"
        return whole, [*seen, *values, *above]

    def children(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How many active runs are nested in each of these, where there are any."""
        places = ",".join("?" * len(run_ids))
        rows = self._tracker.select(
            f"SELECT tag.value AS parent, count(*) AS runs FROM tag JOIN run ON run.id = tag.run_id"
            f" WHERE tag.key = '{PARENT}' AND tag.value IN ({places}) AND run.deleted_us IS NULL AND {Tracker.VISIBLE}"
            " GROUP BY tag.value",
            run_ids,
        )
        return {row["parent"]: row["runs"] for row in rows}

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
Order = list[tuple[str, str, bool, str]]
"""Entity, key, whether it ascends, and the column of a metric."""
ASPECTS = {"min:": "low", "max:": "high", "num:": "number"}
"""What stands before a metric that its extremes order by, and before a parameter or tag whose values are read as numbers."""


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
        column = ASPECTS.get(key[:4], "value")
        entity, plain = named_value(key if column == "value" else key[4:], text)
        if column != "value" and (entity in ("param", "tag")) != (column == "number"):
            raise bad_order(text)
        order.append((entity, plain, ascending, column))
    if len({(entity, key) for entity, key, _, _ in order}) < len(order):
        raise InvalidInput(f"`order_by` contains duplicate fields: {str(list(order_by))[:200]}", field="order_by")
    return order


def named_value(key: str, text: str = "") -> tuple[str, str]:
    """The entity and the plain key of a value that every run has at most one of; raises InvalidInput, saying `text`."""
    entity, dot, name = key.partition(".")
    if not dot or entity not in _ENTITIES:
        entity, name = "attribute", key
    plain = name[1:-1] if len(name) > 1 and name[0] in '`"' and name[-1] == name[0] else name
    plain = plain.replace('""', '"') if name.startswith('"') else plain
    entity = _ENTITIES[entity]
    if entity == "dataset" or not plain:
        raise bad_order(text or key)
    return entity, attribute(RUNS, plain)[0] if entity == "attribute" else plain


_LAST = (Term("run.started_us", False), Term("run.id", True))


def _sources(order: Order, clauses: Sequence[Clause]) -> list[Source]:
    """Where the runs of an order come from, one after the other."""
    if not order or order[0][0] != "metric":
        tables, values, terms = _joined(order, 0)
        return [Source(f"run{tables}", values, "1", (*terms, *_LAST))]
    _, key, ascending, column = order[0]
    value = f"o0.{column}"
    tables, values, terms = _joined(order[1:], 1)
    with_metric = f"series AS o0 CROSS JOIN run ON run.id = o0.run_id{tables}"
    sources = [
        Source(with_metric, values, f"o0.key = ? AND {value} IS NOT NULL", (Term(value, ascending), *terms, *_LAST))
    ]
    if not any(clause.entity == "metric" and clause.key == key for clause in clauses):
        sources.append(Source(with_metric, values, f"o0.key = ? AND {value} IS NULL", (*terms, *_LAST)))
        absent = "NOT EXISTS (SELECT 1 FROM series WHERE run_id = run.id AND key = ?)"
        sources.append(Source(f"run{tables}", values, absent, (*terms, *_LAST)))
    return [source._replace(condition=source.condition, values=(*source.values, key)) for source in sources]


def _joined(order: Order, first: int) -> tuple[str, tuple[Any, ...], list[Term]]:
    """The tables that an order needs beside `run`, the values in them, and its terms."""
    tables, values, terms = "", [], []
    for number, (entity, key, ascending, column) in enumerate(order, first):
        if entity == "attribute":
            own = _COLUMNS[key]
            terms += [Term(f"(({own}) IS NULL)", True), Term(f"coalesce({own}, 0)", ascending)]
            continue
        table, name = {"metric": "series", "param": "param", "tag": "tag"}[entity], f"o{number}"
        tables += f" LEFT JOIN {table} AS {name} ON {name}.run_id = run.id AND {name}.key = ?"
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


def _query(source: Source, where: str, values: list[Any], place: list[Any] | None, limit: int) -> tuple[str, list[Any]]:
    beyond, more = after_row(source.terms, place) if place is not None else ("1", [])
    columns = ", ".join(["run.id", *(term.sql for term in source.terms)])
    sql = (
        f"SELECT {columns} FROM {source.tables} WHERE {source.condition} AND {where} AND {beyond}"
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
