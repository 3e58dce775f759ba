"""Drift from served rows to an alert, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import NotFound
from mlbox.events import EventBus
from mlbox.serve.server import PredictRow
from mlbox.store import migrations
from mlbox.store.alerts import MOVES, Alerts
from mlbox.store.db import Database
from tests.serve.house import FEATURES, House


def serve(house: House, amounts: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    visits = rng.normal(size=len(amounts))
    rows = [
        PredictRow(key=str(n), features={"amount": float(a), "visits": float(v)})
        for n, (a, v) in enumerate(zip(amounts, visits, strict=True))
    ]
    house.ask(*rows)


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
    assert serving.monitor.alerts() == []


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


def test_a_model_that_serves_nothing_is_not_found(serving: House) -> None:
    with pytest.raises(NotFound):
        serving.monitor.check("nothing")
    serving.register()
    with pytest.raises(NotFound, match="in Production"):
        serving.monitor.check("score")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["fire", "resolve"]), st.sampled_from("ab")), max_size=12))
def test_at_most_one_alert_fires_for_its_labels(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, str]]
) -> None:
    clock = ManualClock(parse_time("2026-01-01T00:00Z"))
    db = Database(tmp_path_factory.mktemp("alerts") / "m.sqlite", migrations.monitoring, clock, EventBus())
    alerts, firing, ended = Alerts(db), set(), 0
    for action, label in moves:
        if action == "fire":
            alerts.fire("drift", {"feature": label}, "it drifts", 0.5)
            firing.add(label)
        else:
            assert alerts.resolve("drift", {"feature": label}) == (label in firing)
            ended += label in firing
            firing.discard(label)
        assert {a.labels["feature"] for a in alerts.page(state="firing")} == firing
        assert len(alerts.page(state="resolved")) == ended
    assert set(MOVES) == {"firing", "resolved"}
    db.close()
