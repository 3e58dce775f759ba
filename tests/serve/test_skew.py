"""Skew: nothing where serving and history agree, and a figure, an example and an alert where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from mlbox.clock import ManualClock, SystemClock, parse_time
from mlbox.errors import NotFound
from mlbox.events import EventBus
from mlbox.records import Column, TransformInput, TransformSpec
from mlbox.serve.inference.server import ModelServer, PredictRow
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.skew import SKEW, Skew, is_equal
from mlbox.store.features.ondemand import Transforms
from mlbox.store.registry.registry import NewVersion
from tests.conftest import wait_for
from tests.models import linear
from tests.serve.house import FEATURES, House

RATIO = "ratio@v1:share"
ALL = (*FEATURES, RATIO)
PEOPLE = [f"p{number}" for number in range(40)]


class SkewHouse(House):
    """The house with a transform among the features of its model."""

    def __init__(self, folder: Path, clock: ManualClock, bus: EventBus) -> None:
        super().__init__(folder, clock, bus)
        self.features: Transforms = Transforms(self.dbs["features"], self.offline, self.online, clock)
        self.server.close()
        self.server = ModelServer(self.registry, self.artifacts, self.features, self.rollouts, self.log, clock)
        self.skew = self.measuring()

    def measuring(self, **settings: float) -> Skew:
        return Skew(self.dbs["monitoring"], self.registry, self.features, self.log, self.clock, **settings)  # type: ignore[arg-type]

    def open(self) -> None:
        self.with_view()
        spec = TransformSpec(
            name="ratio",
            inputs=(TransformInput(name="amount", feature=FEATURES[0]), TransformInput(name="limit", dtype="FP64")),
            outputs=(Column(name="share", dtype="FP64"),),
            code="def f(amount, limit): return log1p(coalesce(amount, 0.0)) / limit",
        )
        self.features.apply_transform(spec, actor="ann")
        digest, size = self.artifacts.put([linear((1.0, 1.0, 1.0)).SerializeToString()])
        new = NewVersion(
            model="score", features=ALL, artifact=digest, size=size, inputs=(), trained_by="ann", submitted_by="ann"
        )
        self.approve(self.promote(self.registry.register(new)))
        self.sell(*PEOPLE)

    def sell(self, *people: str, amount: float | None = 2.0, ago: timedelta = timedelta()) -> None:
        at = pa.array([self.clock.now() - ago] * len(people), pa.timestamp("us", "UTC"))
        amounts = pa.array([amount] * len(people), pa.float64())
        rows = {"who": list(people), "moment": at, "amount": amounts, "visits": [3] * len(people)}
        self.features.append("sales", pa.table(rows), actor="ann")

    def serve(self, *people: str) -> None:
        self.ask(*(PredictRow(key=who, entity={"who": who, "limit": 3}) for who in people))

    def shares(self) -> dict[str, float | None]:
        return {result.feature: result.share for result in self.skew.check("score")}

    def firing(self) -> set[str]:
        return {alert.labels["feature"] for alert in self.monitor.alerts(state="firing") if alert.name == SKEW}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[SkewHouse]:
    opened = SkewHouse(tmp_path, ManualClock(parse_time("2026-01-01T00:00Z")), EventBus())
    opened.open()
    yield opened
    opened.close()


def test_what_is_served_as_the_history_has_it_is_equal(house: SkewHouse) -> None:
    house.sell("p0", amount=None)
    house.features.materialize()
    for _ in range(3):
        house.serve(*PEOPLE)
        house.later(hours=1)
        house.sell(*PEOPLE, amount=float(house.clock.now().hour))
        house.features.materialize()
    assert house.shares() == dict.fromkeys(ALL, 1.0)
    assert {(result.rows, result.verdict, result.entity) for result in house.skew.latest("score")} == {
        (120, "ok", None)
    }
    assert house.firing() == set()


def test_a_stale_online_store_shows(house: SkewHouse) -> None:
    house.features.materialize()
    house.later(hours=1)
    house.sell(*PEOPLE[:10], amount=7.0)
    house.serve(*PEOPLE)  # nothing was materialized since
    assert house.shares() == {FEATURES[0]: 0.75, FEATURES[1]: 1.0, RATIO: 0.75}
    assert house.firing() == {FEATURES[0], RATIO}
    result = next(result for result in house.skew.latest("score") if result.feature == FEATURES[0])
    assert (result.equal, result.served, result.recomputed) == (30, 2.0, 7.0)
    assert result.entity is not None
    assert result.entity["who"] in PEOPLE[:10]
    assert result.moment == house.clock.now()
    (alert,) = [alert for alert in house.monitor.alerts() if alert.labels["feature"] == FEATURES[0]]
    assert "differs from its history: 30 of 40 served values are equal, 0.99 of them are expected" in alert.summary
    assert alert.value == 0.75


def test_a_late_row_that_counts_as_known_before_shows_and_the_alert_ends_when_it_is_over(house: SkewHouse) -> None:
    house.features.materialize()
    house.later(hours=1)
    house.serve(*PEOPLE)
    house.later(hours=1)
    house.sell(*PEOPLE, amount=9.0, ago=timedelta(minutes=90))
    house.features.materialize()
    assert house.shares()[FEATURES[0]] == 0.0
    assert house.firing() == {FEATURES[0], RATIO}
    for _ in range(100):
        house.serve(*PEOPLE)
    assert house.shares()[FEATURES[0]] == pytest.approx(1.0, abs=0.03), "the newest rows agree again"
    house.skew = house.measuring(limit=0.9)
    house.shares()
    assert house.firing() == set()
    assert {event.type for event in house.dbs["monitoring"].events(subject="model:score/1")} == {"skew.checked"}


def test_few_rows_and_rows_without_keys_say_nothing(house: SkewHouse) -> None:
    house.features.materialize()
    given = dict.fromkeys(ALL, 1.0)
    house.ask(*(PredictRow(key=who, features=given) for who in PEOPLE))
    house.ask(*(PredictRow(key=who, entity={"who": 5, "limit": 1}, features=given) for who in PEOPLE))
    assert house.shares() == dict.fromkeys(ALL, None)
    assert {result.rows for result in house.skew.latest("score")} == {0}
    house.serve(*PEOPLE[:19])
    assert {(r.rows, r.verdict) for r in house.skew.check("score")} == {(19, "not_enough_data")}
    house.ask(PredictRow(key="x", entity={"who": "p0", "limit": 3}, features=given))
    assert house.shares()[FEATURES[0]] == 0.95, "what a caller made itself is compared where it names the keys"


def test_it_is_off_without_a_sample_and_asks_for_a_model(house: SkewHouse) -> None:
    assert house.measuring(sample=0).check("score") == []
    with pytest.raises(NotFound):
        house.skew.check("nothing")
    house.features.materialize()
    house.serve(*PEOPLE)
    assert {result.rows for result in house.measuring(sample=25).check("score")} == {25}


def test_it_is_measured_on_the_schedule_of_the_drift_checks(house: SkewHouse) -> None:
    house.features.materialize()
    house.serve(*PEOPLE)
    monitor = Monitor(house.dbs["monitoring"], house.registry, house.artifacts, house.log, SystemClock(), every=0.01)
    monitor.beside.append(house.skew.check)
    monitor.start()
    try:  # the version has no reference for drift, which keeps nothing from its skew
        wait_for(lambda: house.skew.latest("score"), what="a check by itself")
    finally:
        monitor.close()


def test_what_is_equal() -> None:
    nan = float("nan")
    assert is_equal(None, None)
    assert is_equal(nan, nan)
    assert is_equal(0.0, -0.0)
    assert not is_equal(None, nan)
    assert not is_equal(1.0, None)
    assert not is_equal(1.0, 1.0 + 2**-52)
