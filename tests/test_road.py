"""The whole road on a slice of the real flights: every step of `make demo`, asserted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from examples.nyc_flights import road as roads
from examples.nyc_flights.demo import running_server, stay
from examples.nyc_flights.flights import Flights
from examples.nyc_flights.road import MODEL, Road
from mlbox.errors import Unavailable
from mlbox.records import DatasetVersion, Event, ModelVersion, Promotion, Run
from tests.conftest import Server

pytestmark = pytest.mark.timeout(900)
SHARE = 0.15
EVERY = timedelta(days=1)
WEEK, SEEN = timedelta(days=7), timedelta(days=30)
"""How often there is an hour of traffic of which no drift check sees anything, and how far back one looks."""


@pytest.fixture
def road(make_server: Callable[..., Server]) -> Iterator[Road]:
    server = make_server("--replay-clock", roads.START.isoformat())
    with contextlib.closing(Road(server.url, server.token, Flights.load(SHARE))) as made:
        yield made


def test_from_raw_facts_to_a_drift_alert(road: Road) -> None:
    """One walk, because each step stands on the one before; each helper below asserts one of the issue's steps."""
    dataset = data_is_defined_loaded_and_joined_at_points_in_time(road)
    best, second = two_jobs_train_and_register(road, dataset)
    the_better_goes_to_production_by_another_hand(road, best)
    it_serves_by_ids_and_by_features(road)
    the_second_is_shadowed_and_takes_a_canary_share(road, second)
    summer_and_winter_drift(road)
    every_record_names_the_one_before(road, dataset)


def test_the_demo_ends_when_its_server_was_ended_from_outside(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", 0) as (server, url):
        token = (tmp_path / "data" / "admin-token").read_text().strip()
        with contextlib.closing(Road(url, token, Flights.load(SHARE))) as made:
            once = made.sign_in_link().partition("/login?once=")[2]
        assert httpx.post(f"{url}/api/v1/login", json={"once": once}).is_success, "as at the end of the demo"
        server.kill()
        with pytest.raises(Unavailable, match="The server has ended, by the signal SIGKILL"):
            stay(server)


def data_is_defined_loaded_and_joined_at_points_in_time(road: Road) -> DatasetVersion:
    features = road.define()
    assert "airport_delay@v1:late_rate" in features
    assert {view["schedule"] for view in road.admin.get("/api/v1/features/views", list[dict])} == {"upstream"}
    rows = road.load()
    assert road.labels_known() == 0, "nothing is known on 1 January"
    road.advance(roads.TRAINED_UNTIL)
    assert 0 < road.labels_known() < rows["labels"]
    road.materialize()  # what the schedule had not brought over yet
    assert road.materialize() == 0
    dataset = road.build_dataset()
    assert dataset.ref == "flights@v1"
    assert dataset.rows == pytest.approx(rows["labels"] * 0.48, rel=0.1)
    assert set(dataset.views) == {feature.partition(":")[0] for feature in features}
    assert dataset.label_set == "arrived_late"
    assert dataset.query
    assert len(dataset.hash) == 64
    assert road.build_dataset() == dataset, "the same definition over the same data is the same version"
    return dataset


def two_jobs_train_and_register(road: Road, dataset: DatasetVersion) -> tuple[ModelVersion, ModelVersion]:
    road.set_policy()
    jobs = [road.submit("train_gbm.py", dataset, 3), road.submit("train_mlp.py", dataset, 3)]
    for job in jobs:
        ended = road.wait_for_job(job)
        assert ended.state == "succeeded", road.log_of(job)
        run = road.admin.get(f"/api/v1/runs/{ended.run_id}", Run)
        assert (run.status, run.dataset, run.user) == ("FINISHED", dataset.ref, "ada")
        assert run.params["kind"] in ("gbm", "mlp")
        history = road.admin.get(f"/api/v1/runs/{run.id}/metrics/auc", list[dict])
        assert [point["step"] for point in history] == [1, 2, 3]
    best, second = road.versions()
    assert {best.version, second.version} == {1, 2}
    for version in (best, second):
        assert version.metrics["auc"] > 0.6
        assert version.git_commit
        assert version.reference
        assert version.sample
        assert version.inputs[0].shape == (-1, len(version.features))
    return best, second


def the_better_goes_to_production_by_another_hand(road: Road, best: ModelVersion) -> None:
    promotion = road.propose(best)
    assert promotion.state == "waiting_approval", promotion.gates
    assert {gate.gate for gate in promotion.gates} == {
        *(
            "facts",
            "lineage",
            "signature",
            "size",
            "metric",
            "fairness",
            "latency",
            "parity",
            "sanity",
            "card",
            "replay",
        )
    }
    assert "trained" in road.approve_own(promotion)
    assert road.approve(promotion).state == "completed"
    assert road.endpoint().champion == best.version


def it_serves_by_ids_and_by_features(road: Road) -> None:
    flight = road.flights.departing(road.now, road.now + timedelta(hours=12)).to_pylist()[0]
    by_ids = road.predict_by_ids(flight)
    by_features = road.predict_by_features(flight)
    assert 0 < by_ids < 1
    assert by_features == pytest.approx(by_ids, abs=1e-6)
    assert road.push_weather(flight["origin"], 71.5) == 71.5, "a push is online when it is answered"


def the_second_is_shadowed_and_takes_a_canary_share(road: Road, second: ModelVersion) -> None:
    promotion = road.propose(second)
    assert promotion.state == "shadow", promotion.gates
    assert road.replay(road.now + 4 * EVERY) > 0
    promotion = road.approve(road.reach(promotion, "waiting_approval"))
    assert (promotion.state, promotion.percent) == ("canary", 5)
    assert promotion.policy.label.startswith("demo")


def summer_and_winter_drift(road: Road) -> None:
    for season, until in (("summer", roads.SUMMER_ENDS), ("winter", roads.END)):
        road.replay(until - SEEN, every=WEEK)
        road.replay(until)
        found = {result.feature: result for result in road.check_drift()}
        weather = [result for feature, result in found.items() if feature.startswith("weather@")]
        assert any(result.verdict == "alert" for result in weather), (season, found)
        assert any("weather@" in alert.labels.get("feature", "") for alert in road.alerts()), season
    outcomes_meet_their_predictions(road)
    skew = road.check_skew()
    assert {result.feature for result in skew} >= {"weather@v1:temp", "airport_delay@v1:late_rate"}
    assert sum(result.rows for result in skew) > 100
    text = road.metrics()
    for name in ("ml_prediction_score", "ml_feature_drift_ks_statistic", "ml_predictions_total"):
        assert f"\n{name}" in text or text.startswith(name)


def outcomes_meet_their_predictions(road: Road) -> None:
    found = sorted(road.live_performance(), key=lambda one: one.labelled)
    assert all(one.coverage > 0.8 for one in found), "all that landed have a label"
    assert any(one.coverage < 1 for one in found), "those that were cancelled have none"
    assert (found[-1].metrics["auc"] or 0) > 0.5
    old = [one for one in found if one.maturity[3].share is not None]  # the last version may have come within a month
    assert old[-1].maturity[3].share == pytest.approx(old[-1].coverage, abs=0.05), "they are told of within a month"
    months = road.live_performance(every_seconds=28 * 86_400)
    assert len({month.start for month in months}) > 3, "it is told over time"
    assert any("auc" in month.estimated for month in months), "and what the scores let expect beside it"
    page = road.admin.request("GET", f"/monitoring/{MODEL}").decode()
    assert "It never saw" in page
    assert "auc over time" in page


def every_record_names_the_one_before(road: Road, dataset: DatasetVersion) -> None:
    endpoint = road.endpoint()
    version = road.admin.get(f"/api/v1/models/{MODEL}/versions/{endpoint.champion}", ModelVersion)
    assert version.dataset == dataset.ref
    run = road.admin.get(f"/api/v1/runs/{version.run_id}", Run)
    assert run.job_id == version.job_id
    promotions = road.admin.get("/api/v1/promotions", list[Promotion], model=MODEL)
    assert len(promotions) == 2
    events = road.admin.get("/api/v1/audit", list[Event], subject=f"model:{version.ref}")
    assert {"model.registered", "promotion.proposed", "promotion.completed"} <= {event.type for event in events}
