"""Curves: few points for a picture, and no extreme lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.records import Metric
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.tracking import Tracker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tracker(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Tracker]:
    db = Database(tmp_path / "tracking.sqlite", migrations.tracking, clock, bus)
    yield Tracker(db, Artifacts(tmp_path / "artifacts"), clock)
    db.close()


def logged(tracker: Tracker, values: list[float]) -> str:
    run = tracker.start_run(experiment="e", user="ann").id
    points = [Metric(key="m", value=value, step=step, at=NOW) for step, value in enumerate(values)]
    for start in range(0, len(points), 1000):
        tracker.log(run, metrics=points[start : start + 1000])
    return run


def test_a_short_series_is_drawn_whole_without_what_is_no_number(tracker: Tracker) -> None:
    run = logged(tracker, [1.0, math.nan, math.inf, 2.0])
    assert tracker.curve(run, "m") == ([(0, 1.0), (3, 2.0)], True)
    assert tracker.curve(run, "other") == ([], True)


def test_a_long_series_keeps_its_extremes(tracker: Tracker) -> None:
    values = [math.sin(step / 50) for step in range(20_000)]
    values[7_777], values[12_345], values[9_000] = 99.0, -99.0, math.nan
    run = logged(tracker, values)
    drawn, whole = tracker.curve(run, "m", most=600)
    assert not whole
    assert len(drawn) <= 600
    assert {(7_777, 99.0), (12_345, -99.0)} <= set(drawn)
    assert [step for step, _ in drawn] == sorted(step for step, _ in drawn)
    near, _ = tracker.curve(run, "m", most=600, first=7_700, last=7_800)
    assert len(near) == 101
    assert (tracker.run(run).extremes["m"]) == (-99.0, 99.0)
    sampled = tracker.sampled(run, "m", most=100)
    assert len(sampled) <= 101
    assert (sampled[0].step, sampled[-1].step) == (0, 19_999)
