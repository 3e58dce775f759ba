"""Expectations: what breaks them is held back with its reasons, nothing is lost, and the rest goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import Column, Expectation
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.online import Online
from mlbox.store.features.quality import Screened
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
COLUMNS = (
    Column(name="who", dtype="INT64"),
    Column(name="moment", dtype="TIMESTAMP"),
    Column(name="amount", dtype="FP64"),
    Column(name="city", dtype="STRING"),
)


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START)
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = Screened(self.db, self.offline, self.online, self.clock)
        self.store.add_source("sales", COLUMNS, "moment", None, actor="ann")

    def add(self, *rows: tuple[Any, ...]) -> int:
        kinds = (pa.int64(), pa.timestamp("us", "UTC"), pa.float64(), pa.string())
        arrays = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds)]
        return self.store.append("sales", pa.table(arrays, names=[c.name for c in COLUMNS]), actor="ann")

    def expect(self, **expected: Any) -> None:
        self.store.expect("sales", [Expectation(**expected)], actor="ann")

    def kept(self) -> list[tuple[Any, ...]]:
        if not self.store.source("sales").rows:
            return []
        return self.offline.rows('SELECT who, amount, city FROM "source:sales" ORDER BY who')

    def held(self) -> dict[int, tuple[str, ...]]:
        return {row.values["who"]: row.reasons for row in self.store.quarantined("sales", limit=1000)}

    def types(self) -> list[str]:
        return [event.type for event in self.db.events(subject="source:sales")]

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("expected", "reason", "good", "bad"),
    [
        ({"column": "amount", "min": 0}, "amount is below 0", [0.0, -0.0, 5.0, None, math.inf], [-1.0, math.nan]),
        ({"column": "amount", "max": 1.5}, "amount is above 1.5", [1.5, -math.inf], [1.6, math.nan]),
        ({"column": "amount", "dtype": "INT64"}, "amount is no INT64", [2.0, None], [0.5, math.nan, math.inf, 1e300]),
        ({"column": "amount", "max_nulls": 0}, "amount is null", [1.0], [None]),
        ({"column": "city", "values": ("a", "b")}, "city is none of its values", ["a", None], ["A", "", "ab"]),
        (
            {"column": "city", "pattern": "[a-c]+|x"},
            "city does not match its pattern",
            ["abc", "x", None],
            ["xa", "a\n"],
        ),
        ({"column": "city", "dtype": "FP64"}, "city is no FP64", ["1", "-.5e3", None], ["", "1_0", "nan ", "1,5"]),
        ({"column": "city", "dtype": "INT64"}, "city is no INT64", ["12", "-3"], ["1.0", "9" * 30]),
    ],
)
def test_each_rule_holds_back_what_breaks_it(
    house: House, expected: dict[str, Any], reason: str, good: list[Any], bad: list[Any]
) -> None:
    house.expect(**expected)
    place = ["who", "moment", "amount", "city"].index(expected["column"])
    rows = [[number, START, 1.0, "a"] for number in range(len(good) + len(bad))]
    for row, value in zip(rows, [*good, *bad], strict=True):
        row[place] = value
    assert house.add(*map(tuple, rows)) == len(good)
    assert [row[0] for row in house.kept()] == list(range(len(good)))
    assert house.held() == dict.fromkeys(range(len(good), len(rows)), (reason,))
    assert house.store.source("sales").rows == len(good)
    quality = house.store.quality("sales")
    assert (quality.quarantined, quality.reasons) == (len(bad), {reason: len(bad)})
    (event,) = [event for event in house.db.events() if event.type == "source.quarantined"]
    assert event.data == {"rows": len(bad)}


def test_times_have_a_range_and_a_row_may_break_several_rules(house: House) -> None:
    late = Expectation(column="moment", max="2026-01-01T00:00:00Z")
    house.store.expect(
        "sales", [late, Expectation(column="amount", min=0), Expectation(column="who", max=5)], actor="ann"
    )
    assert house.add((1, START, 1.0, "a"), (9, START + timedelta(microseconds=1), -1.0, "b")) == 1
    assert house.held() == {9: ("amount is below 0", "moment is above 2026-01-01T00:00:00Z", "who is above 5")}


def test_a_share_of_nulls_is_of_the_load(house: House) -> None:
    house.expect(column="amount", max_nulls=0.5)
    assert house.add((1, START, None, "a"), (2, START, 1.0, "a")) == 2
    assert house.add((3, START, None, "a"), (4, START, None, "a"), (5, START, 1.0, "a")) == 1
    reason = "amount is null in 0.667 of the load, at most 0.5 is expected"
    assert house.held() == {3: (reason,), 4: (reason,)}


one_row = st.tuples(st.none() | st.floats(-9, 9), st.none() | st.sampled_from("abc"))
rows = st.integers(1, 40).flatmap(lambda n: st.lists(one_row, min_size=n, max_size=n))


@given(st.lists(rows, min_size=1, max_size=4))
@settings(max_examples=8, deadline=None)
def test_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path_factory: pytest.TempPathFactory, loads: list[list[tuple[float | None, str | None]]]
) -> None:
    house = House(tmp_path_factory.mktemp("loads"))
    try:
        both = [Expectation(column="amount", min=0, max_nulls=0), Expectation(column="city", values=("a", "b"))]
        house.store.expect("sales", both, actor="ann")
        sent: dict[int, tuple[float | None, str | None]] = {}
        for load in loads:
            numbered = {len(sent) + n: row for n, row in enumerate(load)}
            sent |= numbered
            house.add(*[(who, START, *row) for who, row in numbered.items()])
        good = {who for who, (amount, city) in sent.items() if amount is not None and amount >= 0 and city != "c"}
        assert {row[0]: row[1:] for row in house.kept()} == {who: sent[who] for who in good}
        assert house.held().keys() == sent.keys() - good
        house.store.expect("sales", [], actor="ann")
        assert house.store.resubmit("sales", actor="ann") == len(sent) - len(good)
        assert {row[0]: row[1:] for row in house.kept()} == sent
        assert len(house.kept()) == len(sent)
        assert house.held() == {}
    finally:
        house.close()


def test_rows_are_sent_again_with_corrections(house: House) -> None:
    house.expect(column="amount", min=0, max=10)
    house.add((1, START, -1.0, "a"), (2, START, -2.0, "b"), (3, START, 99.0, "c"), (4, START, 4.0, "d"))
    first, second, third = house.store.quarantined("sales")
    assert house.store.quarantined("sales", limit=1, after=first.id) == [second]
    assert (first.by, first.at, first.values["moment"]) == ("ann", START, START)
    corrections = {first.id: {"amount": 1, "moment": "2026-01-02T00:00Z"}, second.id: {"amount": -5.0}}
    assert house.store.resubmit("sales", ids=[first.id], corrections=corrections, actor="bea") == 1
    assert house.kept() == [(1, 1.0, "a"), (4, 4.0, "d")]
    left = {row.values["who"]: (row.values["amount"], row.by) for row in house.store.quarantined("sales")}
    assert left == {2: (-5.0, "bea"), 3: (99.0, "ann")}
    assert house.store.resubmit("sales", ids=[third.id], actor="bea") == 0, "it breaks the same rule again"
    assert house.held().keys() == {2, 3}
    event = next(event for event in house.db.events() if event.type == "source.resubmitted")
    assert (event.actor, event.data) == ("bea", {"rows": 0, "held": 1})
    with pytest.raises(InvalidInput, match="no row 4711"):
        house.store.resubmit("sales", ids=[4711], actor="bea")
    for wrong in ({"amuont": 1}, {"amount": "x"}, {"moment": None}):
        with pytest.raises(InvalidInput):
            house.store.resubmit("sales", corrections={third.id: wrong}, actor="bea")
    assert house.held().keys() == {2, 3}


def test_what_fails_leaves_neither_rows_nor_quarantine(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.expect(column="amount", min=0)
    house.add((0, START, -1.0, "a"), (1, START, 1.0, "a"))

    def fail(*_: Any, **__: Any) -> int:
        raise Unavailable("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "_insert", fail)
        with pytest.raises(Unavailable):
            house.add((2, START, -1.0, "a"), (3, START, 1.0, "a"))
        with pytest.raises(Unavailable):
            house.store.resubmit("sales", actor="ann")
    assert (house.held().keys(), [row[0] for row in house.kept()]) == ({0}, [1])


@pytest.mark.parametrize(
    ("expected", "field"),
    [
        ({"column": "amuont"}, "column"),
        ({"column": "amount", "min": "x"}, "min"),
        ({"column": "amount", "min": 2, "max": 1}, "min"),
        ({"column": "moment", "min": 3}, "min"),
        ({"column": "moment", "max": "soon"}, "max"),
        ({"column": "city", "min": 1}, "min"),
        ({"column": "city", "pattern": "("}, "pattern"),
        ({"column": "city", "pattern": r"(a)\1"}, "pattern"),
        ({"column": "amount", "pattern": "a"}, "values"),
        ({"column": "amount", "dtype": "STRING"}, "dtype"),
        ({"column": "amount", "max_nulls": 1.5}, "max_nulls"),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused(house: House, expected: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.expect(**expected)
    assert caught.value.field == f"expectations.0.{field}"
    assert house.store.expectations("sales") == ()


def test_a_source_without_expectations_has_no_quarantine(house: House) -> None:
    assert house.add((1, START, None, None)) == 1
    quality = house.store.quality("sales")
    assert (quality.quarantined, quality.expectations, house.store.quarantined("sales")) == (0, (), [])
    assert house.store.resubmit("sales", actor="ann") == 0
    with pytest.raises(NotFound):
        house.store.quality("nothing")
