"""Pushes, direct writes and backfills: the same rule offline and online, whatever comes first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.store.features.features import To
from tests.store.test_features import REF, SPEC, START, House, asked, moment, sales

TOTAL = "SELECT who, shop, sum(amount) AS amount, max(happened) AS event_time, max(known) AS arrival_time FROM sales GROUP BY ALL"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.with_sales()
    built.clock.advance(moment(10))
    yield built
    built.close()


def pushed(*rows: tuple[str, int, float, float | None]) -> pa.Table:
    """Rows of user, shop, event second and amount, without a word on when they became known."""
    return sales(*[(who, shop, at, 0.0, amount) for who, shop, at, amount in rows]).drop_columns(["known"])


def online(house: House, who: str = "a", shop: int = 1) -> Any:
    (row,) = house.store.online_features([REF], [{"who": who, "shop": shop}])
    return row.values[REF]


def test_a_push_is_known_from_now_on_and_online_at_once(house: House) -> None:
    told = house.store.push("sales", pushed(("a", 1, 4, 1.0), ("a", 1, 3, 2.0), ("b", 1, 4, None)), actor="ann")
    assert (told.rows, told.quarantined, told.online) == (3, 0, 2)
    assert online(house) == 1.0
    assert asked(house.store, ("a", 1, 9), ("a", 1, 10)) == [None, 1.0]
    later = house.store.historical(
        [REF], pa.table({"who": ["a"], "shop": [1], "at": [moment(3.5)]}), event_time="at", known="latest"
    )
    assert later.column(REF).to_pylist() == [2.0]
    assert house.store.materialize() == 2  # the same once more: nothing changes
    assert online(house) == 1.0


def test_a_push_says_when_it_became_known_if_it_knows(house: House) -> None:
    house.store.push("sales", sales(("a", 1, 4, 5, 1.0)), actor="ann")
    assert asked(house.store, ("a", 1, 4), ("a", 1, 5)) == [None, 1.0]


@pytest.mark.parametrize(
    ("to", "offline", "now"), [("offline", 1, None), ("online", 0, 1.0), ("online_and_offline", 1, 1.0)]
)
def test_a_push_goes_where_it_is_sent(house: House, to: To, offline: int, now: float | None) -> None:
    house.store.push("sales", pushed(("a", 1, 4, 1.0)), to=to, actor="ann")
    assert (house.store.source("sales").rows, online(house)) == (offline, now)


def test_an_event_to_come_waits_for_its_time(house: House) -> None:
    assert house.store.push("sales", pushed(("a", 1, 12, 1.0)), actor="ann").online == 0
    assert online(house) is None
    house.clock.advance(moment(12))
    house.store.materialize()
    assert online(house) == 1.0


def test_an_aggregate_is_online_at_its_next_materialization(house: House) -> None:
    view = house.store.apply_view(msgspec.structs.replace(SPEC, name="total", sql=TOTAL), actor="ann")
    assert house.store.push("sales", pushed(("a", 1, 4, 1.0)), actor="ann").online == 1
    (row,) = house.store.online_features([f"{view.ref}:amount"], [{"who": "a", "shop": 1}])
    assert row.statuses == {f"{view.ref}:amount": "NOT_FOUND"}
    house.store.materialize()
    (row,) = house.store.online_features([f"{view.ref}:amount"], [{"who": "a", "shop": 1}])
    assert row.values == {f"{view.ref}:amount": 1.0}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("house"))
    built.with_sales()
    built.clock.advance(moment(10))
    yield built
    built.close()


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 99)),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[:2],
    )
)
def test_the_newer_event_wins_in_any_order(lasting: House, rows: list[Any]) -> None:
    house, shop = lasting, lasting.store.source("sales").rows + 100  # one that no other example has
    ways: tuple[To, ...] = ("online_and_offline", "online")
    for number, (who, at, amount) in enumerate(rows):
        house.store.push("sales", pushed((who, shop, at, float(amount))), to=ways[number % 2], actor="ann")
        if number % 3 == 0:
            house.store.materialize()
    for who in {who for who, _, _ in rows}:
        _, last = max((at, amount) for one, at, amount in rows if one == who)
        assert online(house, who, shop) == float(last)


def given_rows(**changes: list[Any]) -> pa.Table:
    return pa.table({"who": ["a"], "shop": [1], "amount": [7.0], "event_time": [moment(5)], **changes})


def test_rows_written_online_are_online_and_nowhere_else(house: House) -> None:
    assert house.store.write_online("spend", given_rows(), actor="ann") == 1
    assert house.store.write_online("spend@v1", given_rows(event_time=[moment(4)], amount=[1.0]), actor="ann") == 0
    (row,) = house.store.online_features([REF], [{"who": "a", "shop": 1}])
    assert (row.values, row.statuses, row.event_times) == ({REF: 7.0}, {REF: "PRESENT"}, {REF: moment(5)})
    assert asked(house.store, ("a", 1, 9)) == [None]
    house.store.append("sales", sales(("a", 1, 4, 4, 3.0)), actor="ann")
    house.store.materialize()
    assert online(house) == 7.0  # the event at 5 s is newer


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shop": [None]}, "shop"),
        ({"event_time": [None]}, "event_time"),
        ({"amount": ["much"]}, "amount"),
        ({"size": [1]}, "size"),
    ],
)
def test_rows_that_are_none_of_the_view_are_refused(house: House, changes: dict[str, list[Any]], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.store.write_online("spend", given_rows(**changes), actor="ann")
    assert caught.value.field == field
    with pytest.raises(NotFound):
        house.store.write_online("spent", given_rows(), actor="ann")
    assert online(house) is None


@pytest.mark.parametrize("whole", [False, True])
def test_a_row_that_nobody_could_look_up_is_refused(house: House, whole: bool) -> None:
    """Unless there is a view, as that of whole shops, whose keys it has."""
    if whole:
        sql = "SELECT shop, amount, happened AS event_time, known AS arrival_time FROM sales"
        house.store.apply_view(
            msgspec.structs.replace(SPEC, name="shops", join_keys=SPEC.join_keys[1:], sql=sql), actor="ann"
        )
    rows = sales(("a", 1, 4, 4, 1.0), (None, 1, 4, 4, 2.0))
    if whole:
        assert house.store.push("sales", rows, actor="ann").rows == 2
        (row,) = house.store.online_features(["shops:amount"], [{"shop": 1}])
        assert row.values == {"shops@v1:amount": 2.0}
    else:
        with pytest.raises(InvalidInput, match="'who' is missing in row 2, and spend@v1 is looked up by it") as caught:
            house.store.push("sales", rows, actor="ann")
        assert caught.value.field == "who"
        assert (house.store.source("sales").rows, online(house)) == (0, None)


def test_a_view_that_only_picks_columns_needs_no_process_and_says_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = SPEC.sql.replace("amount,", "coalesce(amount) AS amount,")
    house.store.apply_view(msgspec.structs.replace(SPEC, name="computed", sql=computed), actor="ann")
    asked_for = list[Any]()
    run = house.store._sandbox.run
    monkeypatch.setattr(
        house.store._sandbox, "run", lambda *args, **what: (asked_for.append(what["view"].name), run(*args, **what))[1]
    )
    house.store.push("sales", pushed(("a", 1, 4, 1.0), ("a", 1, 3, 2.0), ("b", 2, 4, None)), actor="ann")
    house.store.append("sales", sales(("a", 1, 5, 6, 3.0), ("b", 2, 4, 8, 4.0)), actor="ann")
    house.store.materialize()
    assert set(asked_for) == {"computed"}
    refs = [REF, "computed@v1:amount"]
    now = house.store.online_features(refs, [{"who": "a", "shop": 1}, {"who": "b", "shop": 2}])
    assert [list(row.values.values()) for row in now] == [[3.0, 3.0], [None, None]]
    rows = pa.table(
        {"who": ["a", "a", "b", "b"], "shop": [1, 1, 2, 2], "at": [moment(second) for second in (4, 12) * 2]}
    )
    for known in ("then", "latest"):
        found = house.store.historical(refs, rows, event_time="at", known=known)  # type: ignore[arg-type]
        assert found.column(REF).to_pylist() == found.column(refs[1]).to_pylist()
        assert any(value is not None for value in found.column(REF).to_pylist())


@pytest.mark.parametrize(
    ("sql", "picks"),
    [
        ("SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales", True),
        ("SELECT s.who, shop, amount, s.happened AS event_time, known arrival_time FROM sales AS s", True),
        ("SELECT who, shop, known AS amount, happened AS event_time, known AS arrival_time FROM sales", True),
        ("SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales WHERE shop > 0", False),
        ("SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales LIMIT 3", False),
        ("SELECT DISTINCT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales", False),
        ("SELECT who, shop, 2.0 AS amount, happened AS event_time, known AS arrival_time FROM sales", False),
        ("SELECT *, happened AS event_time, known AS arrival_time FROM sales", False),
        ("SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales GROUP BY ALL", False),
        (
            "WITH s AS (FROM sales) SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM s",
            False,
        ),
    ],
)
def test_what_only_picks_columns_is_known_by_its_tree(house: House, sql: str, picks: bool) -> None:
    features = (
        SPEC.features
        if "known AS amount" not in sql
        else (msgspec.structs.replace(SPEC.features[0], dtype="TIMESTAMP"),)
    )
    view = house.store.apply_view(msgspec.structs.replace(SPEC, name="seen", sql=sql, features=features), actor="ann")
    assert (house.store._shape(view).picked is not None) is picks


def test_null_is_not_unknown(house: House) -> None:
    house.store.push("sales", pushed(("a", 1, 4, None)), actor="ann")
    entities = [{"who": "a", "shop": 1}, {"who": "z", "shop": 1}]
    found = house.store.online_features([REF], entities)
    assert [(row.statuses[REF], row.event_times[REF]) for row in found] == [("NULL", moment(4)), ("NOT_FOUND", None)]
    house.clock.advance(moment(14.5))
    (late,) = house.store.online_features([REF], entities[:1])
    assert (late.statuses[REF], late.event_times[REF]) == ("OUTSIDE_MAX_AGE", moment(4))
    vectors = house.store.online_vectors([REF], entities)
    assert (len(vectors), vectors.features, vectors.values(1), vectors.statuses(0)) == (
        2,
        (REF,),
        (None,),
        ["OUTSIDE_MAX_AGE"],
    )


# -- spans and parts ------------------------------------------------------------------------------------------------------------


def test_a_backfill_writes_the_events_of_its_span(house: House) -> None:
    rows = [("a", 1, second, second, float(second)) for second in range(1, 10)]
    house.store.append("sales", sales(*rows, ("b", 1, 2, 2, 2.0)), actor="ann")
    assert house.store.materialize("spend", start=moment(2), end=moment(6)) == 1
    assert (online(house), online(house, "b")) == (6.0, None)
    assert house.store.materialize("spend", start=moment(0), end=moment(3)) == 1
    assert (online(house), online(house, "b")) == (6.0, 2.0)
    assert house.store.materialize("spend") == 2
    assert online(house) == 9.0
    with pytest.raises(InvalidInput, match="not before"):
        house.store.materialize("spend", start=moment(3), end=moment(3))


def test_a_full_run_writes_everything_again(house: House) -> None:
    house.store.append("sales", sales(("a", 1, 1, 1, 1.0), ("b", 1, 2, 2, 2.0)), actor="ann")
    assert [house.store.materialize(), house.store.materialize(), house.store.materialize(full=True)] == [2, 0, 2]


def test_a_run_that_broke_off_goes_on_at_its_part(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.store.features.changes.PART_ROWS", 10)
    rows = sales(*[(f"u{n}", 1, 1, 1, float(n)) for n in range(100)])
    house.store.append("sales", rows, actor="ann")
    put, calls, seen = house.online.put, [0], []

    def full_after(*args: Any, **options: Any) -> int:
        calls[0] += 1
        seen.append(dict(house.store.progress()))
        if calls[0] == 4:
            raise Unavailable("The disk is full.")
        return put(*args, **options)

    monkeypatch.setattr(house.online, "put", full_after)
    with pytest.raises(Unavailable):
        house.store.materialize("spend")
    kept = len(house.online)
    assert 0 < kept < 100
    assert seen == [{"spend@v1": (part, 10)} for part in range(4)]
    house.clock.advance(moment(11))
    assert house.store.materialize("spend") == 100 - kept
    assert seen[4:] == [{"spend@v1": (part, 10)} for part in range(3, 10)]
    assert [online(house, f"u{n}") for n in range(100)] == [float(n) for n in range(100)]
    assert house.store.progress() == {}
    assert house.store.materialize("spend") == 0


def test_times_before_1970_and_features_that_are_times(house: House) -> None:
    assert START.year == 2026
    columns = [
        *SPEC.join_keys,
        *(msgspec.structs.replace(SPEC.join_keys[0], name=name, dtype="TIMESTAMP") for name in ("happened", "due")),
    ]
    house.store.add_source("bills", columns, "happened", None, actor="ann")
    sql = "SELECT who, shop, due, happened AS event_time FROM bills"
    spec = msgspec.structs.replace(
        SPEC, name="bill", features=(columns[3],), sql=sql, sources=("bills",), ttl_seconds=None
    )
    house.store.apply_view(spec, actor="ann")
    rows = pa.table({"who": ["a"], "shop": [1], "due": [moment(0.5)], "happened": [moment(-80 * 366 * 86_400)]})
    house.store.push("bills", rows, actor="ann")
    (row,) = house.store.online_features(["bill:due"], [{"who": "a", "shop": 1}])
    assert row.values == {"bill@v1:due": "2026-01-01T00:00:00.500000+00:00"}
    assert row.event_times == {"bill@v1:due": moment(-80 * 366 * 86_400)}
