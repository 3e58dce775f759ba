"""A clock that is wrong for a while, ahead by hours or by a year, and put back: nothing is lost, and nobody is left untold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox import ids
from mlbox.clock import ManualClock
from mlbox.errors import Conflict
from mlbox.events import EventBus
from mlbox.records import HoldSpec
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.monitoring.alert_rules import parse
from mlbox.store.monitoring.alerts import Alerts
from mlbox.store.monitoring.sure_time import DOUBT, JUMPED, MOST, Seen, look
from tests.serve.house import House
from tests.serve.kept import NOW, Kept
from tests.serve.test_monitor import by_feature, serve
from tests.serve.test_notifier import Desk, rules_of

YEAR, HOURS, NONE = timedelta(days=365), timedelta(hours=6), timedelta(0)
NORMAL = np.random.default_rng(0).normal(size=500)


class WrongClock(ManualClock):
    """A clock that somebody sets."""

    def set(self, to: datetime) -> None:
        self._now = to


@pytest.fixture
def wrong() -> WrongClock:
    return WrongClock(NOW)


@pytest.fixture
def desk(tmp_path: Path, wrong: WrongClock) -> Iterator[Desk]:
    made = Desk(tmp_path, wrong, rules_of(**{"for": "1h", "repeat": "1d"}))
    yield made
    made.db.close()


# -- what is removed for its age -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-3000, 3000).map(lambda hours: timedelta(hours=hours)), st.booleans()), max_size=20)
)
def test_what_is_sure_never_leaps(steps: list[tuple[timedelta, bool]]) -> None:
    """Steps of the clock, in which the process ran for as long, or no time passed."""
    seen, believed = look(None, NOW, NONE), NOW
    for step, ran in steps:
        before, now = seen, seen.at + step
        seen = look(before, now, max(step, NONE) if ran else NONE)
        assert seen.sure <= seen.at == now
        if step < NONE:
            believed = now
            assert seen == Seen(now, now), "by a clock that was put back less is old"
        elif step > MOST and not ran:
            assert (seen.sure, seen.until) == (before.sure, now + DOUBT)
        elif before.until is None or now >= before.until:
            believed = now
            assert seen == Seen(now, now)
        assert seen.sure == believed


@pytest.mark.parametrize("ahead", [timedelta(days=200), 3 * YEAR])
def test_a_leap_removes_nothing_and_ends_no_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    monkeypatch.setattr("tests.serve.kept.ManualClock", WrongClock)
    kept = Kept(tmp_path)
    clock, alerts = kept.clock, Alerts(kept.dbs["monitoring"])
    assert isinstance(clock, WrongClock)
    try:
        young, held = (kept.put(kept.model(name), name, days_ago=days) for name, days in (("m", 10), ("h", 400)))
        spec = HoldSpec(model="h", entity={"who": "h"}, reason="case 12", expires_at=NOW + timedelta(days=30))
        kept.keeping.hold(spec, actor="lea")
        assert kept.keeping.expire() == (0, 0)
        clock.set(NOW + ahead)
        assert kept.keeping.expire(dry_run=True) == kept.keeping.expire() == (0, 0)
        with pytest.raises(Conflict, match="case 12"):
            kept.keeping.erase({"who": "h"}, model=None, reason="asked", actor="ann")
        (alert,) = alerts.page(state="firing")
        assert alert.name == JUMPED
        assert f"from 2026-01-01 00:00 UTC to {NOW + ahead:%Y-%m-%d}" in alert.summary
        clock.set(NOW + HOURS)
        assert kept.keeping.expire() == (0, 0)
        assert (alerts.page(state="firing"), kept.ids("m"), kept.ids("h")) == ([], {young.id}, {held.id})
        clock.set(NOW + ahead)
        kept.keeping.expire()
        for _ in range(DOUBT.days):
            assert kept.ids("m") == {young.id}
            clock.advance(clock.now() + timedelta(days=1))
            gone, _ = kept.keeping.expire()
        assert gone == 2, "it was not put back for a week: it is so late"
        assert alerts.page(state="firing") == []
    finally:
        kept.close()


# -- windows by time -------------------------------------------------------------------------------------------------------


def test_a_window_is_as_it_was_when_the_clock_is(tmp_path: Path, wrong: WrongClock, bus: EventBus) -> None:
    house = House(tmp_path, wrong, bus)
    try:
        house.serve_one()
        serve(house, np.full(200, 50.0))
        before = by_feature(house)
        assert "alert" in before.values()
        for ahead in (HOURS, YEAR):
            wrong.set(NOW + ahead)
            verdicts = by_feature(house)
            assert verdicts == (before if ahead == HOURS else dict.fromkeys(before, "not_enough_data"))
            assert [alert.name for alert in house.monitor.alerts(state="firing")] == ["feature_drift"], "it stays"
        wrong.set(NOW + HOURS)
        assert by_feature(house) == before
        serve(house, NORMAL)
        assert house.monitor.check("score")[0].current_rows == 700, "and it goes on"
    finally:
        house.close()


# -- alerts, reminders, silences -------------------------------------------------------------------------------------------


def test_what_waits_does_not_wait_for_a_year(desk: Desk, wrong: WrongClock) -> None:
    wrong.set(NOW + YEAR)
    desk.send("fire")
    wrong.set(NOW)
    desk.send("fire")
    assert desk.alerts.page(state="firing") == [], "it has not lasted yet by the clock as it is"
    desk.later(hours=1)
    desk.send("fire")
    assert desk.told() == ["1 firing: model delay"]


def test_reminders_go_on_when_the_clock_is_put_back(desk: Desk, wrong: WrongClock) -> None:
    desk.send("fire")
    desk.later(hours=1)
    desk.send("fire")
    assert len(desk.told()) == 1
    for ahead, told in ((HOURS, 1), (YEAR, 2), (HOURS, 3), (HOURS, 3), (HOURS + timedelta(days=1), 4)):
        wrong.set(NOW + ahead)
        assert len(desk.told()) == told, ahead


def test_a_silence_of_a_wrong_clock_mutes_nobody_for_a_year(tmp_path: Path, wrong: WrongClock) -> None:
    desk = Desk(tmp_path, wrong, rules_of(repeat="1h"))
    try:
        desk.silences.add({"model": "delay"}, hold=timedelta(hours=2), reason="backfill", actor="ann")
        desk.send("fire")
        assert desk.told() == []
        wrong.set(NOW + YEAR)
        assert len(desk.told()) == 1, "by this clock it is over"
        desk.silences.add({"model": "delay"}, hold=timedelta(hours=2), reason="backfill", actor="ann")
        wrong.set(NOW + timedelta(hours=1))
        assert len(desk.told()) == 1, "the first one holds again"
        wrong.set(NOW + timedelta(hours=3))
        assert len(desk.told()) == 2, "and the second one does not, which would hold until next year"
    finally:
        desk.db.close()


def test_an_alertmanager_is_told_of_no_end_before_a_beginning(tmp_path: Path, wrong: WrongClock) -> None:
    channel = {"ops": {"type": "alertmanager", "url": "http://127.0.0.1:9093"}}
    desk = Desk(tmp_path, wrong, parse({"channel": channel, "rule": {"default": {"channels": ["ops"]}}}))
    try:
        wrong.set(NOW + YEAR)
        desk.send("fire")
        for moment, signal in ((NOW, "fire"), (NOW + HOURS, "resolve")):
            wrong.set(moment)
            desk.send(signal)
            (alert,) = desk.alerts.page()
            assert alert.resolved_at is None or alert.resolved_at >= alert.fired_at
            desk.notifier.run()
            *_, message = desk.outbox.due(2**62)
            (sent,) = json.loads(desk.notifier.request(message).body)
            begins, ends = (datetime.fromisoformat(sent[name]) for name in ("startsAt", "endsAt"))
            assert begins == moment <= ends
            assert (ends == moment) == (signal == "resolve")
    finally:
        desk.db.close()


# -- ids -------------------------------------------------------------------------------------------------------------------


def test_what_is_newest_is_so_after_a_restart_too(
    tmp_path: Path, wrong: WrongClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is newest, in the log of predictions and in that of events, is told by ids."""

    def started() -> list[str]:
        db = Database(tmp_path / "monitoring.sqlite", migrations.monitoring, wrong, EventBus())
        db.write(lambda tx: tx.emit("alert.fired", "alert:x", "mlbox"))
        found = [event.id for event in db.events(limit=10)]
        db.close()
        return found

    monkeypatch.setattr(ids, "_last", ids._last)  # and afterwards as before: no other test has ids of next year
    first = started()
    ahead = int((datetime.now(UTC) + YEAR).timestamp() * 1e9)
    with monkeypatch.context() as patched:
        patched.setattr(ids.time, "time_ns", lambda: ahead)
        second, last = started(), ids.new_id()
    monkeypatch.setattr(ids, "_last", 0)  # as another process has it
    third = started()
    assert third[1:] == second
    assert second[1:] == first
    assert ids.new_id() > third[0] > last, "it was made after the last event, and is older all the same"
