"""The feature store: right at every point in time, the same online, and clear about what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import AlreadyExists, InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.records import Column, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
KEYS = (Column(name="who", dtype="STRING"), Column(name="shop", dtype="INT64"))
COLUMNS = (
    *KEYS,
    Column(name="happened", dtype="TIMESTAMP"),
    Column(name="known", dtype="TIMESTAMP"),
    Column(name="amount", dtype="FP64"),
)
SPEC = ViewSpec(
    name="spend",
    join_keys=KEYS,
    features=(Column(name="amount", dtype="FP64"),),
    sql="SELECT who, shop, amount, happened AS event_time, known AS arrival_time FROM sales",
    sources=("sales",),
    ttl_seconds=10,
)
REF = "spend@v1:amount"


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(START)
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = FeatureStore(self.db, self.offline, self.online, self.clock)

    def with_sales(self) -> FeatureStore:
        self.store.add_source("sales", COLUMNS, "happened", "known", actor="ann")
        self.store.apply_view(SPEC, actor="ann")
        return self.store

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def sales(*rows: tuple[str | None, int, float, float, float | None]) -> pa.Table:
    """Rows of user, shop, event second, arrival second, amount."""
    return pa.table(
        {
            "who": pa.array([r[0] for r in rows], pa.string()),
            "shop": pa.array([r[1] for r in rows], pa.int64()),
            "happened": pa.array([moment(r[2]) for r in rows], pa.timestamp("us", "UTC")),
            "known": pa.array([moment(r[3]) for r in rows], pa.timestamp("us", "UTC")),
            "amount": pa.array([r[4] for r in rows], pa.float64()),
        }
    )


def spine(*rows: tuple[str | None, int | None, float]) -> pa.Table:
    return pa.table(
        {
            "who": pa.array([r[0] for r in rows], pa.string()),
            "shop": pa.array([r[1] for r in rows], pa.int64()),
            "event_time": pa.array([moment(r[2]) for r in rows], pa.timestamp("us", "UTC")),
        }
    )


def asked(store: FeatureStore, *rows: tuple[str | None, int | None, float]) -> list[Any]:
    found = store.historical([REF], spine(*rows), event_time="event_time")
    assert found.num_rows == len(rows)
    return found.column(REF).to_pylist()


# -- point in time ----------------------------------------------------------------------------------------------------------


def test_a_row_sees_what_was_known_at_its_time_and_no_later_event(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 10.0), ("a", 1, 2, 8, 20.0), ("a", 1, 5, 5, 50.0)), actor="ann")
    assert asked(store, ("a", 1, 0), ("a", 1, 1), ("a", 1, 4), ("a", 1, 5), ("a", 1, 9)) == [None, 10, 10, 50, 50]


def test_of_equal_events_the_last_to_arrive_counts_and_then_the_last_appended(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 5, 5.0), ("a", 1, 1, 3, 3.0), ("a", 1, 1, 3, 4.0)), actor="ann")
    store.append("sales", sales(("b", 1, 1, 1, 1.0)), actor="ann")
    store.append("sales", sales(("b", 1, 1, 1, 2.0), ("b", 1, 0, 9, 9.0)), actor="ann")
    assert asked(store, ("a", 1, 2), ("a", 1, 3), ("a", 1, 5), ("b", 1, 1), ("b", 1, 9)) == [None, 4, 5, 2, 2]


def test_the_ttls_boundary_is_included_and_what_expired_is_null(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 10.0)), actor="ann")
    assert asked(store, ("a", 1, 11), ("a", 1, 11.000001)) == [10, None]


def test_null_stays_null_duplicates_are_kept_and_order_is_the_inputs(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 10.0), ("a", 1, 2, 2, None), ("b", 1, 1, 1, 3.0)), actor="ann")
    assert asked(store, ("b", 1, 2), ("a", 1, 3), ("a", 1, 1), ("a", 1, 1), (None, 1, 2), ("a", 2, 2)) == [
        *(3, None, 10, 10, None, None)
    ]


one_row = st.tuples(
    st.sampled_from([*"abcdefgh", None]),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(0, 4),
    st.integers(0, 6),
    st.none() | st.integers(0, 99),
)
one_ask = st.tuples(st.sampled_from([*"abcdefghi", None]), st.sampled_from([1, 1, 2, None]), st.integers(0, 9))
rows_strategy = st.integers(0, 50).flatmap(lambda n: st.lists(one_row, min_size=n, max_size=n))
spine_strategy = st.integers(1, 40).flatmap(lambda n: st.lists(one_ask, min_size=n, max_size=n))
"""Many entities, each a case of its own: what costs is a view, and not its rows."""


def oracle(rows: list[tuple[Any, ...]], user: str | None, shop: int | None, now: int, ttl: int | None) -> Any:
    """The rule in words: of what had happened and was known, the latest event, then arrival, then appended; if fresh."""
    seen = [
        (at, known, index)
        for index, (u, s, at, known, _) in enumerate(rows)
        if u is not None and (u, s) == (user, shop) and at <= now and known <= now
    ]
    if not seen:
        return None
    at, _, index = max(seen)
    return rows[index][4] if ttl is None or now - at <= ttl else None


PLAIN = "SELECT who, shop, amount, happened AS event_time, {arrival} FROM {source}"
WINDOW = (
    "SELECT who, shop, max(amount) OVER (PARTITION BY who, shop, happened, known, amount) AS amount,"
    " happened AS event_time, {arrival} FROM {source} ORDER BY amount"
)
JOINED = PLAIN + " JOIN (SELECT 1 AS one) ON one = 1"


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    built = House(tmp_path_factory.mktemp("house"))
    yield built
    built.close()


@settings(max_examples=20, deadline=None)
@given(
    first=rows_strategy,
    second=rows_strategy,
    ask=spine_strategy,
    sql=st.sampled_from([PLAIN, WINDOW]),
    late=st.booleans(),
    ttl=st.sampled_from([3, None]),
)
def test_history_and_online_answer_as_the_rule_says(
    lasting: House, first: list[Any], second: list[Any], ask: list[Any], sql: str, late: bool, ttl: int | None
) -> None:
    store, name, clock = lasting.store, f"s{len(lasting.store.sources())}", ManualClock(START)
    store._clock = clock  # each example lives through its own time
    store.add_source(name, COLUMNS, "happened", "known" if late else None, actor="ann")
    arrival = "known AS arrival_time" if late else "0 AS nothing"
    view = store.apply_view(
        msgspec.structs.replace(
            SPEC, name=name, sources=(name,), sql=sql.format(source=name, arrival=arrival), ttl_seconds=ttl
        ),
        actor="ann",
    )
    for rows in (first, second):
        store.append(name, sales(*rows), actor="ann")
    rows = [(*row[:3], row[3] if late else row[2], row[4]) for row in first + second]
    ref = f"{view.ref}:amount"
    found = store.historical([ref], spine(*ask), event_time="event_time").column(ref).to_pylist()
    assert found == [oracle(rows, *row, ttl) for row in ask]
    for now in (2, 5, 7):
        clock.advance(moment(now))
        store.materialize(view.ref)
        known = [{"who": user or "?", "shop": shop or 0} for user, shop, _ in ask]
        online = [row.values[ref] for row in store.online_features([ref], known)]
        assert online == [oracle(rows, entity["who"], entity["shop"], now, ttl) for entity in known]


def test_where_rows_are_of_no_one_source_ties_go_the_same_way_each_time(house: House) -> None:
    store = house.with_sales()
    sql = JOINED.format(source="sales", arrival="known AS arrival_time")
    store.apply_view(msgspec.structs.replace(SPEC, sql=sql), actor="ann")
    for amount in (1.0, 3.0, 2.0):
        store.append("sales", sales(("a", 1, 1, 1, amount)), actor="ann")
        found = store.historical(["spend@v2:amount"], spine(("a", 1, 1)), event_time="event_time")
        assert found.column("spend@v2:amount").to_pylist() == [max(1.0, amount, 3.0 if amount == 2.0 else 0)]


def test_an_aggregate_is_a_view_too(house: House) -> None:
    store = house.with_sales()
    sql = "SELECT who, shop, sum(amount) AS amount, max(happened) AS event_time, max(known) AS arrival_time FROM sales"
    spec = msgspec.structs.replace(SPEC, sql=f"{sql} GROUP BY ALL")
    store.apply_view(spec, actor="ann")
    store.append("sales", sales(("a", 1, 1, 1, 1.0), ("a", 1, 2, 5, 2.0)), actor="ann")
    found = store.historical(["spend:amount"], spine(("a", 1, 4), ("a", 1, 5)), event_time="event_time")
    assert found.column("spend@v2:amount").to_pylist() == [None, 3.0]


def test_views_with_other_keys_and_types_meet_in_one_answer(house: House) -> None:
    store = house.with_sales()
    by_shop = msgspec.structs.replace(
        SPEC,
        name="shops",
        join_keys=(Column(name="shop", dtype="STRING"),),
        features=(Column(name="last", dtype="TIMESTAMP"), Column(name="big", dtype="BOOL")),
        sql="SELECT shop, happened AS last, amount > 5 AS big, happened AS event_time, known AS arrival_time FROM sales",
    )
    store.apply_view(by_shop, actor="ann")
    store.append("sales", sales(("a", 1, 1, 1, 10.0), ("b", 1, 2, 2, 3.0)), actor="ann")
    with pytest.raises(InvalidInput, match="'shop' is int64") as caught:
        store.historical(["spend:amount", "shops:big"], spine(("a", 1, 2)), event_time="event_time")
    assert caught.value.field == "spine.shop"
    rows = spine(("a", 1, 2), ("a", 1, 1)).set_column(1, "shop", pa.array(["1", "1"]))
    found = store.historical(["shops:big", "shops:last"], rows, event_time="event_time")
    assert found.column_names[-2:] == ["shops@v1:big", "shops@v1:last"]
    assert found.column("shops@v1:big").to_pylist() == [False, True]
    house.clock.advance(moment(5))
    store.materialize()
    (row,) = store.online_features(["shops:last", "shops:big"], [{"shop": "1"}])
    assert row.values == {"shops@v1:last": "2026-01-01T00:00:02+00:00", "shops@v1:big": False}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda rows: rows.drop_columns(["who"]), "spine.who"),
        (lambda rows: rows.append_column("who", rows.column("who")), "spine.who"),
        (lambda rows: rows.set_column(2, "event_time", pa.array([1])), "spine.event_time"),
        (lambda rows: rows.set_column(2, "event_time", pa.array([None], pa.timestamp("us"))), "spine.event_time"),
        (lambda rows: rows.append_column(REF, pa.array([1])), "features"),
    ],
)
def test_a_spine_that_does_not_fit_is_named(house: House, change: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.with_sales().historical([REF], change(spine(("a", 1, 1))), event_time="event_time")
    assert caught.value.field == field


def test_a_nanosecond_too_early_sees_nothing(house: House) -> None:
    store = house.with_sales()
    rows = sales(("a", 1, 1, 1, 10.0))
    at = pa.array([int(moment(1).timestamp()) * 10**9 + 1], pa.timestamp("ns", "UTC"))
    store.append("sales", rows.set_column(2, "happened", at), actor="ann")
    asked_at = pa.array([int(moment(1).timestamp()) * 10**9 + n for n in (0, 999, 1000)], pa.timestamp("ns"))
    ask = pa.table({"who": ["a"] * 3, "shop": [1] * 3, "event_time": asked_at})
    assert store.historical([REF], ask, event_time="event_time").column(REF).to_pylist() == [None, None, 10]


def test_times_of_any_zone_and_unit_are_one_instant(house: House) -> None:
    store = house.with_sales()
    rows = sales(("a", 1, 1, 1, 10.0))
    rows = rows.set_column(
        2, "happened", rows.column("happened").cast(pa.timestamp("ns", "UTC")).cast(pa.timestamp("ns", "Asia/Tokyo"))
    )
    store.append("sales", rows, actor="ann")
    assert asked(store, ("a", 1, 1)) == [10]


# -- online -----------------------------------------------------------------------------------------------------------------


def test_materialize_writes_only_what_changed(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 1.0), ("b", 1, 1, 1, 2.0), ("b", 1, 6, 6, 3.0)), actor="ann")
    house.clock.advance(moment(5))
    assert [store.materialize(), store.materialize()] == [2, 0]
    house.clock.advance(moment(6))
    assert store.materialize() == 1
    store.append("sales", sales(("a", 1, 0, 0, 9.0), ("c", 1, 2, 2, 4.0)), actor="ann")
    assert store.materialize() == 1


def test_each_value_says_how_it_was_found(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(moment(2))
    store.materialize()
    entities = [{"who": "a", "shop": 1}, {"who": "b", "shop": 1}]
    assert [row.statuses[REF] for row in store.online_features(["spend:amount"], entities)] == ["PRESENT", "NOT_FOUND"]
    house.clock.advance(moment(11.5))
    (late,) = store.online_features([REF], entities[:1])
    assert (late.values[REF], late.statuses[REF]) == (None, "OUTSIDE_MAX_AGE")


def test_an_entity_that_a_view_no_longer_yields_goes(house: House) -> None:
    store = house.with_sales()
    sql = (
        PLAIN.format(source="sales", arrival="known AS arrival_time") + " QUALIFY count(*) OVER (PARTITION BY who) = 1"
    )
    store.apply_view(msgspec.structs.replace(SPEC, sql=sql), actor="ann")
    store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(moment(2))
    store.materialize("spend")
    assert store.online_features(["spend:amount"], [{"who": "a", "shop": 1}])[0].values == {"spend@v2:amount": 1.0}
    store.append("sales", sales(("a", 1, 2, 2, 2.0)), actor="ann")
    assert store.materialize("spend") == 1
    (row,) = store.online_features(["spend:amount"], [{"who": "a", "shop": 1}])
    assert row.statuses == {"spend@v2:amount": "NOT_FOUND"}


def test_a_view_that_fails_is_named_and_does_not_hold_up_the_others(house: House) -> None:
    store = house.with_sales()
    broken = msgspec.structs.replace(
        SPEC, name="broken", sql=SPEC.sql.replace("amount,", "CAST(who AS DOUBLE) AS amount,")
    )
    store.apply_view(broken, actor="ann")
    store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(moment(2))
    with pytest.raises(InvalidInput, match="The SQL of broken does not work"):
        store.materialize()
    assert store.online_features([REF], [{"who": "a", "shop": 1}])[0].values == {REF: 1.0}


def test_keys_that_can_be_written_in_two_ways_are_one(house: House) -> None:
    keys = (Column(name="at", dtype="TIMESTAMP"), Column(name="x", dtype="FP64"))
    happened = Column(name="happened", dtype="TIMESTAMP")
    house.store.add_source("points", (*keys, happened), "happened", None, actor="ann")
    spec = ViewSpec(
        name="seen",
        join_keys=keys,
        features=(Column(name="y", dtype="FP64"),),
        sql='SELECT "at", x, 2 * x AS y, happened AS event_time FROM points',
        sources=("points",),
    )
    house.store.apply_view(spec, actor="ann")
    rows = pa.table({"at": [START], "x": [3.0], "happened": [START]})
    house.store.append("points", rows, actor="ann")
    house.store.materialize()
    for at in ("2026-01-01T00:00Z", "2026-01-01T01:00+01:00"):
        for x in (3, 3.0):
            assert house.store.online_features(["seen:y"], [{"at": at, "x": x}])[0].values == {"seen@v1:y": 6.0}
    with pytest.raises(InvalidInput, match="no time zone"):
        house.store.online_features(["seen:y"], [{"at": "2026-01-01", "x": 3}])


def test_an_online_store_that_was_lost_is_written_anew(house: House) -> None:
    store = house.with_sales()
    store.append("sales", sales(("a", 1, 1, 1, 1.0)), actor="ann")
    house.clock.advance(moment(2))
    assert store.materialize() == 1
    fresh = Online(house.folder / "online-2")
    again = FeatureStore(house.db, house.offline, fresh, house.clock)
    assert again.materialize() == 1
    fresh.close()


# -- definitions --------------------------------------------------------------------------------------------------------------


def test_a_changed_definition_is_a_new_version_and_a_changed_text_is_not(house: House) -> None:
    store = house.with_sales()
    assert store.apply_view(msgspec.structs.replace(SPEC, description="how much"), actor="ann").version == 1
    assert store.view("spend").description == "how much"
    changed = msgspec.structs.replace(SPEC, sql=SPEC.sql.replace("amount,", "2 * amount AS amount,"))
    assert store.apply_view(changed, actor="ann").version == 2
    store.append("sales", sales(("a", 1, 1, 1, 10.0)), actor="ann")
    both = store.historical(["spend@v1:amount", "spend:amount"], spine(("a", 1, 1)), event_time="event_time")
    assert both.to_pylist()[0] | {} == {
        "who": "a",
        "shop": 1,
        "event_time": moment(1).replace(tzinfo=None),
        "spend@v1:amount": 10,
        "spend@v2:amount": 20,
    }


def test_a_service_names_versions_and_keeps_them(house: House) -> None:
    store = house.with_sales()
    service = store.apply_service("checkout", ["spend:amount"], actor="ann")
    assert (service.ref, service.features) == ("checkout@v1", (REF,))
    assert store.apply_service("checkout", [REF], actor="ann") == service
    assert store.resolve(["checkout"]) == (REF,)
    assert store.resolve(["spend:amount", "checkout"]) == (REF,)
    with pytest.raises(InvalidInput, match="is named twice"):
        store.resolve(["spend:amount", REF])


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP TABLE sales", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("SELECT from", "cannot be read"),
        ("SELECT * FROM other", "reads 'other'"),
        ('SELECT * FROM main."source:sales"', "may not"),
        ("SELECT * FROM read_csv('/etc/passwd')", "function 'read_csv'"),
        ("SELECT * FROM sales UNION ALL SELECT * FROM duckdb_settings()", "function 'duckdb_settings'"),
        ("SELECT who, shop, amount FROM sales", "no column 'event_time'"),
        ("SELECT who, shop, 'x' || amount AS amount, nothing AS event_time FROM sales", "does not work"),
        ("SELECT who, shop, now() AS event_time, amount FROM sales", "now\\(\\), which answers differently"),
        ("SELECT who, shop, current_timestamp AS event_time, amount FROM sales", "current_timestamp, which"),
        ("SELECT who, shop, happened AS event_time, random() AS amount FROM sales", "random\\(\\), which"),
        ("SELECT * FROM sales USING SAMPLE 10%", "a sample"),
        ("SELECT * FROM (SHOW TABLES)", "description of tables"),
        ("SELECT * FROM duckdb_tables", "reads 'duckdb_tables'"),
        ("SELECT * FROM '/etc/passwd'", "reads '/etc/passwd'"),
        ('WITH "view:x" AS (SELECT * FROM "view:x") SELECT * FROM "view:x"', "reads 'view:x'"),
        ("SELECT * FROM (WITH other AS (SELECT 1) SELECT * FROM other), other", "reads 'other'"),
        ("SELECT * FROM " + "(SELECT * FROM " * 2000 + "sales" + ")" * 2000, "nested too deeply"),
        ("SELECT " + "x" * 70_000, "longer than 65,536 bytes"),
        ("SELECT who, shop, amount, happened AS event_time FROM sales", "say when they became known"),
        ("SELECT who, shop, ? AS amount, happened AS event_time FROM sales", "does not work"),
        ("SELECT who, shop, current_setting('x') AS amount, happened AS event_time FROM sales", "answers differently"),
    ],
)
def test_sql_that_is_no_view_is_refused(house: House, sql: str, message: str) -> None:
    store = house.with_sales()
    with pytest.raises(InvalidInput, match=message) as caught:
        store.apply_view(msgspec.structs.replace(SPEC, sql=sql), actor="ann")
    assert caught.value.field == "sql"
    assert len(store.views()) == 1


def test_rows_that_do_not_fit_are_refused_as_a_whole(house: House) -> None:
    store = house.with_sales()
    good = sales(("a", 1, 1, 1, 1.0))
    for bad, field in (
        (good.append_column("colour", pa.array(["red"])), "colour"),
        (good.drop_columns(["amount"]), "amount"),
        (good.set_column(1, "shop", pa.array(["x"])), "shop"),
        (good.set_column(2, "happened", pa.array([None], pa.timestamp("us", "UTC"))), "happened"),
    ):
        with pytest.raises(InvalidInput) as caught:
            store.append("sales", bad, actor="ann")
        assert caught.value.field == field
    assert store.sources()[0].rows == 0
    with pytest.raises(AlreadyExists):
        store.add_source("sales", COLUMNS[:3], "happened", None, actor="ann")
    with pytest.raises(AlreadyExists, match="capitals"):
        store.add_source("Sales", COLUMNS, "happened", "known", actor="ann")
    assert store.append("sales", good.slice(0, 0), actor="ann") == 0


@pytest.mark.parametrize(
    ("refs", "hint"), [(["spent:amount"], "spend"), (["spend:amout"], "amount"), (["nothing"], ""), ([], "")]
)
def test_unknown_names_are_errors_with_a_suggestion(house: House, refs: list[str], hint: str) -> None:
    store = house.with_sales()
    with pytest.raises((NotFound, InvalidInput)) as caught:
        store.resolve(refs)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("entity", "field"),
    [
        ({"who": "a"}, "entities.0.shop"),
        ({"who": 1, "shop": 1}, "entities.0.who"),
        ({"who": "a", "shop": True}, "entities.0.shop"),
    ],
)
def test_an_odd_entity_names_the_field(house: House, entity: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.with_sales().online_features([REF], [entity])
    assert caught.value.field == field
