"""Curves: few points for a picture, and no extreme lost."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mlbox.clock import ManualClock, to_us
from mlbox.errors import Conflict, InvalidInput
from mlbox.events import EventBus
from mlbox.records import Metric
from mlbox.store import migrations
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database
from mlbox.store.tracking import rollups
from mlbox.store.tracking.tracking import Tracker

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


points = st.lists(
    st.tuples(
        st.one_of(st.integers(-300, 300), st.integers(-(2**63) + 1, 2**63 - 1)),
        st.one_of(st.floats(-9, 9), st.sampled_from([math.nan, math.inf, -math.inf])),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(points, min_size=1, max_size=8),
    view=st.tuples(st.integers(-320, 320), st.integers(0, 640)),
    few=st.booleans(),
)
def test_rolled_series_draw_the_extremes_of_their_points(
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    batches: list[list[tuple[int, float]]],
    view: tuple[int, int],
    few: bool,
) -> None:
    """Whatever order points come in, each batch rolls, and any part of the series shows its least and greatest value."""
    monkeypatch.setattr(rollups, "ROLL_AT", 8)
    monkeypatch.setattr(rollups, "_OCCUPANCY", 2)
    run = tracker.start_run(experiment="e", user="ann").id
    for batch in batches:
        tracker.log(run, metrics=[Metric(key="m", value=value, step=step, at=NOW) for step, value in batch])
    first, last = (view[0], view[0] + view[1]) if few else (None, None)
    every = [point for batch in batches for point in batch]
    shown = [(s, v) for s, v in every if math.isfinite(v) and (first is None or first <= s <= (last or 0))]
    drawn, _ = tracker.curve(run, "m", most=24, first=first, last=last)
    assert set(drawn) <= set(shown)
    assert len(drawn) <= 24
    for extreme in (min, max):
        values = [value for _, value in shown]
        if values:
            assert extreme(value for _, value in drawn) == extreme(values)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(points, min_size=2, max_size=8))
def test_every_bucket_that_is_not_dirty_has_its_extremes(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, batches: list[list[tuple[int, float]]]
) -> None:
    monkeypatch.setattr(rollups, "ROLL_AT", 8)
    monkeypatch.setattr(rollups, "_OCCUPANCY", 2)
    run = tracker.start_run(experiment="e", user="ann").id
    for batch in batches:
        tracker.log(run, metrics=[Metric(key="m", value=value, step=step, at=NOW) for step, value in batch])
    (series,) = tracker.select("SELECT * FROM series WHERE run_id = ?", (run,))
    finite = [(step, value) for batch in batches for step, value in batch if math.isfinite(value)]
    for level in range(rollups.LEVELS if series["rolled_high"] is not None else 0):
        shift = series["grain"] + rollups.FINER * level
        expected: dict[int, list[float]] = {}
        for step, value in finite:
            expected.setdefault(step >> shift, []).append(value)
        kept = {
            row["bucket"]: (row["low"], row["high"])
            for row in tracker.select("SELECT * FROM rollup WHERE series = ? AND level = ?", (series["id"], level))
        }
        for bucket, values in expected.items():
            dirty = series["dirty_low"] is not None and (
                series["dirty_low"] >> shift <= bucket <= series["dirty_high"] >> shift
            )
            if not dirty:
                assert kept[bucket] == (min(values), max(values))


class Summaries(RuleBasedStateMachine):
    """What a series says of its points is what they are, whatever was logged, sent again, refused, deleted and restored."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        clock = ManualClock(NOW)
        self.db = Database(Path(self.folder.name) / "tracking.sqlite", migrations.tracking, clock, EventBus())
        self.tracker = Tracker(self.db, Artifacts(Path(self.folder.name)), clock)
        self.runs = [self.tracker.start_run(experiment="e", user="ann", params={"p": "1"}).id for _ in range(2)]
        self.points: dict[tuple[str, str], set[tuple[int, datetime, bool, float]]] = {}
        self.sent: list[tuple[str, list[Metric]]] = []
        self.deleted: set[str] = set()

    metrics = st.lists(
        st.builds(
            Metric,
            key=st.sampled_from("ab"),
            value=st.sampled_from([-1.0, 0.0, 2.5, math.nan, math.inf, -math.inf]),
            step=st.integers(-1, 2),
            at=st.integers(0, 2).map(lambda ms: NOW + timedelta(milliseconds=ms)),
        ),
        max_size=6,
    )

    def log(self, run: str, metrics: list[Metric], **more: Any) -> None:
        if run in self.deleted or more:
            with pytest.raises((InvalidInput, Conflict)):
                self.tracker.log(run, metrics=metrics, **more)
            return
        self.tracker.log(run, metrics=metrics)
        for one in metrics:
            assert one.value is not None
            empty = math.isnan(one.value)
            place = (one.step, one.at, empty, 0.0 if empty else one.value)
            self.points.setdefault((run, one.key), set()).add(place)

    @rule(which=st.integers(0, 1), metrics=metrics)
    def logged(self, which: int, metrics: list[Metric]) -> None:
        self.log(self.runs[which], metrics)
        self.sent.append((self.runs[which], metrics))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def sent_again(self, data: st.DataObject) -> None:
        self.log(*data.draw(st.sampled_from(self.sent)))

    @rule(which=st.integers(0, 1), metrics=metrics)
    def refused(self, which: int, metrics: list[Metric]) -> None:
        self.log(self.runs[which], metrics, params={"p": "2"})

    @rule(which=st.integers(0, 1))
    def deleted_or_restored(self, which: int) -> None:
        run = self.runs[which]
        if run in self.deleted:
            self.tracker.restore(run, actor="ann")
        else:
            self.tracker.delete(run, actor="ann")
        self.deleted ^= {run}

    @invariant()
    def as_the_points_are(self) -> None:
        rows = self.tracker.select("SELECT run_id, key, step, at_us, value, low, high, points FROM series", ())
        found = {(row["run_id"], row["key"]): tuple(row)[2:] for row in rows}
        assert found == {key: summary(points) for key, points in self.points.items()}

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()


def summary(points: set[tuple[int, datetime, bool, float]]) -> tuple[Any, ...]:
    step, at, empty, value = max(points)
    numbers = [number for _, _, empty, number in points if not empty]
    ends = (min(numbers, default=None), max(numbers, default=None))
    return (step, to_us(at), None if empty else value, *ends, len(points))


TestSummaries = Summaries.TestCase
TestSummaries.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)


def test_a_file_of_an_earlier_release_tells_of_its_points_as_they_are(
    tmp_path: Path, clock: ManualClock, bus: EventBus
) -> None:
    path = tmp_path / "tracking.sqlite"
    db = Database(path, migrations.tracking, clock, bus)
    tracker = Tracker(db, Artifacts(tmp_path), clock)
    run = logged(tracker, [1.0, 3.0, math.nan])
    db.write(lambda tx: tx.run("UPDATE series SET points = 9, value = 2"))
    db.write(lambda tx: tx.run("DELETE FROM _sqlite_migrations WHERE name = 'm008_series_summaries'"))
    db.close()
    db = Database(path, migrations.tracking, clock, bus)
    tracker = Tracker(db, Artifacts(tmp_path), clock)
    value = tracker.run(run).metrics["m"].value
    assert value is not None
    assert math.isnan(value)
    assert tracker.points([run]) == {"m": 3}
    db.close()
