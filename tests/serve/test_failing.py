"""A model whose predictions fail, and predictions that are not logged, are alerts of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.records import Alert
from mlbox.serve.alerts.failing import Failing
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.monitoring.alerts import Alerts
from tests.conftest import wait_for
from tests.serve.test_sampling import batch


class Desk:
    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.db = Database(folder / "monitoring.sqlite", migrations.monitoring, clock, EventBus())
        self.log = PredictionLog(folder / "predictions", queue_limit=500, flush_seconds=3600)
        self.failing = Failing(self.db, self.log)

    def served(self, rows: int, errors: int = 0) -> None:
        if rows:
            self.log.put([batch([f"k{n}" for n in range(rows)])])
        if errors:
            self.log.record_error("churn", 1, "champion", rows=errors)
        self.failing.look()

    def alerts(self) -> list[tuple[str, str]]:
        return [(alert.name, alert.state) for alert in self.page()]

    def page(self) -> list[Alert]:
        return Alerts(self.db).page()


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    made = Desk(tmp_path, clock)
    yield made
    made.failing.close()
    made.log.close()
    made.db.close()


def test_a_model_whose_answers_fail_is_told_of_until_it_works(desk: Desk) -> None:
    desk.served(20, errors=20)
    assert desk.alerts() == [], "half of them is not more than half"
    desk.served(5, errors=15)
    (alert,) = desk.page()
    assert (alert.name, alert.labels, alert.state) == ("model_failing", {"model": "churn"}, "firing")
    assert alert.summary == "churn failed on 75% of the last 20 rows"
    desk.served(0)
    desk.served(70, errors=30)
    assert desk.alerts() == [("model_failing", "firing")], "it is neither down nor well"
    desk.served(95, errors=5)
    assert desk.alerts() == [("model_failing", "resolved")]


def test_few_rows_are_added_up_before_anything_is_said(desk: Desk) -> None:
    for _ in range(9):
        desk.served(0, errors=1)
        assert desk.alerts() == []
    desk.served(0, errors=1)
    assert desk.alerts() == [("model_failing", "firing")]


def test_what_a_shadow_fails_on_nobody_missed(desk: Desk) -> None:
    desk.log.record_error("churn", 2, "shadow", rows=100)
    desk.failing.look()
    assert desk.alerts() == []


def test_a_model_that_has_the_name_now_is_counted_anew(desk: Desk) -> None:
    desk.served(100)
    desk.log.forget("churn")
    desk.served(1)
    desk.served(0, errors=20)
    assert desk.alerts() == [("model_failing", "firing")]


def test_predictions_that_are_not_logged_are_told_of(desk: Desk) -> None:
    desk.served(400)
    desk.served(200)
    (alert,) = desk.page()
    assert (alert.name, alert.summary) == (
        "predictions_dropped",
        "200 predictions were answered and are not in the log",
    )
    desk.log.flush()
    desk.served(10)
    assert desk.alerts() == [("predictions_dropped", "resolved")]


def test_it_looks_by_itself(desk: Desk) -> None:
    desk.log.record_error("churn", 1, "champion", rows=20)
    desk.failing.start()
    wait_for(lambda: desk.alerts() == [("model_failing", "firing")], what="the alert")
