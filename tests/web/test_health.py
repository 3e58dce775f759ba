"""Health of one model and of all: over HTTP, on the pages, and how each area comes to its state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from mlbox.ids import new_id
from mlbox.records import Column, LabelSet, ModelHealth, Principal
from mlbox.serve.predictions.batches import Batch
from mlbox.store.asking import asking
from mlbox.web.box import Box
from tests.web.monitored import FEATURES, in_production, served
from tests.web.site import Site, open_box

WHO = Column(name="who", dtype="STRING")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    opened = open_box(tmp_path / "data")
    yield opened
    opened.close()


def asked(box: Box, path: str) -> httpx.Response:
    secret = box.access.create_token("admin", "test", actor="admin")[1]
    return Site(box, user="").request("GET", path, headers={"Authorization": f"Bearer {secret}"})


def health(box: Box, model: str = "delay") -> dict[str, tuple[str, str]]:
    """By area, its state and its words."""
    found = msgspec.json.decode(asked(box, f"/api/v1/monitoring/{model}/health").content, type=ModelHealth)
    return {area.name: (area.state, area.words) for area in found.areas}


def labelled(box: Box, truth: np.ndarray, score: np.ndarray) -> None:
    """Predictions with these scores, each with its label."""
    ids = [new_id() for _ in truth]
    batch = Batch(
        model="delay",
        version=1,
        role="champion",
        at=box.clock.real(),
        domain_at=box.clock.now(),
        caller="carl",
        latency_ms=1.0,
        ids=ids,
        scores=score.tolist(),
        names=FEATURES,
        values=np.random.default_rng(3).normal(size=(len(truth), len(FEATURES))),
        entities=[{"who": f"p{number}"} for number in range(len(truth))],
    )
    box.predictions.put([batch])
    given = [{"prediction_id": own, "late": bool(label)} for own, label in zip(ids, truth, strict=True)]
    box.labels.append_rows("late", box.outcomes.complete(box.labels.declared("late"), given), source=None, actor="ann")


def with_labels(box: Box) -> None:
    box.labels.apply(LabelSet(name="late", keys=(WHO,), value=Column(name="late", dtype="BOOL")), actor="ann")
    box.curation.set_model_tag("delay", "label_set", "late", actor="ann")


def test_what_was_not_looked_at_is_unknown_and_not_well(box: Box) -> None:
    in_production(box)
    found = health(box)
    assert found["drift"] == ("unknown", "not checked yet")
    assert found["performance"][0] == found["concept"][0] == found["skew"][0] == "unknown"
    assert found["alerts"] == ("ok", "nothing fires")
    assert asked(box, "/api/v1/health").json()[0]["state"] == "unknown"


def test_the_fleet_is_worst_first_and_each_model_has_a_page(box: Box) -> None:
    for model, values in {"calm": np.random.default_rng(0).normal(size=200), "wild": np.full(200, 50.0)}.items():
        in_production(box, model)
        served(box, values, model=model)
        box.monitor.check(model)
    fleet = asked(box, "/api/v1/health").json()
    assert [(one["model"], one["state"]) for one in fleet] == [("wild", "bad"), ("calm", "ok")]
    assert (fleet[0]["worst_feature"], fleet[0]["worst_statistic"], fleet[0]["firing"]) == (FEATURES[0], 1.0, 1)
    site = Site(box)
    text = site.get("/monitoring").text
    assert text.index('href="/monitoring/wild"') < text.index('href="/monitoring/calm"')
    page = site.get("/monitoring/wild").text
    assert "1 of 2 drift" in page
    assert "Alerts that fire" in page
    assert site.get("/monitoring/none").status_code == 404
    (group,) = asked(box, "/api/v1/alerts/groups").json()
    assert (group["name"], group["firing"], group["worst"]["value"]) == ("wild", 1, 1.0)
    overview = site.get("/").text
    assert 'href="/monitoring/wild"' in overview
    assert "1 feature drift" in overview


def test_missing_values_and_stale_views_are_data_quality(box: Box) -> None:
    in_production(box)
    served(box, [None] * 150 + [0.0] * 50)
    box.monitor.check("delay")
    state, words = health(box)["data quality"]
    assert state == "bad"
    assert FEATURES[0] in words


def test_performance_is_compared_with_training(box: Box) -> None:
    version = in_production(box)
    with_labels(box)
    truth = np.arange(300) % 2 == 0
    labelled(box, truth, np.where(truth, 0.9, 0.1))
    state, words = health(box)["performance"]
    assert state == "unknown"
    assert "nothing to compare with" in words
    assert "100% of 300" in words
    assert version.metrics == {}


def test_errors_that_rise_while_inputs_stay_are_concept_drift(box: Box) -> None:
    in_production(box)
    with_labels(box)
    truth = np.random.default_rng(5).random(1200) < 0.5
    turned = np.where(np.arange(1200) < 600, truth, ~truth)
    labelled(box, truth, np.where(turned, 0.9, 0.1))
    assert asked(box, "/api/v1/monitoring/delay/concept").json()["inputs"] == "unknown"
    box.monitor.check("delay")
    found: dict[str, Any] = asked(box, "/api/v1/monitoring/delay/concept").json()
    assert (found["verdict"], found["inputs"], found["now_rows"], found["before_rows"]) == (
        "concept_drift",
        "same",
        600,
        600,
    )
    assert (round(found["before_error"], 6), round(found["now_error"], 6)) == (0.01, 0.81)
    box.concept.check("delay")
    (alert,) = box.monitor.alerts(state="firing")
    assert (alert.name, alert.labels) == ("concept_drift", {"model": "delay"})
    assert health(box)["concept"][0] == "bad"
    box.curation.set_model_tag("delay", "label_set", "none", actor="ann")
    assert health(box)["concept"][0] == "unknown", "what cannot be had says so and takes no other area with it"


def test_the_fleet_says_of_each_model_what_its_page_says(box: Box) -> None:
    in_production(box)
    with_labels(box)
    truth = np.random.default_rng(5).random(400) < 0.5
    labelled(box, truth, np.where(truth, 0.8, 0.2))
    for model in ("calm", "new"):
        in_production(box, model)
    served(box, np.random.default_rng(0).normal(size=200), model="calm")
    box.monitor.check("calm")
    fleet = msgspec.json.decode(asked(box, "/api/v1/health").content, type=list[ModelHealth])
    assert len(fleet) == 3
    for one in fleet:
        page = msgspec.json.decode(asked(box, f"/api/v1/monitoring/{one.model}/health").content, type=ModelHealth)
        assert msgspec.structs.replace(one, measured_at=None) == msgspec.structs.replace(page, measured_at=None)
        assert one.measured_at is not None
    labelled(box, truth, np.where(truth, 0.2, 0.8))
    again = {one["model"]: one for one in asked(box, "/api/v1/health").json()}
    assert "of 800 predictions" in next(a["words"] for a in again["delay"]["areas"] if a["name"] == "performance")


def test_who_may_not_see_the_labels_is_not_told_what_they_say(box: Box) -> None:
    in_production(box)
    with_labels(box)
    truth = np.arange(300) % 2 == 0
    labelled(box, truth, np.where(truth, 0.9, 0.1))
    assert "100% of 300" in health(box)["performance"][1]
    box.teams.create("zebra", actor="admin")
    box.access.create_user("otto", "viewer", actor="admin")
    box.labels.apply(LabelSet(name="zebra.late", keys=(WHO,), value=Column(name="late", dtype="BOOL")), actor="ann")
    box.curation.set_model_tag("delay", "label_set", "zebra.late", actor="ann")
    box.teams.set_private("label", "zebra.late", True, actor="admin")
    assert "no label set" not in health(box)["performance"][1]
    with asking(Principal(name="otto", role="viewer")):
        (one,) = box.health.fleet()
        assert one == msgspec.structs.replace(box.health.of("delay"), measured_at=one.measured_at)
    words = {area.name: (area.state, area.words) for area in one.areas}
    assert words["performance"] == words["concept"] == ("unknown", "There is no label set 'zebra.late'.")


def test_errors_that_stay_are_well(box: Box) -> None:
    in_production(box)
    with_labels(box)
    truth = np.random.default_rng(5).random(400) < 0.5
    labelled(box, truth, np.where(truth, 0.8, 0.2))
    box.monitor.check("delay")
    assert asked(box, "/api/v1/monitoring/delay/concept").json()["verdict"] == "ok"
    assert box.concept.check("delay").verdict == "ok"
    assert box.monitor.alerts() == []
