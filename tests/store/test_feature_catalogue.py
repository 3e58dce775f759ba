"""The catalogue: features are found by words, best first, whatever one types, and profiles are those of the rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.records import Column, TransformInput, TransformSpec, ViewSpec
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets import feature_profile
from mlbox.store.datasets.datasets import Datasets, DatasetSpec
from mlbox.store.datasets.feature_profile import MOST_BINS, Profiles, counted, edges_of
from mlbox.store.db import Database
from mlbox.store.features.feature_catalogue import FeatureCatalogue, Filters, is_close
from mlbox.store.features.ondemand import Transforms
from mlbox.store.features.online import Online
from mlbox.store.labels.views import Labels
from mlbox.store.offline.offline import Offline

START = parse_time("2026-01-01T00:00Z")
WHO, SHOP = Column(name="who", dtype="STRING"), Column(name="shop", dtype="INT64")
COLUMNS = (
    *(WHO, SHOP, Column(name="moment", dtype="TIMESTAMP"), Column(name="amount", dtype="FP64")),
    *(Column(name="visits", dtype="INT64"), Column(name="city", dtype="STRING"), Column(name="vip", dtype="BOOL")),
)
SQL = "SELECT *, moment AS event_time FROM sales"


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START + timedelta(days=1))
        self.db = Database(folder / "features.sqlite", migrations.features, self.clock, EventBus())
        self.data = Database(folder / "datasets.sqlite", migrations.datasets, self.clock, EventBus())
        self.offline = Offline(folder / "offline.duckdb")
        self.online = Online(folder / "online")
        self.store = Transforms(self.db, self.offline, self.online, self.clock)
        artifacts = Artifacts(folder / "artifacts")
        labels = Labels(self.data, self.offline, self.clock)
        self.datasets = Datasets(self.data, self.offline, self.store, labels, artifacts, self.clock)
        self.catalogue = FeatureCatalogue(self.db, self.store, lambda name: name.partition(".")[0])
        self.profiles = Profiles(self.store, self.offline, self.datasets, artifacts)
        self.store.add_source("sales", COLUMNS, "moment", None, actor="ann")

    def view(self, name: str, *features: Column, keys: tuple[Column, ...] = (WHO,), **facts: Any) -> None:
        chosen = features or (Column(name="amount", dtype="FP64"),)
        sources = facts.pop("sources", ("sales",))
        sql = facts.pop("sql", SQL)
        spec = ViewSpec(name=name, join_keys=keys, features=chosen, sql=sql, sources=sources, **facts)
        self.store.apply_view(spec, actor="ann")

    def found(self, words: str = "", **filters: str) -> list[str]:
        return [hit.ref for hit in self.catalogue.search(words, Filters(**filters))]

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        self.db.close()
        self.data.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


# -- search -------------------------------------------------------------------------------------------------------------------


def test_a_name_counts_before_a_view_and_a_view_before_a_description(house: House) -> None:
    about = "how often the amount was paid"
    house.view("one", Column(name="visits", dtype="INT64", description=about))
    house.view("amount", Column(name="city", dtype="STRING"))
    house.view("two")
    assert house.found("amount") == ["two@v1:amount", "amount@v1:city", "one@v1:visits"]
    assert house.found("AMOUNT paid") == ["one@v1:visits"]
    assert house.found("amount nothing") == []


def test_beginnings_parts_and_typing_mistakes_are_found_in_this_order(house: House) -> None:
    house.view("spend")
    for words in ("amo", "moun", "amuont", "amonut", "amounts", "amont"):
        assert house.found(words) == ["spend@v1:amount"], words
    assert house.found("xyz") == house.found("amx") == []
    ranks = {words: house.catalogue.search(words)[0].cursor for words in ("amount", "amo", "moun", "amuont")}
    scores = [int(cursor.partition("~")[0]) for cursor in ranks.values()]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_filters_let_through_what_is_asked_for(house: House) -> None:
    house.view("vision.spend", owner="Ada", tags={"pii": "no", "tier": "gold"})
    house.view("speech.shops", Column(name="visits", dtype="INT64"), keys=(SHOP, WHO), owner="grace")
    spend, shops = "vision.spend@v1:amount", "speech.shops@v1:visits"
    assert house.found() == [shops, spend]
    assert house.found(team="vision") == house.found(owner="ada") == house.found(dtype="FP64") == [spend]
    assert house.found(tag="tier") == house.found(tag="gold") == house.found(tag="pii=no") == [spend]
    assert house.found(tag="pii=yes") == house.found(owner="bob") == []
    assert house.found(entity="who") == [spend]
    assert house.found(entity="who, shop") == house.found(entity="shop,who") == [shops]
    assert house.catalogue.entities() == ["shop,who", "who"]
    assert house.found("gold") == [spend]


def test_only_the_latest_version_is_found_and_transforms_are_too(house: House) -> None:
    house.view("spend")
    house.view("spend", ttl_seconds=60)
    made = TransformSpec(
        name="ratio",
        inputs=(
            TransformInput(name="amount", feature="spend@v2:amount"),
            TransformInput(name="limit", dtype="FP64"),
        ),
        outputs=(Column(name="share", dtype="FP64", description="of the amount"),),
        code="def ratio(amount, limit):\n    return amount / limit",
    )
    house.store.apply_transform(made, actor="ann")
    assert house.found("amount") == ["spend@v2:amount", "ratio@v1:share"]
    hit = house.catalogue.search("share")[0]
    assert (hit.kind, hit.entity, hit.dtype) == ("transform", ("who",), "FP64")


def test_pages_follow_each_other_without_a_gap_or_a_repeat(house: House) -> None:
    for number in range(7):
        house.view(f"spend{number}", Column(name="amount", dtype="FP64"), Column(name="visits", dtype="INT64"))
    for words in ("", "amount", "spend"):
        whole = [hit.ref for hit in house.catalogue.search(words)]
        paged, after = [], None
        while page := house.catalogue.search(words, limit=3, after=after):
            paged += [hit.ref for hit in page]
            after = page[-1].cursor
        assert paged == whole
        views, after = [], None
        while found := house.catalogue.search_views(words, limit=2, after=after):
            views += [one.ref for one in found]
            after = found[-1].cursor
        assert sorted(views) == sorted({ref.partition(":")[0] for ref in whole})
    for cursor in ("x", "1", "~", "-1~a", "99999999999~a"):
        with pytest.raises(InvalidInput):
            house.catalogue.search(after=cursor)
    with pytest.raises(InvalidInput):
        house.catalogue.search("a " * 30)


words = st.text("abc", max_size=6)


def distance(a: str, b: str) -> int:
    """Letters wrong, missing, too many, or swapped with the next, by the definition (optimal string alignment)."""
    if not a or not b:
        return len(a) + len(b)
    least = min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))
    if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
        least = min(least, distance(a[2:], b[2:]) + 1)
    return least


@given(words, words, st.integers(0, 3))
def test_words_are_close_by_the_definition(a: str, b: str, most: int) -> None:
    assert is_close(a, b, most) == (distance(a, b) <= most)


# -- lineage ------------------------------------------------------------------------------------------------------------------


def test_lineage_goes_up_and_down_over_views_transforms_and_services(house: House) -> None:
    house.view("spend")
    house.view("half", sources=("spend@v1",), sql="SELECT who, amount / 2 AS amount, event_time FROM spend")
    made = TransformSpec(
        name="ratio",
        inputs=(TransformInput(name="amount", feature="half@v1:amount"),),
        outputs=(Column(name="share", dtype="FP64"),),
        code="def ratio(amount):\n    return amount / 3.0",
    )
    house.store.apply_transform(made, actor="ann")
    house.store.apply_service("all", ["ratio@v1:share", "spend@v1:amount"], actor="ann")
    house.view("alone")
    chain = {
        ("source:sales", "view:spend@v1"),
        ("view:spend@v1", "view:half@v1"),
        ("view:half@v1", "transform:ratio@v1"),
        ("transform:ratio@v1", "service:all@v1"),
        ("view:spend@v1", "service:all@v1"),
    }
    spend = house.catalogue.definitions("spend")
    assert set(spend.edges) == chain
    assert spend.nodes["service:all@v1"].features == ("amount",)
    half = house.catalogue.definitions("half@v1")
    assert set(half.edges) == chain - {("view:spend@v1", "service:all@v1")}
    assert half.nodes["transform:ratio@v1"].features == ("amount",)
    assert set(house.catalogue.definitions("ratio").edges) == set(half.edges)
    assert set(house.catalogue.definitions("alone").edges) == {("source:sales", "view:alone@v1")}
    with pytest.raises(NotFound):
        house.catalogue.definitions("nothing")


# -- profiles -----------------------------------------------------------------------------------------------------------------


def fill(house: House, rows: int) -> pa.Table:
    rng = np.random.default_rng(1)
    amounts: list[float | None] = rng.normal(10, 3, rows).tolist()
    amounts[::10] = [None] * len(amounts[::10])
    table = pa.table(
        {
            "who": [f"p{number % 97}" for number in range(rows)],
            "shop": pa.array(range(rows), pa.int64()),
            "moment": pa.array([START + timedelta(seconds=n) for n in range(rows)], pa.timestamp("us", "UTC")),
            "amount": pa.array(amounts, pa.float64()),
            "visits": pa.array(rng.integers(0, 5, rows), pa.int64()),
            "city": rng.choice(["Rome", "Oslo", "Lima"], rows, p=[0.6, 0.3, 0.1]),
            "vip": rng.random(rows) < 0.25,
        }
    )
    house.store.append("sales", table, actor="ann")
    house.view("spend", *COLUMNS[3:], Column(name="moment", dtype="TIMESTAMP"))
    return table


def test_a_profile_is_of_the_views_rows(house: House) -> None:
    table = fill(house, 1000)
    assert house.profiles.now("spend").built is False
    found = house.profiles.now("spend", refresh=True)
    assert (found.ref, found.built, found.rows, found.sampled) == ("spend@v1", True, 1000, 1000)
    amount, visits, city, vip, moment = found.features
    values = np.array([v for v in table["amount"].to_pylist() if v is not None])
    assert (amount.rows, amount.nulls, amount.null_share) == (1000, 100, 0.1)
    assert (amount.min, amount.max) == (values.min(), values.max())
    assert amount.mean == pytest.approx(values.mean())
    assert list(amount.quantiles.values()) == pytest.approx(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist())
    assert amount.counts == counted(values, amount.edges)
    assert visits.edges == (-0.5, 0.5, 1.5, 2.5, 3.5, 4.5)
    assert list(visits.counts) == np.bincount(table["visits"].to_numpy()).tolist()
    assert dict(city.top) == {word: table["city"].to_pylist().count(word) for word in ("Rome", "Oslo", "Lima")}
    assert [word for word, _ in city.top] == ["Rome", "Oslo", "Lima"]
    assert dict(vip.top)["true"] == sum(table["vip"].to_pylist())
    assert (moment.min, sum(moment.counts)) == (START.timestamp(), 1000)


def test_a_profile_stays_until_the_rows_are_computed_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    table = fill(house, 100)
    first = house.profiles.now("spend", refresh=True)
    assert house.profiles.now("spend") is first
    house.store.append("sales", table, actor="ann")
    assert house.profiles.now("spend") is first
    again = house.profiles.now("spend", refresh=True)
    assert again is not first


def test_a_large_view_is_sampled_the_same_way_every_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(house, 3000)
    monkeypatch.setattr(feature_profile, "MOST_ROWS", 1000)
    first = house.profiles.now("spend", refresh=True)
    assert first.rows == 3000
    assert 850 <= first.sampled <= 1000
    other = Profiles(house.store, house.offline, house.datasets, Artifacts(Path(str(house.offline._path.parent / "x"))))
    assert other.now("spend") == first


def test_a_training_is_shown_in_the_bins_of_today(house: House) -> None:
    table = fill(house, 400)
    spec = DatasetSpec(
        name="train",
        spine="SELECT who, moment AS event_time FROM sales WHERE shop < 200",
        features=("spend:amount", "spend:city", "spend:vip", "spend:visits", "spend:moment"),
    )
    dataset = house.datasets.create(spec, actor="ann")
    now = house.profiles.now("spend")
    found = house.profiles.at_training(now, dataset)
    assert set(found) == {"amount", "city", "vip", "visits", "moment"}
    amount, today = found["amount"].distribution, now.features[0]
    values = np.array([v for v in table["amount"].to_pylist()[:200] if v is not None])
    assert (amount.rows, amount.nulls, amount.edges) == (200, 20, today.edges)
    assert amount.counts == counted(values, today.edges)
    assert dict(found["city"].distribution.top) == {
        word: table["city"].to_pylist()[:200].count(word) for word in ("Rome", "Oslo", "Lima")
    }
    assert dict(found["vip"].distribution.top)["true"] == sum(table["vip"].to_pylist()[:200])
    assert sum(found["moment"].distribution.counts) == 200
    unbuilt = msgspec.structs.replace(now, features=())
    assert house.profiles.at_training(unbuilt, dataset)["amount"].distribution.counts == ()


def test_odd_columns_have_a_profile_too(house: House) -> None:
    rows = {
        "who": ["a", "b", "c"],
        "shop": pa.array([1, 2, 3], pa.int64()),
        "moment": pa.array([START] * 3, pa.timestamp("us", "UTC")),
        "amount": [math.nan, math.inf, None],
        "visits": pa.array([2**63 - 1, -(2**63), None], pa.int64()),
        "city": pa.array([None, None, None], pa.string()),
        "vip": pa.array([None, None, None], pa.bool_()),
    }
    house.store.append("sales", pa.table(rows), actor="ann")
    house.view("spend", *COLUMNS[3:])
    amount, visits, city, vip = house.profiles.now("spend", refresh=True).features
    assert (amount.nulls, amount.min, amount.counts) == (1, None, ())
    assert sum(visits.counts) == 2
    assert (city.nulls, city.top, vip.top) == (3, (), ())
    assert msgspec.json.decode(msgspec.json.encode(amount))["nulls"] == 1


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(finite, min_size=1), st.booleans())
def test_bins_rise_and_hold_every_value(drawn: list[float], whole: bool) -> None:
    values = np.array([float(round(v)) for v in drawn] if whole else drawn)
    low, high = np.quantile(values, [0.01, 0.99]).tolist()
    edges = edges_of(float(values.min()), float(values.max()), low, high, whole=whole)
    assert 2 <= len(edges) <= MOST_BINS + 1
    assert len(edges) == 2 or all(a < b for a, b in itertools.pairwise(edges))
    assert sum(counted(values, edges)) == len(values)
