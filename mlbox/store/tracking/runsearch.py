"""Search of runs and experiments: filters and orders compiled to SQL with bound values.

A run whose tag `mlflow.parentRunId` names another one of the search is nested in that: `roots` leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlbox.records import Experiment
from mlbox.store.db import Row
from mlbox.store.tracking import run_groups
from mlbox.store.tracking.experiments import Alive, Experiments, alive_condition, of_row
from mlbox.store.tracking.filters import Bound, Clause, Grammar, all_of, comparison, parse
from mlbox.store.tracking.keyset import Page, Term, after_row, sorting, token_of, values_of, wrong_page
from mlbox.store.tracking.run_filters import COLUMNS, ENTITIES, PARENT, RUNS, pair_condition
from mlbox.store.tracking.run_orders import (
    Source,
    bad_order,
    named_value,
    of_order,
    parse_order,
    sources,
    split_order,
    walks,
)
from mlbox.store.tracking.run_scope import Scope, Walk, scope
from mlbox.store.tracking.tracking import Tracker

_EXPERIMENT_COLUMNS = {
    "name": "name",
    "experiment_id": "CAST(id AS INTEGER)",
    "creation_time": "created_us / 1000",
    "last_update_time": "updated_us / 1000",
}
EXPERIMENTS = Grammar(
    entities={name: plain for name, plain in ENTITIES.items() if plain in ("tag", "attribute") and name != "run"},
    texts=frozenset({"name"}),
    numbers=frozenset({"creation_time", "last_update_time"}),
    lists=frozenset(),
)


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
        clauses, order = parse(filter, RUNS), parse_order(order_by)
        own = of_order(order, clauses)
        rest = [clause for clause in clauses if clause not in own]
        walk: Walk | None = "run" if not order else "metric" if walks(order) else None
        seen = self._seen(experiment_ids)
        about = scope(self._tracker.select, seen, rest, alive, roots=roots, walk=walk, own=own)
        found_in = sources(order, own, about)
        begin = _place(after, found_in)
        rows: list[tuple[int, Row]] = []
        for number in range(begin, len(found_in)):
            place = values_of(after[1:]) if after and number == begin else None
            sql, given = _query(found_in[number], about, place, limit + 1 - len(rows))
            rows += [(number, row) for row in self._tracker.select(sql, given)]
            if len(rows) > limit:
                break
        found = self._tracker.by_ids([row[0] for _, row in rows[:limit]])
        return Page(found, _after_run(*rows[limit - 1]) if len(rows) > limit else None)

    def count(self, experiment_ids: Sequence[str], filter: str = "", *, roots: bool = False, most: int = 10_000) -> int:
        """How many active runs a filter finds; `most + 1` for more than that."""
        about = scope(self._tracker.select, self._seen(experiment_ids), parse(filter, RUNS), "active", roots=roots)
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {about.tables} WHERE {about.where} LIMIT ?)"
        return int(self._tracker.select(sql, [*about.values, most + 1])[0][0])

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
        about = scope(self._tracker.select, self._seen(experiment_ids), parse(filter, RUNS), "active")
        sql, values = run_groups.query(entity, COLUMNS.get(key, key), key, metrics, about, limit, after)
        return run_groups.read(self._tracker.select(sql, values), metrics)

    def _seen(self, experiment_ids: Sequence[str]) -> list[str]:
        """Those of these experiments that whoever asks may know of."""
        visible = self._experiments.visible_ids()
        return [one for one in dict.fromkeys(experiment_ids) if one in visible]

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


def _query(source: Source, about: Scope, place: list[Any] | None, limit: int) -> tuple[str, list[Any]]:
    beyond, more = after_row(source.terms, place) if place is not None else ("1", [])
    columns = ", ".join(["run.id", *(term.sql for term in source.terms)])
    sql = (
        f"SELECT {columns} FROM {source.tables} WHERE {source.condition} AND {about.where} AND {beyond}"
        f" ORDER BY {sorting(source.terms)} LIMIT ?"
    )
    return sql, [*source.values, *about.values, *more, limit]


def _after_run(source: int, row: Row) -> list[Any]:
    return [source, *token_of(tuple(row)[1:])]


def _place(after: Sequence[Any] | None, found_in: Sequence[Source]) -> int:
    if after is None:
        return 0
    if not after or not isinstance(after[0], int) or not 0 <= after[0] < len(found_in):
        raise wrong_page()
    return after[0]


# -- experiments --------------------------------------------------------------------------------------------------------


def _compile_experiment(clause: Clause) -> Bound:
    if clause.entity == "tag":
        return pair_condition("experiment_tag WHERE experiment_id = experiment.id", clause)
    return comparison(_EXPERIMENT_COLUMNS[clause.key], clause.comparator, clause.value)


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
