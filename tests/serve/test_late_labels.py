"""Losses of a canary and its control group by the labels that arrived, against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.records import Column, Guard, LabelledLoss, LabelMetric, LabelSet, Promotion, PromotionPolicy
from mlbox.serve.rollout.late_labels import LateLabels
from mlbox.store.registry.curation import Curation
from tests.serve.test_outcomes import SET, SOURCES, House
from tests.store.test_datasets import USER, moment

MEASURE = LabelSet(name="minutes", keys=(USER,), value=Column(name="minutes", dtype="FP64"), sources=SOURCES)
TWO = LabelSet(
    name="word",
    keys=(USER,),
    value=Column(name="word", dtype="STRING"),
    classes=("stays", "it's over"),
    sources=SOURCES,
)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    for labels in (SET, MEASURE, TWO):
        built.labels.apply(labels, actor="ann")
    built.registry.create_model("churn", actor="ann")
    built.clock.advance(moment(1000))
    yield built
    built.close()


def canary(house: House, *guards: Guard) -> Promotion:
    now = house.clock.now()
    return Promotion(
        id="p",
        model="churn",
        version=2,
        champion=1,
        state="canary",
        requested_by="ann",
        created_at=now,
        state_since=now,
        policy=PromotionPolicy(guards=guards),
        step=0,
    )


def labels_guard(metric: LabelMetric, scale: float = 1.0) -> Guard:
    return Guard(kind="labels", stop=1.0, metric=metric, scale=scale)


def tag(house: House, label_set: str) -> None:
    Curation(house.dbs[-1], house.registry).set_model_tag("churn", "label_set", label_set, actor="ann")


def read(house: House, promotion: Promotion) -> dict[str, LabelledLoss]:
    late = LateLabels(house.performance, house.outcomes, house.labels, house.offline)
    return dict(late.of(promotion, promotion.state_since, house.clock.now()))


def test_classes_cost_by_their_error_and_their_distance(house: House) -> None:
    tag(house, "gone")
    promotion = canary(house, labels_guard("errors"), labels_guard("brier"), labels_guard("absolute"))
    said: dict[str, list[tuple[float, int]]] = {"canary": [], "control": []}
    for n in range(12):
        role, version = ("canary", 2) if n % 2 else ("control", 1)
        score = n / 11
        house.predict("churn", f"u{n}", version=version, role=role, score=score)
        if n < 8:
            house.say("gone", f"u{n}", house.clock.now(), int(n % 3 == 0))
            said[role].append((score, int(n % 3 == 0)))
    house.predict("churn", "u0", version=1, role="champion", score=0.9)  # not of the control group
    house.predict("churn", "u1", version=3, role="canary", score=0.9)  # not of this canary
    house.predict("churn", "u1", version=2, role="canary", score=math.nan)
    house.clock.advance(house.clock.now() + timedelta(hours=2))
    found = read(house, promotion)
    for name, loss in (
        ("labels errors", lambda s, y: float((s > 0.5) != bool(y))),
        ("labels brier", lambda s, y: (s - y) ** 2),
    ):
        sums = {role: sum(loss(s, y) for s, y in pairs) for role, pairs in said.items()}
        assert (found[name].candidate, found[name].control) == (4, 4)
        assert found[name].candidate_loss == pytest.approx(sums["canary"])
        assert found[name].control_loss == pytest.approx(sums["control"])
    assert "no two classes and no measure" in found["labels absolute"].note


def test_without_a_label_set_it_says_so(house: House) -> None:
    found = read(house, canary(house, labels_guard("errors")))
    assert found["labels errors"].note.startswith("No label set of churn is known")
    assert read(house, canary(house, Guard(kind="errors", stop=1.0))) == {}


@pytest.mark.parametrize(
    ("label_set", "metric", "score", "value", "loss"),
    [
        ("minutes", "absolute", 12.0, 7.0, 0.5),
        ("minutes", "absolute", 100.0, 7.0, 1.0),
        ("word", "errors", 0.9, "stays", 1.0),
        ("word", "brier", 0.9, "it's over", 0.01),
        ("word", "brier", -3.0, "it's over", 1.0),
    ],
)
def test_each_kind_of_label_has_its_loss(
    house: House, label_set: str, metric: LabelMetric, score: float, value: object, loss: float
) -> None:
    promotion = canary(house, labels_guard(metric, 10.0))
    tag(house, label_set)
    house.predict("churn", "u", version=2, role="canary", score=score)
    house.say(label_set, "u", house.clock.now(), value)
    house.clock.advance(house.clock.now() + timedelta(hours=2))
    (found,) = read(house, promotion).values()
    assert (found.candidate, found.candidate_loss, found.control) == (1, pytest.approx(loss), 0)
