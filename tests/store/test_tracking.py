"""What runs record, and what they may not change."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.records import Metric, Run
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.tracking.tracking import Tracker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tracker(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Tracker]:
    db = Database(tmp_path / "tracking.sqlite", migrations.tracking, clock, bus)
    yield Tracker(db, Artifacts(tmp_path / "artifacts"), clock)
    db.close()


@pytest.fixture
def run(tracker: Tracker) -> Run:
    return tracker.start_run(experiment="delay", user="ann", params={"lr": "0.1"}, tags={"kind": "mlp"})


def point(key: str, value: float, step: int = 0, seconds: int = 0) -> Metric:
    return Metric(key=key, value=value, step=step, at=NOW + timedelta(seconds=seconds))


def test_a_run_reads_back_as_it_was_recorded(tracker: Tracker, run: Run) -> None:
    tracker.log(
        run.id, metrics=[point("auc", 0.6, 1), point("auc", 0.7, 2)], params={"width": "64"}, tags={"kind": "net"}
    )
    found = tracker.run(run.id)
    assert (found.params, found.tags) == ({"lr": "0.1", "width": "64"}, {"kind": "net"})
    assert found.metrics["auc"].value == 0.7
    assert [m.value for m in tracker.history(run.id, "auc")] == [0.6, 0.7]
    assert found.status == "RUNNING"


def test_the_last_value_is_that_of_the_highest_step_in_whatever_order_they_come(tracker: Tracker, run: Run) -> None:
    tracker.log(run.id, metrics=[point("loss", 1.0, 3), point("loss", 3.0, 1)])
    tracker.log(run.id, metrics=[point("loss", 2.0, 2)])
    assert tracker.run(run.id).metrics["loss"].value == 1.0
    assert [m.step for m in tracker.history(run.id, "loss")] == [1, 2, 3]


def test_a_point_sent_twice_counts_once(tracker: Tracker, run: Run) -> None:
    for _ in range(2):
        tracker.log(run.id, metrics=[point("loss", 1.0), point("loss", math.nan, 1), point("loss", 1.0, seconds=1)])
    assert len(tracker.history(run.id, "loss")) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(values=st.lists(st.floats(width=64), min_size=1, max_size=5))
def test_any_number_is_kept_faithfully(tracker: Tracker, values: list[float]) -> None:
    run = tracker.start_run(experiment="floats", user="ann")
    tracker.log(run.id, metrics=[point("v", value, step) for step, value in enumerate(values)])
    for kept, value in zip(tracker.history(run.id, "v"), values, strict=True):
        assert kept.value == value or (math.isnan(kept.value) and math.isnan(value))
    last = tracker.run(run.id).metrics["v"].value
    assert last == values[-1] or math.isnan(values[-1])


def test_a_parameter_is_written_once_and_a_refused_batch_leaves_nothing(tracker: Tracker, run: Run) -> None:
    tracker.log(run.id, params={"lr": "0.1"})
    with pytest.raises(Conflict, match=r"'lr' is '0.1' already") as caught:
        tracker.log(run.id, metrics=[point("loss", 1.0)], params={"new": "1", "lr": "0.2"})
    assert caught.value.field == "params.lr"
    assert tracker.run(run.id).params == {"lr": "0.1"}
    assert tracker.history(run.id, "loss") == []


def test_a_run_ends_once_and_takes_late_metrics(tracker: Tracker, run: Run) -> None:
    ended = tracker.end_run(run.id, "FINISHED")
    assert ended.ended_at is not None
    assert tracker.end_run(run.id, "FINISHED") == ended
    with pytest.raises(Conflict, match="ended as FINISHED"):
        tracker.end_run(run.id, "FAILED")
    tracker.log(run.id, metrics=[point("late", 1.0)])
    assert "late" in tracker.run(run.id).metrics


def test_runs_are_paged_newest_first(tracker: Tracker) -> None:
    ids = [tracker.start_run(experiment=f"e{n % 2}", user="ann").id for n in range(5)]
    page = tracker.runs(limit=2)
    assert [r.id for r in page] == ids[:2:-1]
    assert [r.id for r in tracker.runs(limit=9, after=page[-1].id)] == ids[2::-1]
    assert [r.id for r in tracker.runs(experiment="e1")] == [ids[3], ids[1]]


def test_the_runs_of_one_experiment_come_from_its_own_index(tracker: Tracker, tmp_path: Path) -> None:
    seen: list[str] = []
    with contextlib.closing(sqlite3.connect(tmp_path / "tracking.sqlite")) as db:
        db.set_trace_callback(seen.append)
        spied = Tracker(Spy(db), Artifacts(tmp_path / "artifacts"), ManualClock(NOW))  # type: ignore[arg-type]
        spied.runs(experiment="rare", limit=5)
        query = next(sql for sql in seen if "FROM run" in sql)
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert "run_experiment" in plan
    assert "SCAN" not in plan


class Spy:
    """Reads of a tracker's own queries, as SQLite sees them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        db.row_factory = sqlite3.Row
        db.create_function("visible", 2, lambda kind, name: True)
        self._db = db

    def all(self, sql: str, parameters: object = ()) -> list[sqlite3.Row]:
        return self._db.execute(sql, parameters).fetchall()  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    points=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([0.0, 1.5, math.nan, math.inf, -math.inf])),
        max_size=20,
    ),
    limit=st.integers(1, 4),
)
def test_a_history_read_in_pages_is_the_history(
    tracker: Tracker, points: list[tuple[int, int, float]], limit: int
) -> None:
    run = tracker.start_run(experiment="pages", user="ann")
    tracker.log(run.id, metrics=[point("m", value, step, seconds) for step, seconds, value in points])
    whole = tracker.history(run.id, "m")
    paged: list[Metric] = []
    while page := tracker.history(run.id, "m", limit=limit, after=paged[-1] if paged else None):
        assert len(page) <= limit
        paged += page
    assert repr(paged) == repr(whole)
    assert [(m.step, m.at_us) for m in whole] == sorted((m.step, m.at_us) for m in whole)
    assert len(whole) == len({(step, seconds, str(value)) for step, seconds, value in points})


def test_a_run_of_too_long_a_name_is_refused(tracker: Tracker) -> None:
    with pytest.raises(InvalidInput, match="257 characters") as caught:
        tracker.start_run(experiment="delay", user="ann", name="x" * 257)
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"metrics": [point("m", 0)] * 1001}, "metrics"),
        ({"metrics": [point("", 0)]}, "metrics.key"),
        ({"metrics": [point("m", 0, 2**63)]}, "metrics.step"),
        ({"params": {"x" * 257: "1"}}, "params"),
        ({"params": {"x": "1" * 6001}}, "params.x"),
    ],
)
def test_what_is_too_large_is_refused_by_name(tracker: Tracker, run: Run, what: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        tracker.log(run.id, **what)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_artifacts_are_named_by_path(tracker: Tracker, run: Run) -> None:
    tracker.add_artifact(run.id, "models/m.onnx", "a" * 64, 3)
    assert tracker.artifact(run.id, "models/m.onnx").size == 3
    with pytest.raises(NotFound, match="no artifact"):
        tracker.artifact(run.id, "other")
    with pytest.raises(InvalidInput):
        tracker.add_artifact(run.id, "../x", "a" * 64, 3)
    with pytest.raises(NotFound, match="no run"):
        tracker.log("nope", tags={"a": "b"})
