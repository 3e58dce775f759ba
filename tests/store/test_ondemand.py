"""On-demand transforms in the feature store: the same values in training and in serving."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from datetime import timedelta
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
from mlbox.records import Column, TransformInput, TransformSpec, ViewSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.features.ondemand import Transforms
from mlbox.store.features.online import Online
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
WHO = Column(name="who", dtype="INT64")
FEATURES = (
    Column(name="amount", dtype="FP64"),
    Column(name="visits", dtype="INT64"),
    Column(name="city", dtype="STRING"),
    Column(name="since", dtype="TIMESTAMP"),
)
CODE = """
def ratio(amount, visits, city, since, limit):
    share = amount / limit
    return {
        "share": share,
        "weight": log1p(abs(amount)) * exp(-share) + sin(amount) ** 2,
        "growth": visits * visits - 1,
        "home": city in ("Oslo", "Rome") and not is_nan(amount),
        "label": upper(city) + "/" + str(month(since)),
        "end": add_seconds(since, limit),
    }
"""
SPEC = TransformSpec(
    name="ratio",
    inputs=(
        *(TransformInput(name=column.name, feature=f"spend:{column.name}") for column in FEATURES),
        TransformInput(name="limit", dtype="FP64"),
    ),
    outputs=(
        Column(name="share", dtype="FP64"),
        Column(name="weight", dtype="FP64"),
        Column(name="growth", dtype="INT64"),
        Column(name="home", dtype="BOOL"),
        Column(name="label", dtype="STRING"),
        Column(name="end", dtype="TIMESTAMP"),
    ),
    code=CODE,
    owner="ann",
)
OUTPUTS = [f"ratio@v1:{column.name}" for column in SPEC.outputs]


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START)
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = Transforms(self.db, self.offline, self.online, self.clock)
        columns = (WHO, Column(name="moment", dtype="TIMESTAMP"), *FEATURES)
        self.store.add_source("sales", columns, "moment", None, actor="ann")
        sql = "SELECT *, moment AS event_time FROM sales"
        spec = ViewSpec(
            name="spend", join_keys=(WHO,), features=FEATURES, sql=sql, sources=("sales",), ttl_seconds=3600
        )
        self.store.apply_view(spec, actor="ann")

    def add(self, rows: list[dict[str, Any]]) -> None:
        types = {"who": pa.int64(), "moment": pa.timestamp("us", "UTC"), "amount": pa.float64(), "visits": pa.int64()}
        types |= {"city": pa.string(), "since": pa.timestamp("us", "UTC")}
        table = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()})
        self.store.append("sales", table, actor="ann")
        self.store.materialize()

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    opened = House(tmp_path)
    yield opened
    opened.close()


def a_row(who: int, **values: Any) -> dict[str, Any]:
    return {"who": who, "moment": START, "amount": 1.0, "visits": 2, "city": "Oslo", "since": START, **values}


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


def test_a_reference_works_offline_online_and_in_a_service(house: House) -> None:
    made = house.store.apply_transform(SPEC, actor="ann")
    assert (made.ref, made.inputs[0].feature, made.inputs[0].dtype) == ("ratio@v1", "spend@v1:amount", "FP64")
    house.add([a_row(1, amount=4.0, visits=2**62)])
    features = ["ratio:share", "spend:visits", "ratio:growth"]
    (row,) = house.store.online_features(features, [{"who": 1, "limit": 8}])
    assert row.values == {"ratio@v1:share": 0.5, "spend@v1:visits": 2**62, "ratio@v1:growth": None}
    assert set(row.statuses.values()) == {"PRESENT", "NULL"}
    assert all((row.statuses[name] == "NULL") == (value is None) for name, value in row.values.items())
    spine = pa.table({"who": [1], "at": pa.array([START], pa.timestamp("us", "UTC")), "limit": [8]})
    table = house.store.historical(features, spine, event_time="at")
    assert table.column_names == ["who", "at", "limit", *row.values]
    assert {name: table.column(name)[0].as_py() for name in row.values} == row.values
    assert house.store.apply_service("all", features, actor="ann").features == tuple(row.values)
    assert house.store.online_features(["all"], [{"who": 1, "limit": 8}]) == [row]


values = st.fixed_dictionaries(
    {
        "amount": st.none() | st.floats() | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324]),
        "visits": st.none() | st.integers(-(2**63), 2**63 - 1),
        "city": st.none() | st.sampled_from(["Oslo", "Rome", "ß", "", "x" * 5000]),
        "since": st.none() | st.datetimes(START.replace(tzinfo=None), timezones=st.just(START.tzinfo)),
        "limit": st.none() | st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1e300]),
    }
)


@given(st.integers(1, 40).flatmap(lambda n: st.lists(values, min_size=n, max_size=n)))
@settings(max_examples=8, deadline=None)
def test_offline_and_online_give_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]]
) -> None:
    house = House(tmp_path_factory.mktemp("same"))
    try:
        house.store.apply_transform(SPEC, actor="ann")
        house.add([a_row(who, **{k: v for k, v in row.items() if k != "limit"}) for who, row in enumerate(drawn)])
        entities = [{"who": who, "limit": row["limit"]} for who, row in enumerate(drawn)] + [{"who": -1, "limit": 1.0}]
        at = pa.array([START] * len(entities), pa.timestamp("us", "UTC"))
        limits = pa.array([entity["limit"] for entity in entities], pa.float64())
        spine = pa.table({"who": [entity["who"] for entity in entities], "at": at, "limit": limits})
        offline = house.store.historical(OUTPUTS, spine, event_time="at")
        many = house.store.online_features(OUTPUTS, entities)
        for number, entity in enumerate(entities):
            (one,) = house.store.online_features(OUTPUTS, [entity])
            for name in OUTPUTS:
                stored = offline.column(name)[number].as_py()
                if name.endswith(":end") and stored is not None:
                    stored = stored.replace(tzinfo=START.tzinfo).isoformat()
                assert bits(one.values[name]) == bits(many[number].values[name]) == bits(stored), (name, entity)
                assert type(one.values[name]) is type(stored), name
        assert set(many[-1].statuses.values()) == {"NOT_FOUND"}
    finally:
        house.close()


def test_what_only_comes_with_the_request_needs_no_view(house: House) -> None:
    spec = TransformSpec(
        name="hours",
        inputs=(TransformInput(name="at", dtype="TIMESTAMP"),),
        outputs=(Column(name="hour", dtype="INT64"),),
        code="def f(at): return hour(at)",
    )
    house.store.apply_transform(spec, actor="ann")
    (row,) = house.store.online_features(["hours:hour"], [{"at": "2026-01-01T05:30+02:00"}])
    assert (row.values, row.statuses) == ({"hours@v1:hour": 3}, {"hours@v1:hour": "PRESENT"})
    times = pa.array([START + timedelta(hours=5)], pa.timestamp("ns", "UTC"))
    found = house.store.historical(["hours:hour"], pa.table({"at": times}), event_time="at")
    assert found.column("hours@v1:hour").to_pylist() == [5]
    assert house.store.try_transform(spec, [{"at": None}, {"at": "2026-01-01T23:00Z"}]) == [
        {"hour": None},
        {"hour": 23},
    ]


def test_only_a_changed_function_is_a_new_version_and_old_ones_serve_on(house: House) -> None:
    house.store.apply_transform(SPEC, actor="ann")
    replaced = msgspec.structs.replace
    same = house.store.apply_transform(replace_code(CODE.replace("share = ", "#\n    share  =  ")), actor="bea")
    assert (same.version, same.created_by) == (1, "ann")
    assert (
        house.store.apply_transform(replaced(SPEC, description="What it is."), actor="bea").description == "What it is."
    )
    changed = house.store.apply_transform(replace_code(CODE.replace("- 1", "- 2")), actor="bea")
    assert changed.version == 2
    house.add([a_row(1)])
    (row,) = house.store.online_features(["ratio@v1:growth", "ratio:growth"], [{"who": 1, "limit": 1.0}])
    assert row.values == {"ratio@v1:growth": 3, "ratio@v2:growth": 2}
    assert [one.ref for one in house.store.transforms(after="ratio@v1")] == ["ratio@v2"]
    types = [event.type for event in house.db.events(subject="view:ratio@v1")]
    assert types == ["view.described", "view.described", "view.applied"]


def replace_code(code: str) -> TransformSpec:
    return msgspec.structs.replace(SPEC, code=code)


def test_what_is_wrong_is_said(house: House) -> None:
    replaced = msgspec.structs.replace
    amount = SPEC.inputs[0]
    for spec, field, words in (
        (replaced(SPEC, name="a/b"), "name", "not a valid name"),
        (replaced(SPEC, inputs=(replaced(amount, feature="spend:amuont"),)), "features", "no feature 'amuont'"),
        (replaced(SPEC, inputs=(replaced(amount, feature="spend"),)), "inputs", "is no feature"),
        (replaced(SPEC, inputs=(replaced(amount, dtype="INT64"),)), "inputs", "is FP64, not INT64"),
        (replaced(SPEC, inputs=(TransformInput(name="x"),)), "inputs", "neither a feature nor a type"),
        (replaced(SPEC, inputs=(replaced(amount, name="a b"),)), "inputs", "no name in Python"),
        (replaced(SPEC, inputs=(amount, amount)), "inputs", "twice"),
        (replaced(SPEC, outputs=()), "outputs", "no outputs"),
        (replace_code("def f(): return 1"), "code", "Line 1, column 1"),
    ):
        with pytest.raises(InvalidInput) as caught:
            house.store.apply_transform(spec, actor="ann")
        assert (caught.value.field, words in caught.value.message) == (field, True), caught.value
    with pytest.raises(AlreadyExists, match="is a view"):
        house.store.apply_transform(replaced(SPEC, name="Spend"), actor="ann")
    house.store.apply_transform(SPEC, actor="ann")
    view = house.store.view("spend")
    taken = ViewSpec(name="RATIO", join_keys=view.join_keys, features=FEATURES, sql=view.sql, sources=view.sources)
    with pytest.raises(AlreadyExists, match="is a transform"):
        house.store.apply_view(taken, actor="ann")
    with pytest.raises(NotFound, match="no transform 'ratoi'"):
        house.store.transform("ratoi")
    with pytest.raises(InvalidInput, match="no output 'shaer'"):
        house.store.online_features(["ratio:shaer"], [{"who": 1}])
    for entity, words in (
        ({"who": 1}, "Row 0 has no 'limit'"),
        ({"who": 1, "limit": "x"}, "FP64 is wanted"),
        ({"who": 1, "limit": 2**70}, "FP64 is wanted"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            house.store.online_features(["ratio:share"], [entity])
        assert caught.value.field == "entities.0.limit"
    spine = pa.table({"who": [1], "at": pa.array([START], pa.timestamp("us", "UTC"))})
    with pytest.raises(InvalidInput, match="need one column 'limit'") as caught:
        house.store.historical(["ratio:share"], spine, event_time="at")
    assert caught.value.field == "spine.limit"
