"""Datasets that can be named, rebuilt and proven."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import Column, DatasetSplit, LabelSet, ModelVersion, SplitPart, ViewSpec
from mlbox.serve.monitoring.reference import load_reference, make_reference, store_reference
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import Datasets, DatasetSpec
from mlbox.store.db import Database
from mlbox.store.features.features import FeatureStore
from mlbox.store.features.online import Online
from mlbox.store.labels.history import LabelHistory
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
ALONE: dict[str, Any] = {"features": (), "label_set": None}
USER = Column(name="who", dtype="STRING")
VIEW = ViewSpec(
    name="spend",
    join_keys=(USER,),
    features=(Column(name="amount", dtype="FP64"),),
    sql="SELECT who, amount, moment AS event_time FROM sales",
    sources=("sales",),
)
SPEC = DatasetSpec(
    name="churn",
    spine="SELECT who, moment AS event_time FROM visits",
    features=("spend:amount",),
    label_set="left",
)


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def table(**columns: Any) -> pa.Table:
    """Columns of times are given in seconds."""
    arrays = {}
    for name, values in columns.items():
        if name in ("moment", "event_time", "known_at"):
            arrays[name] = pa.array([moment(v) for v in values], pa.timestamp("us", "UTC"))
        else:
            arrays[name] = pa.array(values)
    return pa.table(arrays)


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START)
        self.bus = bus = EventBus()
        self.dbs = [
            Database(folder / f"{name}.sqlite", getattr(migrations, name), self.clock, bus)
            for name in ("features", "datasets")
        ]
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.artifacts = Artifacts(folder / "artifacts")
        self.features = FeatureStore(self.dbs[0], self.offline, self.online, self.clock)
        self.labels = LabelHistory(self.dbs[1], self.offline, self.clock, sources=self.features)
        self.features.check_open = self.labels.check_open
        self.datasets = Datasets(self.dbs[1], self.offline, self.features, self.labels, self.artifacts, self.clock)
        self.more(folder)
        columns = (USER, Column(name="moment", dtype="TIMESTAMP"))
        self.features.add_source("sales", (*columns, Column(name="amount", dtype="FP64")), "moment", None, actor="ann")
        self.features.add_source("visits", columns, "moment", None, actor="ann")
        self.features.apply_view(VIEW, actor="ann")
        left = LabelSet(name="left", keys=(USER,), value=Column(name="gone", dtype="INT64"))
        self.labels.apply(left, actor="ann")

    def more(self, folder: Path) -> None:
        """What else is in the house before the offline store is first used."""

    def live(self, *rows: tuple[str, float, float, int], until: float) -> None:
        """Labels of user, event, arrival and value come in, each at its time; then it is `until`."""
        for who, event, known, gone in sorted(rows, key=lambda row: row[2]):
            if moment(known) <= moment(until):
                self.clock.advance(max(moment(known), self.clock.now()))
                self.labels.append("left", table(who=[who], event_time=[event], gone=[gone]), actor="ann")
        self.clock.advance(max(moment(until), self.clock.now()))

    def fill(self, until: float) -> None:
        self.features.append("sales", table(who=["a", "a", "b"], moment=[1, 5, 2], amount=[1.0, 5.0, 2.0]), actor="ann")
        self.features.append("visits", table(who=["b", "a", "a"], moment=[3, 3, 6]), actor="ann")
        self.live(("a", 3, 4, 0), ("a", 6, 7, 1), ("b", 3, 9, 1), until=until)

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        for db in self.dbs:
            db.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


# -- datasets ---------------------------------------------------------------------------------------------------------------


def test_a_dataset_joins_what_was_known_then_and_names_all_it_is_made_of(house: House) -> None:
    house.fill(until=8)
    version = house.datasets.create(SPEC, actor="ann")
    rows = house.datasets.open_table(version.ref).to_pylist()
    assert [(r["who"], r["spend@v1:amount"], r["gone"]) for r in rows] == [("a", 1.0, 0), ("a", 5.0, 1)]
    assert (version.ref, version.rows, version.views, version.as_of) == ("churn@v1", 2, ("spend@v1",), moment(8))
    assert version.parameters["rows_without_label"] == 1, "b's outcome is known only at 9"
    assert version.query == SPEC.spine
    assert {"min": 1.0, "max": 5.0, "mean": 3.0, "nulls": 0}.items() <= version.statistics["spend@v1:amount"].items()
    (file,) = version.files
    assert (
        hashlib.sha256(
            house.artifacts.path(house.datasets.file_of(version.ref, file.path).sha256).read_bytes()
        ).hexdigest()
        == file.sha256
    )


def test_the_same_definition_over_the_same_data_is_the_same_version(house: House) -> None:
    house.fill(until=8)
    first = house.datasets.create(SPEC, actor="ann")
    house.live(("b", 3, 9, 1), until=20)
    assert house.datasets.create(msgspec.structs.replace(SPEC, as_of=moment(8)), actor="bea") == first
    second = house.datasets.create(SPEC, actor="ann")
    assert (second.version, second.rows) == (2, 3)
    assert [v.version for v in house.datasets.versions("churn")] == [2, 1]
    assert house.datasets.version("churn") == second


def test_built_on_another_day_in_another_house_it_has_the_same_hash(tmp_path: Path) -> None:
    hashes = set()
    for days in (0, 40):
        (tmp_path / str(days)).mkdir()
        with contextlib.closing(House(tmp_path / str(days))) as house:
            house.fill(until=8)
            house.clock.advance(START + timedelta(days=days, seconds=9))
            version = house.datasets.create(msgspec.structs.replace(SPEC, as_of=moment(8)), actor="ann")
            hashes.add((version.hash, tuple(file.md5 for file in version.files)))
    assert len(hashes) == 1


def test_a_spine_alone_is_a_dataset_in_a_total_order(house: House) -> None:
    house.fill(until=8)
    version = house.datasets.create(DatasetSpec(name="sold", spine="SELECT who, amount FROM sales"), actor="ann")
    rows = house.datasets.open_table(version.ref).to_pylist()
    assert [(row["who"], row["amount"]) for row in rows] == [("a", 1.0), ("a", 5.0), ("b", 2.0)]
    assert (version.views, version.parameters) == ((), {"features": [], "rows_without_label": 0})


def test_features_of_several_views_are_as_they_were_known_one_by_one(house: House) -> None:
    house.fill(until=8)
    fast = msgspec.structs.replace(VIEW, name="fast", ttl_seconds=1)
    house.features.apply_view(fast, actor="ann")
    spec = DatasetSpec(name="both", spine=SPEC.spine, features=("spend:amount", "fast:amount"))
    rows = house.datasets.open_table(house.datasets.create(spec, actor="ann").ref)
    spine = rows.select(["who", "event_time"])
    told = house.features.historical(["spend@v1:amount", "fast@v1:amount"], spine, event_time="event_time")
    assert rows.select(told.column_names).equals(told)
    assert [row["fast@v1:amount"] for row in rows.to_pylist()] == [None, 2.0, 5.0]


def test_two_creators_at_once_make_one_version_or_two_in_turn(house: House) -> None:
    house.fill(until=20)
    early, late = (msgspec.structs.replace(SPEC, as_of=moment(at)) for at in (5, 8))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda spec: house.datasets.create(spec, actor="ann"), [early, late, early, late]))
    assert {version.version for version in made} == {1, 2}
    assert made[0] == made[2]
    assert made[1] == made[3]
    assert len(house.datasets.versions("churn")) == 2


def test_nothing_that_became_known_after_the_cut_off_is_in_it(house: House) -> None:
    house.fill(until=20)
    early = house.datasets.create(msgspec.structs.replace(SPEC, as_of=moment(5)), actor="ann")
    assert [(r["who"], r["gone"]) for r in house.datasets.open_table(early.ref).to_pylist()] == [("a", 0)]


def test_the_time_range_takes_its_beginning_and_leaves_its_end(house: House) -> None:
    house.fill(until=20)
    spec = msgspec.structs.replace(SPEC, event_from=moment(3), event_to=moment(6))
    assert house.datasets.create(spec, actor="ann").rows == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spine": "SELECT who FROM visits"}, "spine"),
        ({"spine": "SELECT moment AS event_time FROM visits"}, "spine"),
        ({"spine": "SELECT who, moment AS event_time FROM nowhere"}, "spine"),
        ({"spine": "DELETE FROM visits"}, "spine"),
        ({"spine": "SELECT who, NULL::TIMESTAMP AS event_time FROM visits"}, "spine"),
        ({"spine": "SELECT who, moment AS event_time, who::INT AS n FROM visits"}, "spine"),
        ({"spine": "SELECT who::INT AS n FROM visits", **ALONE}, "spine"),
        ({"spine": "SELECT 1 AS who, moment AS event_time FROM visits", "label_set": None}, "spine.who"),
        ({"split": DatasetSplit(by="time", parts=(SplitPart(name="a"), SplitPart(name="b")))}, "split.parts"),
        ({"parents": ("nothing@v1",)}, "dataset"),
        ({"event_from": moment(100)}, "spine"),
        ({"as_of": moment(100)}, "as_of"),
        ({"features": ("spend:colour",)}, "features"),
        ({"label_set": "right"}, "label_set"),
    ],
)
def test_a_definition_that_cannot_be_is_refused_by_name(house: House, change: dict[str, Any], field: str) -> None:
    house.fill(until=8)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        house.datasets.create(msgspec.structs.replace(SPEC, **change), actor="ann")
    assert caught.value.field == field
    assert house.datasets.versions() == []


def test_a_version_is_immutable_even_to_sql(house: House) -> None:
    house.fill(until=8)
    house.datasets.create(SPEC, actor="ann")
    with pytest.raises(Unavailable, match="immutable"):
        house.dbs[1].write(lambda tx: tx.run("UPDATE dataset SET hash = 'x'"))


# -- the training reference ---------------------------------------------------------------------------------------------------


def test_a_reference_is_a_reproducible_sample_of_numbers(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    rows = pa.table({"a": list(range(100)), "b": [None if n % 2 else n / 2 for n in range(100)], "c": ["x"] * 100})
    first = make_reference(rows, ["a", "b", "c"], limit=10)
    assert first == make_reference(rows, ["a", "b", "c"], limit=10)
    version = ModelVersion(
        id="v",
        model="m",
        version=1,
        stage="None",
        run_id=None,
        reference=store_reference(artifacts, first),
        trained_by="a",
        submitted_by="a",
        created_at=START,
    )
    found = load_reference(artifacts, version)
    assert set(found) == {"a", "b"}
    assert len(found["a"]) == 10
    assert all(b != b if a % 2 else b == a / 2 for a, b in zip(found["a"], found["b"], strict=True))
    with pytest.raises(NotFound, match="no training reference"):
        load_reference(artifacts, msgspec.structs.replace(version, reference=None))
