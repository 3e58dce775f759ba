"""The filter grammar against a plain evaluator of it, and pages that are the whole; queries that stay on their indexes."""

from __future__ import annotations

import contextlib
import fnmatch
import math
import operator
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import InvalidInput
from mlbox.events import EventBus
from mlbox.records import DatasetInput, Metric, Run
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.tracking import run_scope
from mlbox.store.tracking.filters import parse
from mlbox.store.tracking.run_filters import RUNS
from mlbox.store.tracking.runsearch import RunSearch
from mlbox.store.tracking.tracking import Tracker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VALUES = [-1.5, 0.0, 0.5, 0.5, 2.0, math.nan, math.inf, -math.inf]
TEXTS = ["a", "A", "ab", "a%b", "b_c", "it's", "[x]*?", ""]


class Search:
    """A tracker with runs in it."""

    def __init__(self, root: Path, clock: ManualClock, bus: EventBus) -> None:
        self.path = root / "tracking.sqlite"
        self.db = Database(self.path, migrations.tracking, clock, bus)
        self.tracker = Tracker(self.db, Artifacts(root / "artifacts"), clock)
        self.search = RunSearch(self.tracker, self.tracker.groups)
        self.group = self.tracker.experiment("e", actor="ann")

    def run(self, number: int, **facts: Any) -> Run:
        metrics = [Metric(key=k, value=v, step=0, at=NOW) for k, v in facts.pop("metrics", {}).items()]
        started = NOW + timedelta(seconds=facts.pop("second", number))
        run = self.tracker.start_run(experiment="e", user="ann", name=f"r{number}", started=started, **facts)
        self.tracker.log(run.id, metrics=metrics)
        return self.tracker.run(run.id)

    def ids(self, filter: str = "", **more: Any) -> list[str]:
        return [run.id for run in self.search.runs([self.group.id], filter, **more).found]


class Many:
    """A search and the runs in it; short in words, because Hypothesis writes its arguments down."""

    def __init__(self, search: Search, runs: list[Run]) -> None:
        self.search, self.runs = search, runs

    def __iter__(self) -> Iterator[Any]:
        return iter((self.search, self.runs))

    def __repr__(self) -> str:
        return f"Many({len(self.runs)} runs)"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    search = Search(tmp_path_factory.mktemp("search"), ManualClock(NOW), EventBus())
    runs = []
    for number in range(64):
        metrics = {key: VALUES[(number * step) % 8] for key, step in (("m", 1), ("a b", 3)) if number % step != 2}
        params = {"p": TEXTS[number % 8]} if number % 3 else {}
        tags = {"mlflow.t": TEXTS[number // 8]} if number % 5 else {}
        runs.append(search.run(number, metrics=metrics, params=params, tags=tags, second=number // 4))
    yield Many(search, runs)
    search.db.close()


# -- the plain evaluator ------------------------------------------------------------------------------------------------

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def like(text: str, pattern: str, *, case: bool) -> bool:
    plain = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    return re.fullmatch(plain, text, re.DOTALL | (0 if case else re.IGNORECASE)) is not None


def holds(run: Run, entity: str, key: str, comparator: str, value: Any) -> bool:
    if entity == "metrics":
        measured = run.metrics[key].value if key in run.metrics else math.nan
        return measured is not None and not math.isnan(measured) and COMPARE[comparator](measured, value)
    text = {"params": run.params, "tags": run.tags, "attributes": {"run_name": run.name, "run_id": run.id}}[entity].get(
        key
    )
    if comparator == "IS NULL":
        return text is None
    if text is None or comparator == "IS NOT NULL":
        return text is not None
    if comparator in ("LIKE", "ILIKE"):
        return like(text, value, case=comparator == "LIKE")
    if comparator in ("IN", "NOT IN"):
        return (text in value) == (comparator == "IN")
    return COMPARE[comparator](text, value)


quoted = st.sampled_from(TEXTS).map(lambda text: (text, "'" + text.replace("'", "''") + "'"))
patterns = st.text("aAb%_[*?'", max_size=3).map(lambda text: (text, "'" + text.replace("'", "''") + "'"))
Piece = tuple[str, str, str, Any, str]


@st.composite
def clauses(draw: st.DrawFn) -> Piece:
    """Entity, key, comparator, value, and how it is written."""
    kind = draw(st.sampled_from(["metrics", "params", "tags", "attributes"]))
    if kind == "metrics":
        key, written = draw(st.sampled_from([("m", "metrics.m"), ("a b", "metric.`a b`"), ("a b", 'metrics."a b"')]))
        number = draw(st.sampled_from([-1.5, 0, 0.5, 2, 1e3]))
        comparator = draw(st.sampled_from(list(COMPARE)))
        return kind, key, comparator, number, f"{written} {comparator} {number}"
    keys = {
        "params": [("p", "params.p"), ("p", "parameter.`p`"), ("q", "param.q")],
        "tags": [("mlflow.t", "tags.mlflow.t"), ("mlflow.t", "tag.`mlflow.t`")],
        "attributes": [("run_name", "run_name"), ("run_name", "attributes.run_name"), ("run_name", '"run name"')],
    }
    key, written = draw(st.sampled_from(keys[kind]))
    nulls = ["IS NULL", "IS NOT NULL"] if kind != "attributes" else []
    comparator = draw(st.sampled_from(["=", "!=", "LIKE", "ILIKE", *nulls]))
    if comparator in nulls:
        return kind, key, comparator, None, f"{written} {comparator.lower()}"
    value, text = draw(patterns if "LIKE" in comparator else quoted)
    return kind, key, comparator, value, f"{written} {comparator} {text}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)
@given(
    pieces=st.lists(clauses(), max_size=3),
    limit=st.integers(1, 40),
    order=st.sampled_from(
        [
            [],
            ["metrics.m DESC"],
            ["metrics.m"],
            ["params.p DESC", "metrics.`a b`"],
            ["start_time ASC"],
            ["tags.`mlflow.t`"],
            ["max:metrics.m DESC", "params.p"],
            ["min:metrics.`a b`"],
        ]
    ),
    few=st.sampled_from([0, 20, run_scope.FEW]),
)
def test_a_search_finds_what_a_plain_evaluator_finds_and_its_pages_are_the_whole(
    many: Many, monkeypatch: pytest.MonkeyPatch, pieces: list[Piece], limit: int, order: list[str], few: int
) -> None:
    """Also when each page is driven by another table, as what is few is not the same for all of them."""
    search, runs = many
    monkeypatch.setattr(run_scope, "FEW", few)
    filter = " AND ".join(piece[4] for piece in pieces)
    expected = {run.id for run in runs if all(holds(run, *piece[:4]) for piece in pieces)}
    whole = search.ids(filter, order_by=order)
    assert set(whole) == expected
    assert search.search.count([search.group.id], filter) == len(expected)
    monkeypatch.setattr(run_scope, "FEW", 40 if few == 0 else 0)
    paged: list[str] = []
    after = None
    while True:
        page = search.search.runs([search.group.id], filter, order_by=order, limit=limit, after=after)
        paged += [run.id for run in page.found]
        if page.next is None:
            break
        after = page.next
    assert paged == whole


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("aspect", ["", "min:", "max:"])
@pytest.mark.parametrize("few", [0, run_scope.FEW])
def test_numbers_come_first_then_what_is_none_then_runs_without(
    many: Many, monkeypatch: pytest.MonkeyPatch, descending: bool, aspect: str, few: int
) -> None:
    search, runs = many
    monkeypatch.setattr(run_scope, "FEW", few)
    by_id = {run.id: run for run in runs}
    found = search.ids(order_by=[f"{aspect}metrics.m {'DESC' if descending else 'ASC'}"])
    values = [by_id[one].metrics["m"].value if "m" in by_id[one].metrics else None for one in found]
    ranks = [2 if value is None else 1 if math.isnan(value) else 0 for value in values]
    assert ranks == sorted(ranks)
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    assert numbers == sorted(numbers, reverse=descending)
    assert len(found) == len(runs)


def test_the_newest_runs_come_first(many: Many) -> None:
    search, runs = many
    assert search.ids() == [run.id for run in sorted(runs, key=lambda run: (-run.started_at.timestamp(), run.id))]


def test_lists_and_datasets_are_searched(many: Many) -> None:
    search, runs = many
    first, second = runs[0].id, runs[1].id
    assert set(search.ids(f"run_id IN ('{first}', '{second}')")) == {first, second}
    assert len(search.ids(f"attributes.run_id NOT IN ('{first}')")) == len(runs) - 1
    data = DatasetInput(name="flights", digest="d1", tags={"mlflow.data.context": "train"})
    search.tracker.add_inputs(first, [data])
    assert search.ids("dataset.name = 'flights' AND datasets.context LIKE 'tr%'") == [first]
    assert search.ids("dataset.digest IN ('d2')") == []


@pytest.mark.parametrize(
    "filter",
    [
        "metrics.m > 'a'",
        "metrics.m LIKE 1",
        "params.p > '1'",
        "params.p = 1",
        "nonsense = 'a'",
        "planets.mars = 'red'",
        "metrics.m > 1 OR metrics.m < 0",
        "metrics.m > 1 metrics.m < 2",
        "params.p = 'a'; DROP TABLE run",
        "params.p = 'a' -- that is all",
        "1 = 1",
        "params.p = 'a",
        "params. = 'a'",
        "run_id IN ()",
        "run_id IN ('a'",
        "status IN ('FINISHED')",
        "metrics.m > 1e999",
        "metrics.m >",
        "attributes.run_id IS NULL",
        "x" * 30_000,
    ],
)
def test_what_is_not_of_the_grammar_is_refused_by_name(many: Many, filter: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        many.search.ids(filter)
    assert caught.value.field == "filter"


@pytest.mark.parametrize("order", ["metrics.", "datasets.name", "m; DROP TABLE run", "run_id ASC DESC", ""])
def test_an_order_that_is_none_is_refused(many: Many, order: str) -> None:
    with pytest.raises(InvalidInput):
        many.search.ids(order_by=[order])


@settings(max_examples=200)
@given(st.text("mp.`\"' =<>!()ANDINLKE1,\0é", max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse(text, RUNS)


@pytest.mark.parametrize(
    ("few", "filter", "order", "step"),
    [
        (0, "metrics.m > 0", ["metrics.m DESC"], "SEARCH o0 USING COVERING INDEX series_value (key=? AND value>?)"),
        (0, "params.p = 'a'", ["metrics.m DESC"], "SEARCH o0 USING COVERING INDEX series_value (key=? AND value>?)"),
        (0, "params.p = 'a'", [], "SEARCH run USING INDEX run_begun (experiment_id=?)"),
        (
            99,
            "metrics.m > 1 AND run_name LIKE 'r%'",
            [],
            "SEARCH few USING COVERING INDEX series_value (key=? AND value>?)",
        ),
        (
            99,
            "tags.`mlflow.t` = 'a'",
            ["max:metrics.m"],
            "SEARCH few USING COVERING INDEX tag_value (key=? AND value=?)",
        ),
        (99, "", ["metrics.m"], "SEARCH o0 USING INDEX sqlite_autoindex_series_1 (run_id=? AND key=?)"),
    ],
)
def test_a_search_is_driven_by_what_is_few_or_else_by_its_order(
    many: Many, monkeypatch: pytest.MonkeyPatch, few: int, filter: str, order: list[str], step: str
) -> None:
    """What is walked through is not sorted, and no table is read from its beginning."""
    search, _ = many
    monkeypatch.setattr(run_scope, "FEW", few)
    seen: list[str] = []
    with contextlib.closing(sqlite3.connect(search.path)) as db:
        db.row_factory = sqlite3.Row
        db.create_function("visible", 2, lambda kind, name: True)
        db.set_trace_callback(seen.append)
        search_on = RunSearch(Tracker(_Reading(db), search.tracker._artifacts, ManualClock(NOW)), search.tracker.groups)  # type: ignore[arg-type]
        search_on.runs([search.group.id], filter, order_by=order, limit=5)
        query = next(sql for sql in seen if sql.startswith("SELECT run.id"))
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert step in plan, plan
    assert not any(fnmatch.fnmatch(step, "*SCAN *") for step in plan), plan
    assert few or "USE TEMP B-TREE FOR ORDER BY" not in plan, plan


class _Reading:
    """Reads of a database, as SQLite sees them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def all(self, sql: str, parameters: Any = ()) -> list[sqlite3.Row]:
        return self._db.execute(sql, parameters).fetchall()
