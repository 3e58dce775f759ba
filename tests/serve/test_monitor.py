"""Drift from served rows to an alert, and back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from mlbox.clock import Clock, SystemClock
from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.ids import new_id
from mlbox.records import Alert, DriftResult, ModelVersion, Prediction
from mlbox.serve.inference.server import PredictRow
from mlbox.serve.monitoring.judge import LEVEL
from mlbox.serve.monitoring.monitor import DRIFT, MISSING, SUSPECTED, Monitor
from mlbox.serve.monitoring.reference import make_reference, store_reference
from mlbox.store.monitoring.alerts import Alerts
from mlbox.store.registry.registry import NewVersion
from tests.conftest import wait_for
from tests.serve.batches import batches
from tests.serve.house import FEATURES, House


def serve(house: House, amounts: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    visits = rng.normal(size=len(amounts))
    rows = [
        PredictRow(key=str(n), features={"amount": float(a), "visits": float(v)})
        for n, (a, v) in enumerate(zip(amounts, visits, strict=True))
    ]
    house.ask(*rows)


def a_prediction(house: House, version: ModelVersion, amount: float | None, *, score: float = 0.0) -> Prediction:
    """A served row that the log may be given."""
    return Prediction(
        id=new_id(),
        model=version.model,
        version=version.version,
        role="champion",
        at=house.clock.real(),
        domain_at=house.clock.now(),
        caller="carl",
        entity={},
        features={FEATURES[0]: amount, FEATURES[1]: 0.0},
        score=score,
        latency_ms=1.0,
    )


def replace_reference(house: House, content: bytes) -> ModelVersion:
    """The next version, in Production, with another reference."""
    reference = store_reference(house.artifacts, content)
    new = NewVersion(model="score", features=FEATURES, reference=reference, trained_by="ann", submitted_by="ann")
    version = house.registry.register(new)
    promotion = house.promotions.get(house.promote(version))
    if promotion.state == "shadow":
        house.promotions.shadow_done(promotion.id, "seen")
    house.approve(promotion.id)
    while house.promotions.open("score"):
        house.promotions.next_step(promotion.id, "held")
    return version


def watching(house: House, *, clock: Clock | None = None, **settings: float) -> Monitor:
    """Another monitor over the same stores."""
    return Monitor(
        house.dbs["monitoring"], house.registry, house.artifacts, house.log, clock or house.clock, **settings
    )


def checked(house: House) -> dict[str, DriftResult]:
    return {result.feature: result for result in house.monitor.check("score")}


def drifting(house: House) -> list[Alert]:
    return [alert for alert in house.monitor.alerts() if alert.name == DRIFT]


def by_feature(house: House) -> dict[str, str]:
    return {result.feature: result.verdict for result in house.monitor.check("score")}


def test_few_rows_say_nothing_and_leave_alerts_alone(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.zeros(99))
    assert set(by_feature(serving).values()) == {"not_enough_data"}
    assert serving.monitor.alerts() == []


def test_a_shift_alerts_names_the_feature_and_is_resolved_when_it_is_gone(serving: House) -> None:
    serving.serve_one()
    rng = np.random.default_rng(2)
    serve(serving, rng.normal(loc=2, size=300))
    assert by_feature(serving) == {FEATURES[0]: "alert", FEATURES[1]: "ok"}
    (alert,) = serving.monitor.alerts()
    assert (alert.state, alert.labels) == ("firing", {"model": "score", "feature": FEATURES[0]})
    assert "300 rows" in alert.summary
    by_feature(serving)
    assert len(serving.monitor.alerts()) == 1, "a condition that lasts is one alert"

    serving.later(days=31)
    serve(serving, rng.normal(size=2000))
    assert by_feature(serving)[FEATURES[0]] == "ok"
    (resolved,) = serving.monitor.alerts(state="resolved")
    assert resolved.id == alert.id
    assert resolved.resolved_at == serving.clock.now()
    assert [r.verdict for r in serving.monitor.history("score", FEATURES[0])] == ["alert", "alert", "ok"]


def test_between_the_thresholds_an_alert_stays_as_it_is(serving: House) -> None:
    serving.serve_one()
    rng = np.random.default_rng(3)
    serve(serving, rng.normal(loc=0.4, size=3000))
    assert by_feature(serving)[FEATURES[0]] == "investigate"
    assert drifting(serving) == [], "none fires, and none begins"

    serving.later(days=31)
    serve(serving, rng.normal(loc=2, size=300))
    assert by_feature(serving)[FEATURES[0]] == "alert"
    (alert,) = drifting(serving)
    serving.later(days=31)
    serve(serving, rng.normal(loc=0.4, size=3000))
    assert by_feature(serving)[FEATURES[0]] == "investigate"
    assert drifting(serving) == [alert], "one fires, and goes on"


def test_what_is_to_investigate_is_told_where_it_is_more_than_chance(serving: House) -> None:
    serving.serve_one()
    rng = np.random.default_rng(3)
    serve(serving, rng.normal(loc=0.4, size=3000))
    found = checked(serving)[FEATURES[0]]
    assert (found.verdict, found.confirmed) == ("investigate", True)
    (alert,) = serving.monitor.alerts(state="firing")
    assert (alert.name, alert.labels["feature"]) == (SUSPECTED, FEATURES[0])
    serving.later(days=31)
    serve(serving, rng.normal(size=3000))
    assert checked(serving)[FEATURES[0]].verdict == "ok"
    assert serving.monitor.alerts(state="firing") == []


def test_what_may_be_chance_is_told_when_it_lasts_for_two_windows(serving: House) -> None:
    serving.serve_one()
    rng = np.random.default_rng(2)
    verdicts = []
    for _ in range(3):
        serve(serving, rng.normal(loc=0.25, size=101))
        found = checked(serving)[FEATURES[0]]
        verdicts.append((found.verdict, found.confirmed))
        assert found.p_adjusted is not None
        assert found.p_adjusted > LEVEL
        serving.later(days=20)
        checked(serving)  # half of what it sees it saw the time before
        serving.later(days=20)
    assert verdicts == [("investigate", False), ("investigate", True), ("investigate", True)]


def test_a_check_reads_what_came_since_the_last_one_only(serving: House) -> None:
    serving.serve_one()
    rng = np.random.default_rng(5)
    for number in range(34):  # more than are merged into one file
        serve(serving, rng.normal(loc=number / 10, size=40))
        found = checked(serving)
        fresh = {result.feature: result for result in watching(serving).check("score")}
        assert found == {name: msgspec.structs.replace(result, at=found[name].at) for name, result in fresh.items()}
        serving.later(days=1)
    assert found[FEATURES[0]].current_rows == 31 * 40


def test_a_feature_that_the_reference_lacks_has_a_state_and_stops_no_other(serving: House) -> None:
    serving.serve_one()
    odd = {FEATURES[0]: np.full(300, np.nan)}
    version = replace_reference(serving, make_reference(pa.table(odd), [FEATURES[0]]))
    serving.log.put(batches([a_prediction(serving, version, 0.0) for _ in range(200)]))
    found = checked(serving)
    assert {name: result.reference for name, result in found.items()} == {
        FEATURES[0]: "empty",
        FEATURES[1]: "absent",
    }
    assert {result.verdict for result in found.values()} == {"not_enough_data"}


@pytest.mark.parametrize(("values", "state"), [([7.0] * 300, "constant"), ([np.inf, 1.0, 2.0] * 100, "infinite")])
def test_odd_references_are_compared_and_named(serving: House, values: list[float], state: str) -> None:
    serving.serve_one()
    version = replace_reference(serving, make_reference(pa.table(dict.fromkeys(FEATURES, values)), FEATURES))
    serving.log.put(batches([a_prediction(serving, version, 7.0) for _ in range(200)]))
    found = checked(serving)[FEATURES[0]]
    assert (found.reference, found.statistic) == (state, 0.0 if state == "constant" else pytest.approx(2 / 3))
    assert found.measures is not None


def test_the_window_ends_where_the_days_do(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.full(200, 50.0))
    serving.later(days=31)
    assert set(by_feature(serving).values()) == {"not_enough_data"}


def test_the_last_check_is_remembered(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.zeros(200))
    assert serving.monitor.latest("score") == []
    found = serving.monitor.check("score")
    assert serving.monitor.latest("score") == sorted(found, key=lambda result: result.feature)


def test_few_rows_leave_an_alert_that_fires_alone(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.full(200, 50.0))
    by_feature(serving)
    (alert,) = serving.monitor.alerts()
    serving.later(days=31)
    assert set(by_feature(serving).values()) == {"not_enough_data"}
    assert serving.monitor.alerts() == [alert]
    assert all(result.statistic is None for result in serving.monitor.latest("score"))


def test_the_window_is_of_the_last_rows(serving: House) -> None:
    serving.serve_one()
    monitor = watching(serving, window=150)
    serve(serving, np.full(200, 50.0))
    serve(serving, np.random.default_rng(0).normal(size=500)[-150:])
    found = {result.feature: result for result in monitor.check("score")}
    assert found[FEATURES[0]].current_rows == 150
    assert found[FEATURES[0]].verdict == "ok"


def test_shadows_are_not_in_the_window(serving: House) -> None:
    version = serving.serve_one()
    shadow = msgspec.structs.replace(a_prediction(serving, version, 50.0), role="shadow")
    serving.log.put(batches([shadow] * 200))
    assert {result.current_rows for result in serving.monitor.check("score")} == {0}


def test_missing_values_are_counted_and_a_rise_is_flagged(serving: House) -> None:
    version = serving.serve_one()
    serving.log.put(batches([a_prediction(serving, version, None if n < 30 else 0.0) for n in range(200)]))
    found = checked(serving)
    assert (found[FEATURES[0]].current_missing, found[FEATURES[0]].missing_risen) == (30, True)
    assert found[FEATURES[1]].missing_risen is False
    (alert,) = [alert for alert in serving.monitor.alerts(state="firing") if alert.name == MISSING]
    assert alert.value == 0.15
    assert "15.0% of its values are missing" in alert.summary
    serving.log.put(batches([a_prediction(serving, version, 0.0) for _ in range(200)]))
    serving.monitor.check("score")
    assert MISSING not in {alert.name for alert in serving.monitor.alerts(state="firing")}


def test_a_feature_that_no_row_has_is_missing_in_all(serving: House) -> None:
    version = serving.serve_one()
    row = a_prediction(serving, version, 0.0)
    without = msgspec.structs.replace(row, features={FEATURES[1]: 0.0})
    serving.log.put(batches([without] * 200))
    found = {result.feature: result for result in serving.monitor.check("score")}[FEATURES[0]]
    assert (found.current_rows, found.current_missing, found.missing_risen) == (200, 200, True)
    assert found.verdict == "not_enough_data"


def test_scores_are_compared_where_their_training_values_are_known(serving: House) -> None:
    rng = np.random.default_rng(6)
    trained = pa.table({name: rng.normal(size=500) for name in (*FEATURES, "score")})
    version = replace_reference(serving, make_reference(trained, [*FEATURES, "score"]))
    serving.log.put(batches([a_prediction(serving, version, float(v), score=9.0) for v in rng.normal(size=300)]))
    assert {r.feature: r.verdict for r in serving.monitor.check("score")}["score"] == "alert"


def test_an_alert_of_a_feature_that_is_gone_ends(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.full(200, 50.0))
    by_feature(serving)
    assert serving.monitor.alerts()[0].state == "firing"
    rng = np.random.default_rng(7)
    replace_reference(serving, make_reference(pa.table({FEATURES[1]: rng.normal(size=500)}), [FEATURES[1]]))
    serving.monitor.check("score")
    (alert,) = serving.monitor.alerts()
    assert alert.state == "resolved"
    (event,) = serving.dbs["monitoring"].events(type="alert.resolved")
    assert "is no feature of score/2" in event.data["reason"]


def test_a_check_ends_no_alert_of_another_model(serving: House) -> None:
    serving.serve_one()
    db, other = serving.dbs["monitoring"], {"model": "other", "feature": "gone"}
    db.write(lambda tx: Alerts(db).apply(tx, DRIFT, other, "fire", summary="it drifts"))
    serving.monitor.check("score")
    assert [alert.state for alert in serving.monitor.alerts()] == ["firing"]


def test_a_check_is_an_event_beside_its_alerts(serving: House) -> None:
    version = serving.serve_one()
    serve(serving, np.full(200, 50.0))
    serving.monitor.check("score")
    fired, checked = serving.dbs["monitoring"].events()
    assert (checked.type, checked.subject) == ("drift.checked", f"model:{version.ref}")
    assert checked.data == {"features": 2, "worst": 1.0, "missing_risen": []}
    assert fired.data["labels"] == {"model": "score", "feature": FEATURES[0]}


def test_results_carry_domain_time(serving: House) -> None:
    serving.serve_one()
    moments = []
    for _ in range(3):
        serving.monitor.check("score")
        moments.append(serving.clock.now())
        serving.later(hours=6)
    assert [result.at for result in serving.monitor.history("score", FEATURES[0])] == moments
    assert [result.at for result in serving.monitor.history("score", FEATURES[0], limit=2)] == moments[1:]


def test_a_reference_that_cannot_be_read_is_told(serving: House) -> None:
    version = serving.serve_one()
    path = serving.artifacts.path(version.reference or "")
    path.chmod(0o600)
    path.write_bytes(b"not an archive")
    with pytest.raises(Unavailable, match="reference of score/1 cannot be read"):
        serving.monitor.check("score")


def test_the_summaries_name_the_worst_feature(serving: House) -> None:
    assert serving.monitor.summaries() == []
    serving.serve_one()
    (before,) = serving.monitor.summaries()
    assert (before.model, before.version, before.checked_at) == ("score", 1, None)
    serve(serving, np.full(200, 50.0))
    serving.monitor.check("score")
    (after,) = serving.monitor.summaries()
    assert (after.features, after.drifting, after.worst_feature, after.worst_statistic) == (2, 1, FEATURES[0], 1.0)
    assert serving.monitor.summaries(after="score") == []


def test_models_are_checked_by_themselves_every_so_many_seconds(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.full(200, 50.0))
    monitor = watching(serving, clock=SystemClock(), every=0.01, window_days=36500)
    monitor.start()
    try:
        wait_for(lambda: len(monitor.history("score", FEATURES[0])) > 1, what="two checks")
    finally:
        monitor.close()
    assert len(monitor.alerts(state="firing")) == 1


def test_a_model_that_cannot_be_checked_keeps_no_other_from_it(
    serving: House, caplog: pytest.LogCaptureFixture
) -> None:
    version = serving.serve_one()
    path = serving.artifacts.path(version.reference or "")
    path.chmod(0o600)
    path.write_bytes(b"not an archive")
    serving.monitor.check_all()
    assert "score/1 could not be checked" in caplog.text


def test_in_replay_mode_checks_are_on_demand(serving: House) -> None:
    before = threading.active_count()
    monitor = watching(serving, every=0.01)
    monitor.start()
    assert threading.active_count() == before
    monitor.close()


def test_checks_at_once_leave_one_alert(serving: House) -> None:
    serving.serve_one()
    serve(serving, np.full(200, 50.0))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(serving.monitor.check, ["score"] * 8))
    assert len(serving.monitor.alerts()) == 1
    assert len(serving.monitor.history("score", FEATURES[0])) == 8


def test_a_model_that_serves_nothing_is_not_found(serving: House) -> None:
    with pytest.raises(NotFound):
        serving.monitor.check("nothing")
    serving.register()
    with pytest.raises(NotFound, match="in Production"):
        serving.monitor.check("score")


def test_performance_is_estimated_from_scores_that_are_probabilities(serving: House) -> None:
    version = serving.serve_one()
    scores = np.random.default_rng(1).beta(2, 2, size=300)
    serving.log.put(batches([a_prediction(serving, version, 0.0, score=float(score)) for score in scores]))
    found = serving.monitor.estimate("score")
    assert found.predictions == 300
    assert found.metrics["accuracy"].value == pytest.approx(np.maximum(scores, 1 - scores).mean())
    serving.log.put(batches([a_prediction(serving, version, 0.0, score=1.5)]))
    with pytest.raises(InvalidInput, match="no probabilities"):
        serving.monitor.estimate("score")
