"""What was measured last: how many models a look measures, and what has one measured again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.records import Event, HealthArea, ModelVersion, Prediction
from mlbox.serve.monitoring.last_measured import AT_ONCE, FRESH, Found, LastMeasured
from mlbox.serve.predictions.log import PredictionLog
from tests.conftest import wait_for
from tests.serve.batches import batches

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MANY = 2 * AT_ONCE + 5


class House:
    """Versions in Production, each with a label set of its own, and which of them were measured."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.bus = ManualClock(NOW), EventBus()
        self.log = PredictionLog(folder, flush_seconds=3600)
        self.versions = [version(f"m{number}") for number in range(MANY)]
        self.measured: list[str] = []
        self.lasts = True
        self.passed = 0
        """How often the thread went over all."""
        self.last = LastMeasured(self.measure, self.serving, self.log, self.clock, self.bus)

    def serving(self) -> list[ModelVersion]:
        self.passed += 1
        return self.versions

    def measure(self, of: ModelVersion) -> Found:
        self.measured.append(of.model)
        area = HealthArea(name="performance", state="ok", words=of.ref)
        return Found((area,), f"labels-{of.model}", self.lasts)

    def look(self) -> list[str]:
        """Which models one look measures itself."""
        self.measured.clear()
        self.known = self.last.last(self.versions)
        return self.measured[:AT_ONCE]

    def tell(self, kind: str, subject: str) -> None:
        self.bus.publish(Event(id=new_id(), type=kind, subject=subject, actor="ann", at=NOW, domain_at=NOW, data={}))

    def predict(self, model: str) -> None:
        row = Prediction(
            id=new_id(), model=model, version=1, role="champion", at=NOW, domain_at=NOW, caller="ann", entity={},
            features={"f": 1.0}, score=0.5, latency_ms=1.0,
        )  # fmt: skip
        self.log.put(batches([row]))


def version(model: str, number: int = 1) -> ModelVersion:
    return ModelVersion(
        id=f"{model}-{number}",
        model=model,
        version=number,
        stage="Production",
        run_id=None,
        features=(),
        trained_by="ann",
        submitted_by="ann",
        created_at=NOW,
    )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.last.close()
    made.log.close()


def test_a_look_measures_a_few_and_none_twice_without_need(house: House) -> None:
    first = house.look()
    assert len(first) == AT_ONCE
    assert sorted(house.known) == sorted(first), "of the others nothing is said"
    second, third = house.look(), house.look()
    assert (len(second), len(third)) == (AT_ONCE, 5)
    assert len({*first, *second, *third}) == MANY
    assert house.look() == []
    assert len(house.known) == MANY


@pytest.mark.parametrize(
    ("kind", "subject", "again"),
    [
        ("label.appended", "label:labels-m3", ["m3"]),
        ("label.changed", "label:labels-m3", ["m3"]),
        ("drift.checked", "model:m3/1", ["m3"]),
        ("model.tagged", "model:m3", ["m3"]),
        ("label.appended", "label:others", []),
        ("job.ended", "job:m3", []),
        ("dataset.created", "dataset:m3", []),
    ],
)
def test_what_changed_is_measured_again_and_nothing_else(
    house: House, kind: str, subject: str, again: list[str]
) -> None:
    house.versions = house.versions[:5]
    house.look()
    house.tell(kind, subject)
    assert (house.look(), house.look()) == (again, [])


def test_predictions_another_version_and_a_dataset_that_went_have_it_measured_again(house: House) -> None:
    house.versions = house.versions[:5]
    house.look()
    house.predict("m1")
    assert house.look() == ["m1"]
    house.versions[2] = version("m2", 2)
    assert house.look() == ["m2"]
    assert house.known["m2"].found.areas[0].words == "m2/2"
    house.tell("dataset.deleted", "dataset:flights")
    assert len(house.look()) == 5
    assert house.look() == []


def test_what_came_while_it_was_measured_is_not_taken_for_known(house: House) -> None:
    house.versions = house.versions[:1]
    found = house.measure

    def measure(of: ModelVersion) -> Found:
        made = found(of)
        if len(house.measured) == 1:
            house.tell("label.appended", "label:labels-m0")
        return made

    house.last = LastMeasured(measure, house.serving, house.log, house.clock, house.bus)
    assert (house.look(), house.look()) == (["m0"], ["m0"])


def test_what_could_not_be_measured_is_tried_at_the_next_look(house: House) -> None:
    house.versions, house.lasts = house.versions[:1], False
    assert (house.look(), house.look()) == (["m0"], ["m0"])
    house.lasts = True
    assert (house.look(), house.look()) == (["m0"], [])


def test_those_measured_longest_ago_are_first(house: House) -> None:
    for _ in range(3):
        house.look()
        house.clock.advance(house.clock.now() + timedelta(seconds=1))
    house.tell("dataset.deleted", "dataset:flights")
    assert [house.look(), house.look()] == [
        [one.model for one in house.versions[:AT_ONCE]],
        [one.model for one in house.versions[AT_ONCE : 2 * AT_ONCE]],
    ]


def test_a_thread_measures_what_a_look_left_unless_it_was_measured_lately(house: House) -> None:
    house.last.start()
    assert len(house.look()) == AT_ONCE
    wait_for(lambda: len(house.measured) == MANY, what="the thread")
    assert len(set(house.measured)) == MANY
    house.tell("dataset.deleted", "dataset:flights")
    passed = house.passed
    assert len(house.look()) == AT_ONCE
    wait_for(lambda: house.passed > passed, what="the thread's next pass")
    house.last.close()
    assert len(house.measured) == AT_ONCE, "the others are not so old"


def test_a_thread_measures_again_what_changed_long_ago(house: House) -> None:
    for _ in range(3):
        house.look()
    house.tell("dataset.deleted", "dataset:flights")
    house.clock.advance(house.clock.now() + FRESH)
    house.look()
    house.last.start()
    wait_for(lambda: len(house.measured) == MANY, what="the thread")
    assert len(set(house.measured)) == MANY
