"""Features that repeat others are named before they are made, whatever they are called, and looking never does harm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import Column, ViewFunction, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.alike import LEAST_PAIRS, equal_share, find_alike, normalised, spearman
from mlbox.store.features.functions import Functions
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
WHO = Column(name="who", dtype="STRING")
COLUMNS = (
    WHO,
    Column(name="moment", dtype="TIMESTAMP"),
    *(Column(name=name, dtype="FP64") for name in ("amount", "noise")),
    Column(name="city", dtype="STRING"),
)
PEOPLE = 300


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START + timedelta(days=1))
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = Functions(self.db, self.offline, self.online, self.clock)
        self.store.add_source("sales", COLUMNS, "moment", None, actor="ann")
        rng = np.random.default_rng(0)
        rows: dict[str, Any] = {
            "who": [f"p{number}" for number in range(PEOPLE)] * 2,
            "moment": pa.array([START + timedelta(minutes=n) for n in range(PEOPLE * 2)], pa.timestamp("us", "UTC")),
            "amount": rng.normal(10, 3, PEOPLE * 2),
            "noise": rng.normal(0, 1, PEOPLE * 2),
            "city": rng.choice(["Rome", "Oslo", "Lima"], PEOPLE * 2),
        }
        self.store.append("sales", pa.table(rows), actor="ann")

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def spec(name: str, sql: str, *features: Column, keys: tuple[Column, ...] = (WHO,)) -> ViewSpec:
    chosen = features or (Column(name="amount", dtype="FP64"),)
    return ViewSpec(name=name, join_keys=keys, features=chosen, sql=sql, sources=("sales",))


SPEND = spec("spend", "SELECT who, amount, moment AS event_time FROM sales")


def found(house: House, wanted: ViewSpec) -> list[tuple[str, str, str]]:
    return [(one.feature, one.other, one.why) for one in find_alike(house.store, wanted)]


@pytest.mark.parametrize(
    "sql",
    [
        "select WHO, amount   as paid, moment event_time from SALES ;",
        "SELECT s.who, s.amount AS paid, s.moment AS event_time FROM sales AS s ORDER BY s.moment",
        "SELECT moment AS event_time, Sales.AMOUNT AS paid, -- what was paid\n who FROM sales",
    ],
)
def test_the_same_sql_in_another_layout_is_the_same(house: House, sql: str) -> None:
    house.store.apply_view(SPEND, actor="ann")
    again = spec("payments", sql, Column(name="paid", dtype="FP64"))
    house.store.try_view(again)
    assert found(house, again) == [("paid", "spend@v1:amount", "same SQL")]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT who, noise AS amount, moment AS event_time FROM sales",
        "SELECT who, -noise * noise AS amount, moment AS event_time FROM sales",
    ],
)
def test_other_values_are_no_repetition(house: House, sql: str) -> None:
    house.store.apply_view(SPEND, actor="ann")
    assert found(house, spec("other", sql)) == []


def test_a_filter_a_time_and_a_type_make_other_sql(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    for sql in (
        "SELECT who, amount, moment AS event_time FROM sales WHERE amount > 0",
        "SELECT who, amount, moment + INTERVAL 1 HOUR AS event_time FROM sales",
        "SELECT who, amount, moment AS event_time FROM sales LIMIT 600",
    ):
        assert "same SQL" not in [why for *_, why in found(house, spec("other", sql))], sql


def test_values_that_rise_or_fall_together_are_found(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    rising = spec("logs", "SELECT who, exp(amount / 5) AS amount, moment AS event_time FROM sales")
    falling = spec("minus", "SELECT who, 7 - amount AS amount, moment AS event_time FROM sales")
    assert [one.correlation for one in find_alike(house.store, rising)] == [pytest.approx(1.0)]
    assert [one.correlation for one in find_alike(house.store, falling)] == [pytest.approx(-1.0)]
    assert found(house, rising) == [("amount", "spend@v1:amount", "same values")]
    house.store.refresh(house.store.view("spend"))  # from its table as from its SQL
    assert found(house, rising) == [("amount", "spend@v1:amount", "same values")]


def test_a_little_noise_is_alike_and_much_is_not(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    for share, alike in ((0.01, True), (2.0, False)):
        sql = f"SELECT who, amount + {share} * noise AS amount, moment AS event_time FROM sales"
        assert bool(found(house, spec("noisy", sql))) is alike


def test_texts_are_compared_by_the_share_of_equal_ones(house: House) -> None:
    city = Column(name="city", dtype="STRING")
    house.store.apply_view(spec("homes", "SELECT who, city, moment AS event_time FROM sales", city), actor="ann")
    same = spec("towns", "SELECT who, trim(city) AS city, moment AS event_time FROM sales", city)
    other = spec("towns", "SELECT who, upper(city) AS city, moment AS event_time FROM sales", city)
    assert found(house, same) == [("city", "homes@v1:city", "same values")]
    assert found(house, other) == []


def test_only_views_of_the_same_entity_and_only_others_are_looked_at(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    assert found(house, SPEND) == []
    by_city = msgspec.structs.replace(SPEND, name="towns", join_keys=(Column(name="city", dtype="STRING"),))
    assert found(house, by_city) == []


def test_few_entities_say_nothing(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    few = spec("few", f"SELECT who, amount * 2 AS amount, moment AS event_time FROM sales LIMIT {LEAST_PAIRS - 1}")
    assert found(house, few) == []


def test_what_cannot_be_computed_is_left_out_and_nothing_fails(house: House) -> None:
    failing = spec("fails", "SELECT who, CAST(city AS DOUBLE) AS amount, moment AS event_time FROM sales")
    house.store.apply_view(failing, actor="ann")
    house.store.apply_view(SPEND, actor="ann")
    doubled = spec("double", "SELECT who, amount * 2 AS amount, moment AS event_time FROM sales")
    assert found(house, doubled) == [("amount", "spend@v1:amount", "same values")]
    for sql in ("SELECT nothing", "no SQL at all", failing.sql + " ", "SELECT who, amount FROM elsewhere"):
        assert find_alike(house.store, spec("broken", sql)) is not None
    gone = msgspec.structs.replace(SPEND, name="gone", sources=("nothing", "spend@v9"))
    assert [one.why for one in find_alike(house.store, gone)] in ([], ["same SQL"])


def test_it_ends_in_time(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    slow = spec(
        "slow",
        "SELECT a.who, sum(a.amount * b.amount * c.range) AS amount, max(a.moment) AS event_time"
        " FROM sales a, sales b, range(100000000) c GROUP BY a.who",
    )
    assert find_alike(house.store, slow, seconds=0.2) == []


def test_a_sample_is_the_same_every_time_and_as_large_as_said(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    doubled = spec("double", "SELECT who, amount * 2 AS amount, moment AS event_time FROM sales")
    assert find_alike(house.store, doubled, sample=LEAST_PAIRS - 1) == []
    first = find_alike(house.store, doubled, sample=100)
    assert first == find_alike(house.store, doubled, sample=100)
    assert [one.why for one in first] == ["same values"]


def test_expressions_are_told_apart_one_by_one(house: House) -> None:
    view = spec(
        "two",
        "SELECT who, amount * 2 AS a, amount * 3 AS b, moment AS event_time FROM sales s",
        Column(name="a", dtype="FP64"),
        Column(name="b", dtype="FP64"),
    )
    texts = normalised(house.store, view)
    assert texts["a"] != texts["b"]
    swapped = msgspec.structs.replace(
        view, name="swapped", sql="SELECT amount*3 AS a, amount*2 AS b, who, moment AS event_time FROM sales"
    )
    other = normalised(house.store, swapped)
    assert (other["a"], other["b"]) == (texts["b"], texts["a"])


def test_joined_tables_may_be_called_anything_and_not_be_swapped(house: House) -> None:
    sql = "SELECT {0}.who, {1}.amount, {0}.moment AS event_time FROM sales {0} JOIN sales {1} ON {0}.who = {1}.who"
    texts = [normalised(house.store, spec("x", sql.format(*names))) for names in (("a", "b"), ("left_one", "B2"))]
    swapped = sql.replace("{1}.amount", "{0}.amount").format("a", "b")
    assert texts[0] == texts[1]
    assert normalised(house.store, spec("x", swapped)) != texts[0]


numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 1)) | st.integers(-3, 3).map(float) | st.just(math.nan)
pairs = st.lists(st.tuples(numbers, numbers), min_size=0, max_size=120)


@given(pairs)
@settings(max_examples=300, deadline=None)
def test_the_correlation_is_scipys(drawn: list[tuple[float, float]]) -> None:
    a, b = (np.array([pair[side] for pair in drawn], np.float64) for side in (0, 1))
    both = ~(np.isnan(a) | np.isnan(b))
    ours = spearman(a, b)
    if both.sum() < LEAST_PAIRS or len(set(a[both])) < 2 or len(set(b[both])) < 2:
        assert ours is None
    else:
        assert ours == pytest.approx(stats.spearmanr(a[both], b[both]).statistic, abs=1e-9)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["a", "b", None])), max_size=150))
def test_the_share_of_equal_texts_is_of_pairs_that_are_there(drawn: list[tuple[str | None, str | None]]) -> None:
    ours = equal_share([a for a, _ in drawn], [b for _, b in drawn])
    there = [(a, b) for a, b in drawn if a is not None and b is not None]
    if len(there) < LEAST_PAIRS or len({a for a, _ in there}) < 2 or len({b for _, b in there}) < 2:
        assert ours is None
    else:
        assert ours == sum(a == b for a, b in there) / len(there)


def in_python(name: str, text: str = "same", **changes: Any) -> ViewSpec:
    function = ViewFunction(name=name, file="features.py", snapshot="s", code=f"{name} {text}", text=text, **changes)
    features = (Column(name="amount", dtype="FP64"),)
    return ViewSpec(name=name, join_keys=(WHO,), features=features, function=function, sources=("sales",))


def feed(house: House, ref: str, job: str, values: Any) -> None:
    """Have a run of a view's function yield a value for each person."""
    rows = {
        "who": [f"p{number}" for number in range(PEOPLE)],
        "amount": pa.array(values, pa.float64()),
        "event_time": pa.array([START] * PEOPLE, pa.timestamp("us")),
        "arrival_time": pa.array([None] * PEOPLE, pa.timestamp("us")),
    }
    view = house.store.view(ref)
    house.store.feed_view(view, job, pa.table(rows), as_of=house.clock.now())
    house.store.refresh(view)


def test_the_same_function_is_the_same_whatever_it_is_called(house: House) -> None:
    house.store.apply_view(in_python("spread"), actor="ann")
    assert found(house, in_python("width")) == [("amount", "spread@v1:amount", "same function")]
    assert found(house, in_python("other", "another")) == []
    assert found(house, in_python("longer", window_seconds=60)) == [], "what it looks at is another"
    assert found(house, in_python("unsaid", "")) == []


def test_what_functions_yield_is_compared_once_they_have_run(house: House) -> None:
    house.store.apply_view(SPEND, actor="ann")
    house.store.apply_view(in_python("spread", "one"), actor="ann")
    doubled = spec("doubled", "SELECT who, 2 * amount AS amount, moment AS event_time FROM sales")
    assert ("amount", "spread@v1:amount", "same values") not in found(house, doubled)
    latest = house.store._offline.rows(
        'SELECT last(amount ORDER BY moment) FROM "source:sales" GROUP BY who ORDER BY CAST(who[2:] AS INT)'
    )
    feed(house, "spread@v1", "j1", [value for (value,) in latest])
    assert ("amount", "spread@v1:amount", "same values") in found(house, doubled)
    assert found(house, in_python("spread", "two")) == [("amount", "spend@v1:amount", "same values")]
    assert found(house, in_python("newer", "two")) == [], "there is nothing yet to compare"
