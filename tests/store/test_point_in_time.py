"""The one rule of the feature store, against a plain loop: what had happened, was known, and is fresh, the latest of it.

Each case is a small world: two sources, of which one says when its rows became known, that are loaded and pushed into over time
and in any order; views by row, over a window and over another view, with one key and with two. History is asked for in several
zones, and the online store is read at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.records import Column, ViewSpec
from mlbox.store.features.features import FeatureStore
from tests.store.test_features import START, House, moment

WHO, SHOP = Column(name="who", dtype="STRING"), Column(name="shop", dtype="INT64")
AMOUNT = Column(name="amount", dtype="FP64")
TIMES = (Column(name="happened", dtype="TIMESTAMP"), Column(name="known", dtype="TIMESTAMP"))
ZONES = (UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-8)))


class Row(NamedTuple):
    """A row of a source, in seconds after the start; `known` counts for the source that says so."""

    who: str
    shop: int
    happened: int
    known: int
    amount: float | None


class Step(NamedTuple):
    """At a second, rows come into both sources: loaded, or pushed and so known from that second on."""

    at: int
    pushed: bool
    rows: list[Row]


class Fact(NamedTuple):
    """A row as a view sees it."""

    key: tuple[Any, ...]
    event: int
    arrival: int
    order: int
    value: float | None


rows = st.builds(
    Row,
    who=st.sampled_from("abcdefgh"),
    shop=st.sampled_from([1, 2]),
    happened=st.integers(0, 9),
    known=st.integers(0, 9),
    amount=st.one_of(st.none(), st.integers(0, 3).map(float)),
)
batches = st.integers(0, 20).flatmap(lambda n: st.lists(rows, min_size=n, max_size=n))
steps = st.lists(st.builds(Step, at=st.integers(0, 9), pushed=st.booleans(), rows=batches), min_size=1, max_size=4)
"""A world has many entities, each a case of its own: what costs is the world."""
one_ask = st.tuples(st.sampled_from("abcdefghz"), st.sampled_from([1, 2, 3]), st.integers(0, 10))
asks = st.integers(1, 60).flatmap(lambda n: st.lists(one_ask, min_size=n, max_size=n))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("house"))
    yield built
    built.close()


def arrow(rows: list[Row], *, known: bool) -> pa.Table:
    zone = "+05:45"
    columns = {
        "amount": pa.array([row.amount for row in rows], pa.float64()),
        "happened": pa.array([moment(row.happened) for row in rows], pa.timestamp("ns", zone)),
        "shop": pa.array([row.shop for row in rows], pa.int32()),
        "who": pa.array([row.who for row in rows], pa.string()),
    }
    if known:
        columns["known"] = pa.array([moment(row.known) for row in rows], pa.timestamp("ms"))
    return pa.table(columns)


def specs(name: str, ttl: int | None) -> dict[str, tuple[ViewSpec, str, bool]]:
    """Views by what they are, with the source that they come from and whether it says when rows became known."""
    late = f"{name}_late"
    by_row = f"SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM {late}"
    plain = f"SELECT who, 10 * amount AS amount, happened AS event_time FROM {name} WHERE shop > 0"
    window = (
        "SELECT who, shop, amount, happened AS event_time, known AS arrival_time,"
        f" FROM {late} QUALIFY row_number() OVER (PARTITION BY who, shop, happened, known, amount) > 0"
    )

    def spec(suffix: str, sql: str, sources: tuple[str, ...], *keys: Column) -> ViewSpec:
        return ViewSpec(
            name=f"{name}_{suffix}", join_keys=keys, features=(AMOUNT,), sql=sql, sources=sources, ttl_seconds=ttl
        )

    return {
        "row": (spec("row", by_row, (late,), WHO, SHOP), late, True),
        "plain": (spec("plain", plain, (name,), WHO), name, False),
        "window": (spec("window", window, (late,), WHO, SHOP), late, True),
    }


def over(name: str, ttl: int | None) -> ViewSpec:
    """A view over the view by row: a view's rows as they became visible."""
    sql = f"SELECT who, shop, -amount AS amount, event_time, arrival_time FROM {name}_row"
    return ViewSpec(
        name=f"{name}_over",
        join_keys=(WHO, SHOP),
        features=(AMOUNT,),
        sql=sql,
        sources=(f"{name}_row@v1",),
        ttl_seconds=ttl,
    )


def facts(done: list[Step], kind: str) -> list[Fact]:
    """What a view knows after some steps."""
    found = []
    for order, (step, row) in enumerate([(one, row) for one in done for row in one.rows]):
        if kind == "plain":
            arrival = step.at if step.pushed else row.happened
            found.append(Fact((row.who,), row.happened, arrival, order, _times(10, row.amount)))
        else:
            sign = -1 if kind == "over" else 1
            arrival = step.at if step.pushed else row.known
            found.append(Fact((row.who, row.shop), row.happened, arrival, order, _times(sign, row.amount)))
    return found


def _times(factor: float, amount: float | None) -> float | None:
    return None if amount is None else factor * amount


def answer(facts: list[Fact], key: tuple[Any, ...], now: int, ttl: int | None, *, latest: bool = False) -> Any:
    """The rule in words; the second of the event that answers, or None, and the value."""
    seen = [one for one in facts if one.key == key and one.event <= now and (latest or one.arrival <= now)]
    if not seen:
        return None
    best = max(seen, key=lambda one: (one.event, one.arrival, one.order))
    return best.value if ttl is None or now - best.event <= ttl else None


@settings(max_examples=8, deadline=None)
@given(steps=steps, ask=asks, ttl=st.sampled_from([2, None]))
@example(
    steps=[Step(5, pushed=True, rows=[Row("a", 1, 2, 2, 1.0)]), Step(6, pushed=False, rows=[Row("a", 1, 2, 1, 2.0)])],
    ask=[("a", 1, 4), ("a", 1, 5)],
    ttl=None,
)
def test_the_rule(house: House, steps: list[Step], ask: list[Any], ttl: int | None) -> None:
    check_world(house, sorted(steps, key=lambda step: step.at), ask, ttl)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(steps=steps, ask=asks, ttl=st.sampled_from([2, None]))
def test_the_rule_in_many_cases(house: House, steps: list[Step], ask: list[Any], ttl: int | None) -> None:
    check_world(house, sorted(steps, key=lambda step: step.at), ask, ttl)


def check_world(house: House, steps: list[Step], ask: list[Any], ttl: int | None) -> None:
    store, clock = house.store, ManualClock(START)
    store._clock = clock  # each case lives through its own time
    name = f"w{len(store.declarations())}"
    views = define(store, name, ttl)
    done: list[Step] = []
    for step in steps:
        clock.advance(moment(step.at))
        for source, known in ((name, False), (f"{name}_late", True)):
            if step.pushed:
                store.push(source, arrow(step.rows, known=False), actor="ann")
            else:
                store.append(source, arrow(step.rows, known=known), actor="ann")
        done.append(step)
        for ref in views.values():
            store.materialize(ref)
        check_online(store, views, done, ask, step.at, ttl)
    check_history(store, views, done, ask, ttl)


def define(store: FeatureStore, name: str, ttl: int | None) -> dict[str, str]:
    """Sources and views of a world; each view's reference by what it is."""
    for source, arrival in ((name, None), (f"{name}_late", "known")):
        columns = (WHO, SHOP, AMOUNT, *(TIMES if arrival else TIMES[:1]))
        store.add_source(source, columns, "happened", arrival, actor="ann")
    made = {kind: store.apply_view(spec, actor="ann").ref for kind, (spec, _, _) in specs(name, ttl).items()}
    return {**made, "over": store.apply_view(over(name, ttl), actor="ann").ref}


def check_online(
    store: FeatureStore, views: dict[str, str], done: list[Step], ask: list[Any], now: int, ttl: int | None
) -> None:
    entities = [{"who": who, "shop": shop} for who, shop, _ in ask]
    found = store.online_features([f"{ref}:amount" for ref in views.values()], entities)
    for row, (who, shop, _) in zip(found, ask, strict=True):
        for kind, ref in views.items():
            expected = answer(facts(done, kind), (who,) if kind == "plain" else (who, shop), now, ttl)
            assert row.values[f"{ref}:amount"] == expected, (kind, who, shop, now)


def check_history(
    store: FeatureStore, views: dict[str, str], done: list[Step], ask: list[Any], ttl: int | None
) -> None:
    at: list[datetime] = [moment(now).astimezone(ZONES[place % 3]) for place, (_, _, now) in enumerate(ask)]
    spine = pa.table(
        {
            "moment": pa.array(at, pa.timestamp("ns", "America/New_York")),
            "shop": pa.array([shop for _, shop, _ in ask], pa.int64()),
            "who": pa.array([who for who, _, _ in ask], pa.string()),
            "row": list(range(len(ask))),
        }
    )
    refs = {kind: f"{ref}:amount" for kind, ref in views.items()}
    questions: tuple[tuple[Any, bool], ...] = (("then", False), ("latest", True))
    for known, latest in questions:
        found = store.historical(list(refs.values()), spine, event_time="moment", known=known)
        assert found.column("row").to_pylist() == list(range(len(ask)))
        for kind, ref in refs.items():
            key: Callable[[Any], tuple[Any, ...]] = (lambda one: one[:1]) if kind == "plain" else (lambda one: one[:2])
            expected = [answer(facts(done, kind), key(one), one[2], ttl, latest=latest) for one in ask]
            assert found.column(ref).to_pylist() == expected, (kind, known)


def test_a_view_in_parts_is_the_view_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few rows each; entities go, come and change between the runs."""
    monkeypatch.setattr("mlbox.store.features.changes.PART_ROWS", 3)
    house = House(tmp_path)
    views = define(house.store, "w", None)
    done = []
    for at in range(5):
        house.clock.advance(moment(at))
        step = Step(
            at,
            pushed=False,
            rows=[Row(who, shop, at, at, at + shop) for who in "ab" for shop in (1, 2) if at % shop == 0],
        )
        house.store.append("w", arrow(step.rows, known=False), actor="ann")
        house.store.append("w_late", arrow(step.rows, known=True), actor="ann")
        done.append(step)
        house.store.materialize()
        check_online(house.store, views, done, [(who, shop, 0) for who in "abz" for shop in (1, 2)], at, None)
    house.close()
