"""The runs that a search is about, and which table drives it: one with few rows where there is one.

To walk through runs in their order until a page is full is quickest where much is found, and goes through all of them where
little is. So each clause that an index answers is first asked whether it holds for few runs. If one does, those are looked up
and sorted; otherwise about as many as FEW are found wherever one looks, and the walk ends soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from mlbox.store.db import Row
from mlbox.store.tracking.experiments import Alive, alive_condition
from mlbox.store.tracking.filters import Clause, all_of, comparison
from mlbox.store.tracking.run_filters import PARENT, TABLES, compile_run

FEW = 10_000
"""Runs that are looked up and sorted in some ten milliseconds."""
_IS_ROOT = (
    "NOT EXISTS (SELECT 1 FROM tag JOIN run AS parent ON parent.id = tag.value WHERE tag.run_id = run.id"
    f" AND tag.key = '{PARENT}' AND parent.deleted_us IS NULL AND parent.id <> run.id"
    " AND parent.experiment_id IN ({places}))"
)
Select = Callable[[str, Sequence[Any]], list[Row]]
Walk = Literal["run", "metric"]
"""Through all runs as they began, or through a metric of all of them."""


class Scope(NamedTuple):
    """Which runs: SQL over `run` after WHERE with its values, and what drives the search if it is not the order."""

    where: str
    values: list[Any]
    driver: str | None
    """SQL after FROM, up to and with `run`."""

    @property
    def tables(self) -> str:
        """SQL after FROM, where nothing else drives the search."""
        return self.driver or "run"


class _Driver(NamedTuple):
    """A table that may drive a search: SQL after FROM, what picks its rows, and the clause that holds for them."""

    tables: str
    rows: str
    condition: str
    values: list[Any]
    clause: Clause | None


def scope(
    select: Select,
    seen: Sequence[str],
    clauses: Sequence[Clause],
    alive: Alive,
    *,
    roots: bool = False,
    walk: Walk | None = None,
    own: Sequence[Clause] = (),
) -> Scope:
    """The runs of these experiments for which all clauses hold; `own` are more of them, which the order itself sees to.

    `walk` is what is walked through where no few runs drive the search; None where everything that is found is wanted.
    """
    places = ",".join("?" * len(seen))
    drivers = [driver for clause in (*clauses, *own) if (driver := _driver(clause))]
    if walk == "metric":
        drivers.append(_Driver("run", "run", f"experiment_id IN ({places})", list(seen), None))
    best = _least(select, drivers)
    rest = [clause for clause in clauses if best is None or clause is not best.clause]
    where, values = all_of(rest, compile_run)
    # The sign keeps SQLite off the index by experiment, whose parts it would have to sort together.
    home = "+run.experiment_id" if walk == "run" and len(seen) > 1 else "run.experiment_id"
    nested, above = (_IS_ROOT.format(places=places), list(seen)) if roots else ("1", [])
    whole = f"{home} IN ({places}) AND {alive_condition(alive, 'run')} AND {where} AND {nested}"
    bound = [*seen, *values, *above]
    if best is None or best.clause is None:
        return Scope(whole, bound, best.tables if best else None)
    return Scope(f"{best.condition} AND {whole}", [*best.values, *bound], best.tables)


def _driver(clause: Clause) -> _Driver | None:
    """What drives a search where a clause holds for few runs; None for one that no index answers."""
    if clause.entity not in TABLES or clause.comparator not in ("=", "<", "<=", ">", ">=", "IS NOT NULL"):
        return None
    condition, values = "1", list[Any]()
    if clause.value is not None:
        condition, values = comparison("few.value", clause.comparator, clause.value)
    rows = f"{TABLES[clause.entity]} AS few"
    return _Driver(
        f"{rows} CROSS JOIN run ON run.id = few.run_id",
        rows,
        f"few.key = ? AND {condition}",
        [clause.key, *values],
        clause,
    )


def _least(select: Select, drivers: Iterable[_Driver]) -> _Driver | None:
    """The one with the fewest rows, if those are few."""
    best, least = None, FEW
    for driver in drivers:
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {driver.rows} WHERE {driver.condition} LIMIT ?)"
        count = select(sql, [*driver.values, least])[0][0]
        if count < least:
            best, least = driver, count
    return best
