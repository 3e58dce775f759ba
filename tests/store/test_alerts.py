"""Alerts: the policy as a table, the store as a machine in any order of calls, and the picture of both in the docs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import Unavailable
from mlbox.events import EventBus
from mlbox.records import Alert, AlertState, Event
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.monitoring.alert_rules import parse
from mlbox.store.monitoring.alerts import MOVES, Alerts, Signal, State, Step, decide

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "drift.md"
signals = st.sampled_from(get_args(Signal))


@pytest.fixture
def db(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Database]:
    database = Database(tmp_path / "monitoring.sqlite", migrations.monitoring, clock, bus)
    yield database
    database.close()


def send(db: Database, signal: Signal, feature: str = "temp", *, value: float | None = 0.5, why: str = "why") -> Step:
    alerts, labels = Alerts(db), {"model": "delay", "feature": feature}
    return db.write(lambda tx: alerts.apply(tx, "drift", labels, signal, summary=why, value=value))


# -- the policy ---------------------------------------------------------------------------------------------------------


AFTER = {"wait": "pending", "open": "firing", "update": "firing", "forget": "inactive", "close": "resolved"}


@given(st.lists(signals))
def test_an_alert_fires_exactly_from_fire_to_resolve(sent: list[Signal]) -> None:
    """Whatever came before, the last signal that was not `hold` decides."""
    state: State = "inactive"
    for signal in sent:
        state = AFTER.get(decide(state, signal), state)
    said = [signal for signal in sent if signal != "hold"]
    assert (state == "firing") == (said[-1:] == ["fire"])


@given(st.sampled_from(["inactive", "pending", "firing"]), signals, st.booleans())
def test_each_step_is_a_move_of_the_table(state: State, signal: Signal, lasted: bool) -> None:
    after = AFTER.get(decide(state, signal, lasted=lasted), state)
    assert after == state or after in MOVES[state]
    assert AFTER.get(decide(after, signal, lasted=lasted), after) == after, "what is said twice changes the state once"


def test_a_condition_must_last_for_as_long_as_its_rule_wants(db: Database, clock: ManualClock, bus: EventBus) -> None:
    alerts = Alerts(db, parse({"rule": {"feature_drift": {"for": "10m"}}}))
    labels = {"model": "delay"}
    told: list[Event] = []

    def send(signal: Signal) -> Step:
        return db.write(lambda tx: alerts.apply(tx, "feature_drift", labels, signal, summary="D"))

    with bus.listening(told.append):
        assert [send("fire"), send("hold"), send("fire")] == ["wait", "nothing", "wait"]
        (waits,) = alerts.page(state="pending")
        clock.advance(clock.now() + timedelta(minutes=9))
        assert send("resolve") == "forget", "what ends before it lasted was nothing"
        assert alerts.page() == []
        assert send("fire") == "wait"
        clock.advance(clock.now() + timedelta(minutes=10))
        assert (send("fire"), send("fire"), send("resolve")) == ("open", "update", "close")
    assert [event.type for event in told] == ["alert.fired", "alert.resolved"]
    (alert,) = alerts.page()
    assert alert.state == "resolved"
    assert alert.id != waits.id
    assert alert.resolved_at == alert.fired_at == clock.now()


def test_the_picture_shows_every_move_and_no_other() -> None:
    picture = PAGE.read_text().split("stateDiagram-v2")[1].split("```")[0]
    assert set(re.findall(r"(\w+) --> (\w+)", picture)) == {(a, b) for a, ends in MOVES.items() for b in ends}
    assert set(MOVES) == {*get_args(AlertState), "inactive"}


# -- the store ----------------------------------------------------------------------------------------------------------


def test_an_alert_has_a_beginning_and_an_end_in_domain_time(db: Database, clock: ManualClock) -> None:
    began = clock.now()
    assert send(db, "fire") == "open"
    clock.advance(began + timedelta(days=2))
    assert send(db, "resolve") == "close"
    (alert,) = Alerts(db).page()
    assert (alert.state, alert.fired_at, alert.resolved_at) == ("resolved", began, began + timedelta(days=2))


def test_one_that_lasts_is_brought_up_to_date_and_keeps_its_beginning(db: Database, clock: ManualClock) -> None:
    send(db, "fire", value=0.3, why="D = 0.3")
    (first,) = Alerts(db).page()
    clock.advance(clock.now() + timedelta(days=1))
    assert send(db, "fire", value=0.6, why="D = 0.6") == "update"
    (alert,) = Alerts(db).page()
    assert (alert.id, alert.fired_at, alert.value, alert.summary) == (first.id, first.fired_at, 0.6, "D = 0.6")
    assert send(db, "hold", value=0.15) == "nothing"
    assert Alerts(db).page() == [alert]


def test_what_fires_again_is_another_alert(db: Database) -> None:
    for signal in ("fire", "resolve", "fire"):
        send(db, signal)
    newest, oldest = Alerts(db).page()
    assert (newest.state, oldest.state) == ("firing", "resolved")


def test_labels_are_the_same_in_any_order(db: Database) -> None:
    alerts = Alerts(db)
    for labels in ({"model": "m", "feature": "f"}, {"feature": "f", "model": "m"}):
        db.write(lambda tx, labels=labels: alerts.apply(tx, "drift", labels, "fire", summary="it drifts"))
    assert len(alerts.page()) == 1


def test_the_first_and_the_last_of_it_are_events(db: Database, bus: EventBus) -> None:
    seen: list[Event] = []
    with bus.listening(seen.append):
        for signal in ("resolve", "fire", "fire", "hold", "resolve", "resolve"):
            send(db, signal, why="because")
    assert [event.type for event in seen] == ["alert.fired", "alert.resolved"]
    (alert,) = Alerts(db).page()
    assert {event.subject for event in seen} == {f"alert:{alert.id}"}
    assert seen[0].data["summary"] == seen[1].data["reason"] == "because"


def test_a_write_that_fails_takes_its_alert_back(db: Database) -> None:
    alerts = Alerts(db)

    def write(tx: object) -> None:
        alerts.apply(tx, "drift", {"feature": "temp"}, "fire", summary="it drifts")
        raise Unavailable("The rest could not be written.")

    with pytest.raises(Unavailable, match="The rest"):
        db.write(write)
    assert alerts.page() == []
    assert db.events() == []


def test_the_database_holds_one_firing_alert_too(db: Database) -> None:
    send(db, "fire")
    again = (
        "INSERT INTO alert SELECT 'x', name, labels, state, summary, value, fired_us, resolved_us FROM alert LIMIT 1"
    )
    with pytest.raises(Unavailable, match="refused the write"):
        db.write(lambda tx: tx.run(again).rowcount)


def test_pages_go_from_new_to_old_without_a_gap(db: Database) -> None:
    for n in range(5):
        send(db, "fire", f"f{n}")
    send(db, "resolve", "f3")
    alerts = Alerts(db)
    found: list[Alert] = []
    while page := alerts.page(limit=2, after=found[-1].id if found else None):
        found += page
    assert [alert.labels["feature"] for alert in found] == ["f4", "f3", "f2", "f1", "f0"]
    assert [alert.labels["feature"] for alert in alerts.page(state="firing", limit=2)] == ["f4", "f2"]
    assert [alert.labels["feature"] for alert in alerts.page(state="resolved")] == ["f3"]


def test_each_list_is_read_from_an_index(db: Database) -> None:
    for where, index in (("state = 'firing' AND id < '~'", "alert_state"), ("id < '~'", "sqlite_autoindex_alert_1")):
        plan = db.all(f"EXPLAIN QUERY PLAN SELECT * FROM alert WHERE {where} ORDER BY id DESC LIMIT 9")
        assert index in plan[0]["detail"]
        assert len(plan) == 1, "nothing is sorted"


class AnyOrder(RuleBasedStateMachine):
    """Any signals of any conditions, with restarts between: the store is what a dictionary would be."""

    conditions = st.tuples(st.sampled_from(["drift", "latency"]), st.sampled_from(["a", "b"]))

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        self.events: list[Event] = []
        self.bus = EventBus()
        self.bus.subscribe(self.events.append)
        self.firing: dict[tuple[str, str], tuple[object, float]] = {}
        """Condition to its beginning and its last value."""
        self.ended: list[tuple[tuple[str, str], object, object]] = []
        self._open()

    def _open(self) -> None:
        self.db = Database(Path(self._home.name) / "m.sqlite", migrations.monitoring, self.clock, self.bus)
        self.alerts = Alerts(self.db)

    def _send(self, condition: tuple[str, str], signal: Signal, value: float | None = None) -> Step:
        name, feature = condition
        return self.db.write(
            lambda tx: self.alerts.apply(tx, name, {"feature": feature}, signal, summary=f"{value}", value=value)
        )

    @rule(condition=conditions, value=st.floats(0.2, 1))
    def fire(self, condition: tuple[str, str], value: float) -> None:
        assert self._send(condition, "fire", value) == ("update" if condition in self.firing else "open")
        self.firing[condition] = (self.firing.get(condition, (self.clock.now(),))[0], value)

    @rule(condition=conditions)
    def hold(self, condition: tuple[str, str]) -> None:
        assert self._send(condition, "hold", 0.15) == "nothing"

    @rule(condition=conditions)
    def resolve(self, condition: tuple[str, str]) -> None:
        assert self._send(condition, "resolve") == ("close" if condition in self.firing else "nothing")
        if condition in self.firing:
            self.ended.append((condition, self.firing.pop(condition)[0], self.clock.now()))

    @rule(hours=st.integers(1, 48))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(self.clock.now() + timedelta(hours=hours))

    @rule()
    def restart(self) -> None:
        self.db.close()
        self._open()

    @invariant()
    def the_store_knows_what_fires_and_what_ended(self) -> None:
        fires = self.alerts.page(state="firing", limit=1000)
        assert {self._of(alert): (alert.fired_at, alert.value) for alert in fires} == self.firing
        assert len(fires) == len(self.firing)
        past = self.alerts.page(state="resolved", limit=1000)
        key = lambda end: (str(end[1]), str(end[2]), end[0])  # noqa: E731
        assert sorted(((self._of(a), a.fired_at, a.resolved_at) for a in past), key=key) == sorted(self.ended, key=key)

    @invariant()
    def each_beginning_and_each_end_was_told_once(self) -> None:
        told = [event.type for event in self.events]
        assert told.count("alert.resolved") == len(self.ended)
        assert told.count("alert.fired") == len(self.ended) + len(self.firing)

    @staticmethod
    def _of(alert: Alert) -> tuple[str, str]:
        return alert.name, alert.labels["feature"]

    def teardown(self) -> None:
        self.db.close()
        self._home.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
