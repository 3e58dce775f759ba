"""Live performance over time: what is expected of each span beside what labels say, and what is read again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mlbox.records import Prediction
from mlbox.serve.monitoring import performance
from mlbox.store.registry.curation import Curation
from mlbox.web.pages.performance_picture import pictures
from tests.serve.batches import batches
from tests.serve.test_outcomes import SET, House
from tests.store.test_datasets import moment

DAY = timedelta(days=1)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    built.labels.apply(SET, actor="ann")
    built.registry.create_model("churn", actor="ann")
    Curation(built.dbs[-1], built.registry).set_model_tag("churn", "label_set", SET.name, actor="ann")
    built.clock.advance(moment(1000))
    yield built
    built.close()


def a_day(house: House, rng: np.random.Generator, rows: int = 150, *, labelled: bool = True) -> tuple[Any, Any]:
    """Predictions whose scores are the probabilities of their labels, which come a day later; the scores and labels."""
    scores = rng.beta(2, 3, size=rows)
    labels = (rng.random(rows) < scores).astype(int)
    now = house.clock.now()
    names = [f"u{now.timestamp():.0f}-{at}" for at in range(rows)]
    house.log.put(
        batches(
            [
                Prediction(
                    id=f"{int(now.timestamp() * 1e6):020}-{at:06}",
                    model="churn",
                    version=1,
                    role="champion",
                    at=house.clock.real(),
                    domain_at=now,
                    caller="carl",
                    entity={"who": who, "event_time": now.isoformat()},
                    features={"f": 1.0},
                    score=float(score),
                    latency_ms=1.0,
                )
                for at, (who, score) in enumerate(zip(names, scores, strict=True))
            ]
        )
    )
    house.clock.advance(now + DAY)
    if labelled:
        rows_of = [
            {"who": w, "event_time": now.isoformat(), "gone": int(v)} for w, v in zip(names, labels, strict=True)
        ]
        house.labels.append_rows("gone", rows_of, source="owner", actor="ann")
    return scores, labels


def test_each_span_has_what_labels_say_and_what_its_scores_let_expect(house: House) -> None:
    rng = np.random.default_rng(5)
    days = [a_day(house, rng, labelled=n < 3) for n in range(4)]
    found = house.performance.measure("churn", every=DAY)
    assert [one.coverage for one in found] == [1, 1, 1, 0]
    for one, (scores, labels) in zip(found[:3], days, strict=False):
        assert one.metrics["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert one.estimated["auc"].low < (one.metrics["auc"] or 0) < one.estimated["auc"].high
    assert found[3].metrics["auc"] is None, "no label is there yet"
    assert 0.6 < found[3].estimated["auc"].value < 0.8, "and yet it is known what to expect"
    assert house.performance.measure("churn")[0].estimated == {}, "of spans only"
    over = house.performance.over_time("churn")
    assert len({one.start for one in over}) >= 4, "the spans are as short as a picture can show"


def test_what_did_not_change_is_not_read_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    for _ in range(3):
        a_day(house, rng)
    before = house.performance.measure("churn", every=DAY)
    read: list[object] = []
    real = performance._read
    monkeypatch.setattr(performance, "_read", lambda *given: read.append(given[-1]) or real(*given))
    a_day(house, rng, labelled=False)
    after = house.performance.measure("churn", every=DAY)
    assert after[:3] == before, "the days that are over stay as they were"
    assert len(read) == 1, "and only the new one was read"
    newest = house.log.recent("churn", 1)[0]
    house.labels.append_rows("gone", [{**newest.entity, "gone": 1}], source="owner", actor="ann")
    last = house.performance.measure("churn", every=DAY)[3]
    assert (last.labelled, len(read)) == (1, 2), "a label has the day that it is about read again"


def test_a_picture_has_a_line_for_each_version_and_its_expectation(house: House) -> None:
    assert pictures([]) is None
    assert house.performance.over_time("churn") == [], "nothing was predicted yet"
    rng = np.random.default_rng(7)
    for n in range(3):
        a_day(house, rng, labelled=n < 2)
    shown = pictures(house.performance.measure("churn", every=DAY))
    assert shown is not None
    assert shown.metric == "auc"
    assert shown.lines is not None
    measured, expected = shown.lines["series"]
    assert (measured["label"], len(measured["points"])) == ("version 1", 2)
    assert (expected["label"], expected["like"], len(expected["points"])) == ("version 1, expected", 0, 3)
    assert [share for _, share in shown.coverage["series"][0]["points"]] == [1, 1, 0]


def test_without_labels_and_with_few_scores_nothing_is_drawn_but_how_many_have_a_label(house: House) -> None:
    rng = np.random.default_rng(7)
    for _ in range(2):
        a_day(house, rng, 50, labelled=False)
    shown = pictures(house.performance.measure("churn", every=DAY))
    assert shown is not None
    assert shown.lines is None
    assert [share for _, share in shown.coverage["series"][0]["points"]] == [0, 0]
