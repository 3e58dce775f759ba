"""People are told of alerts once, again when it is time, and of the end; over every channel, as its program wants it."""

from __future__ import annotations

import hashlib
import hmac
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.outgoing import Outgoing
from mlbox.serve.alerts.courier import Courier, Mail
from mlbox.serve.alerts.notifier import Notifier
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.monitoring.alert_rules import NAMES, Rules, load, parse
from mlbox.store.monitoring.alerts import Alerts, Signal
from mlbox.store.monitoring.silences import Silences
from mlbox.store.outbox import Outbox
from tests.serve.test_courier import Receiver

OPS = {"ops": {"type": "webhook", "url": "https://ops.example.org/in"}}


class Desk:
    """Alerts and those who are told of them, over a real store."""

    def __init__(self, folder: Path, clock: ManualClock, rules: Rules, bus: EventBus | None = None) -> None:
        self.clock = clock
        self.bus = bus or EventBus()
        self.db = Database(folder / "monitoring.sqlite", migrations.monitoring, clock, self.bus)
        self.alerts = Alerts(self.db, rules)
        self.silences = Silences(self.db)
        self.outbox = Outbox(self.db)
        self.notifier = Notifier(self.db, rules, clock, self.bus, url="http://box:8265")

    def send(self, signal: Signal, name: str = "feature_drift", **labels: str) -> None:
        labels = {"model": "delay", "feature": "temp"} | labels
        self.db.write(lambda tx: self.alerts.apply(tx, name, labels, signal, summary=f"{labels['feature']} drifts"))

    def told(self) -> list[str]:
        """The titles of what was put into the outbox, oldest first."""
        self.notifier.run()
        return [found.text.partition("\n")[0] for found in self.outbox.of("channel:ops", limit=1000)][::-1]

    def later(self, **by: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**by))


def rules_of(**rule: Any) -> Rules:
    return parse({"channel": OPS, "rule": {"default": {"channels": ["ops"], **rule}}})


@pytest.fixture
def desk(tmp_path: Path, clock: ManualClock) -> Iterator[Desk]:
    made = Desk(tmp_path, clock, rules_of(repeat="1d", owner="ann"))
    yield made
    made.db.close()


def test_alerts_of_a_model_are_one_message_and_each_is_told_once(desk: Desk) -> None:
    for feature in ("temp", "wind"):
        desk.send("fire", feature=feature)
    desk.send("fire", model="churn")
    assert desk.told() == ["2 firing: model delay", "1 firing: model churn"]
    desk.send("fire")
    assert len(desk.told()) == 2, "what lasts is not told again"
    desk.send("resolve")
    assert desk.told()[2:] == ["1 firing and 1 resolved: model delay"]
    desk.send("resolve", feature="wind")
    assert desk.told()[3:] == ["1 resolved: model delay"]
    assert len(desk.told()) == 4


def test_a_message_says_what_since_when_whose_and_what_to_do(desk: Desk) -> None:
    desk.send("fire")
    desk.notifier.run()
    (message,) = desk.outbox.due(2**62)
    for words in ("temp drifts", "since 2026-01-01 00:00 UTC", "owner ann", "train anew", "http://box:8265/monitoring"):
        assert words in message.body["text"]
    (alert,) = message.body["alerts"]
    assert alert["url"] == "http://box:8265/monitoring/delay/temp"


def test_what_lasts_is_told_again_when_the_rule_says(desk: Desk) -> None:
    desk.send("fire")
    for _ in range(4):
        desk.told()
        desk.later(hours=8)
    assert len(desk.told()) == 2


def test_a_silence_has_an_author_a_reason_and_an_end(desk: Desk) -> None:
    found = desk.silences.add({"model": "delay"}, hold=timedelta(hours=2), reason="backfill", actor="ann")
    desk.send("fire")
    desk.send("fire", model="churn")
    assert desk.told() == ["1 firing: model churn"]
    desk.later(hours=2)
    assert desk.told()[1:] == ["1 firing: model delay"]
    assert (found.author, found.reason) == ("ann", "backfill")
    assert [event.type for event in desk.db.events(actor="ann")] == ["alert.silenced"]


def test_a_silence_can_be_ended_and_names_alerts_too(desk: Desk) -> None:
    found = desk.silences.add({"alertname": "feature_drift"}, hold=timedelta(days=9), reason="known", actor="ann")
    desk.send("fire")
    desk.send("fire", "staleness", feature="x")
    assert len(desk.told()) == 1
    assert desk.silences.end(found.id, actor="bea").expires_at == desk.clock.now()
    assert desk.told()[1:] == ["2 firing: model delay"]
    with pytest.raises(NotFound):
        desk.silences.end("nothing", actor="bea")


@pytest.mark.parametrize(
    ("labels", "hold", "reason", "field"),
    [
        ({}, timedelta(1), "why", "labels"),
        ({"a": "b"}, timedelta(0), "why", "for_seconds"),
        ({"a": "b"}, timedelta(91), "why", "for_seconds"),
        ({"a": "b"}, timedelta(1), " ", "reason"),
    ],
)
def test_a_silence_without_sense_is_refused(
    desk: Desk, labels: dict[str, str], hold: timedelta, reason: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        desk.silences.add(labels, hold=hold, reason=reason, actor="ann")
    assert caught.value.field == field


def test_the_cause_silences_what_follows_from_it(desk: Desk) -> None:
    desk.send("fire", "training_serving_skew")
    desk.send("fire", "training_serving_skew", feature="wind")
    desk.send("fire", "feature_missing")
    assert desk.told() == ["2 firing: model delay"], "the skew of what is missing is not told"


def test_a_model_that_fails_silences_what_its_features_say(desk: Desk) -> None:
    desk.send("fire")
    desk.send("fire", "concept_drift")
    desk.send("fire", "feature_drift", model="other")
    desk.db.write(lambda tx: desk.alerts.apply(tx, "model_failing", {"model": "delay"}, "fire", summary="delay fails"))
    assert sorted(desk.told()) == ["1 firing: model delay", "1 firing: model other"]
    (message,) = [found.text for found in desk.outbox.of("channel:ops") if "model delay" in found.text]
    assert "delay fails" in message
    desk.db.write(lambda tx: desk.alerts.apply(tx, "model_failing", {"model": "delay"}, "resolve", summary="works"))
    assert desk.told()[-1] == "2 firing and 1 resolved: model delay", "what still holds is told once it works"


# -- rules --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rule": {"feature_drif": {}}}, "Did you mean feature_drift"),
        ({"rule": {"default": {"channels": ["ops"]}}}, "none is defined"),
        ({"rule": {"default": {"for": "soon"}}}, "is no time"),
        ({"rule": {"default": {"repeat": "0s"}}}, "every 0 seconds"),
        ({"rule": {"default": {"fro": "1h"}}}, "rule.default.fro is nothing that the alert rules know"),
        ({"rule": {"feature_drift": {"repeet": "1h"}}}, "Did you mean repeat?"),
        ({"inhibit": [{"source": "staleness", "target": [], "equals": []}]}, "Did you mean equal?"),
        ({"chanel": {}}, "Did you mean channel?"),
        ({"channel": {"a": {"type": "pigeon"}}}, "pigeon"),
        ({"channel": {"a": {"type": "email"}}}, "has no to"),
        ({"channel": {"a": {"type": "slack"}}}, "has no url"),
        ({"inhibit": [{"source": "x", "target": []}]}, "'x' at inhibit.0"),
    ],
)
def test_a_rule_that_is_wrong_is_named(content: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(content)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_file_changes_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "alerts.toml"
    file.write_text(
        '[channel.a]\ntype = "email"\nto = "ml@example.org"\n[rule.staleness]\nfor = "1h"\nchannels = ["a"]\n'
    )
    rules = load(str(file))
    assert (rules.of("staleness").hold, rules.of("feature_drift").hold) == ("1h", "0s")
    assert load("").of(NAMES[0]).channels == ()


# -- channels -----------------------------------------------------------------------------------------------------------


def test_each_channel_is_told_as_its_program_wants_it(tmp_path: Path, clock: ManualClock) -> None:
    receiver = Receiver()
    key = tmp_path / "key"
    key.write_text("s3cret")
    key.chmod(0o600)
    channels = {
        "slack": {"type": "slack", "url": receiver.url},
        "hook": {"type": "webhook", "url": receiver.url, "secret_file": str(key)},
        "am": {"type": "alertmanager", "url": receiver.url},
    }
    desk = Desk(tmp_path, clock, parse({"channel": channels, "rule": {"default": {"channels": list(channels)}}}))
    courier = Courier(
        [desk.outbox],
        lambda: Outgoing(("127.0.0.1",)),
        Mail(""),
        clock,
        desk.bus,
        told_by=("alert.notified",),
        channels=desk.notifier,
    )
    try:
        desk.send("fire")
        desk.notifier.run()
        desk.notifier.test("slack", actor="ann")
        courier.deliver()
        hook = next(got for got in receiver.got if isinstance(got, dict) and "group" in got)
        (slack, tested) = [got for got in receiver.got if isinstance(got, dict) and set(got) == {"text"}]
        (forwarded,) = next(got for got in receiver.got if isinstance(got, list))
        assert slack["text"].startswith("1 firing: model delay\nwarning: temp drifts")
        assert tested["text"] == "A test by ann: this channel works."
        assert hook["alerts"][0]["labels"] == {"model": "delay", "feature": "temp"}
        assert forwarded["labels"] == {
            "alertname": "feature_drift",
            "severity": "warning",
            "model": "delay",
            "feature": "temp",
        }
        assert forwarded["startsAt"] == "2026-01-01T00:00:00Z"
        ends = datetime.fromisoformat(forwarded["endsAt"])
        assert ends == clock.real() + timedelta(days=2), (
            "it takes none for over that is not sent again every five minutes"
        )
        assert [found.state for found in desk.outbox.of("channel:hook")] == ["delivered"]
        message = desk.notifier.request(_message(desk, "hook"))
        assert (
            message.headers["X-Mlbox-Signature"]
            == "sha256=" + hmac.new(b"s3cret", message.body, hashlib.sha256).hexdigest()
        )
        assert json.loads(message.body) == hook
        receiver.status = 500
        desk.send("fire", feature="wind")
        desk.notifier.run()
        courier.deliver()
        (again, _) = desk.outbox.of("channel:hook")
        assert (again.state, again.status, again.address) == ("due", "500", "channel:hook")
        with pytest.raises(NotFound, match="no channel 'pager'"):
            desk.notifier.test("pager", actor="ann")
    finally:
        courier.close()
        receiver.close()
        desk.db.close()


def _message(desk: Desk, channel: str) -> Any:
    row = desk.db.one("SELECT * FROM delivery WHERE subject = ?", (f"channel:{channel}",))
    assert row is not None
    from mlbox.store.outbox import Message

    return Message(row["id"], row["address"], json.loads(row["body"]), 0, 0)


# -- any order ----------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Signals, silences, time and restarts in any order: nothing is told twice, and nothing that may be told is left out."""

    features = st.sampled_from(["a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory()
        self.clock = ManualClock(parse_time("2026-01-01T00:00Z"))
        self._open()
        self.knows: dict[str, Any] = {}
        """Feature to when its firing was last told: what people think is the case."""
        self.seen = 0

    def _open(self) -> None:
        self.desk = Desk(Path(self._home.name), self.clock, rules_of(repeat="6h"))

    @rule(feature=features)
    def fire(self, feature: str) -> None:
        self.desk.send("fire", feature=feature)

    @rule(feature=features)
    def resolve(self, feature: str) -> None:
        self.desk.send("resolve", feature=feature)

    @rule(feature=features, hours=st.integers(1, 4))
    def silence(self, feature: str, hours: int) -> None:
        self.desk.silences.add({"feature": feature}, hold=timedelta(hours=hours), reason="x", actor="ann")

    @rule(hours=st.integers(1, 8))
    def time_passes(self, hours: int) -> None:
        self.desk.later(hours=hours)

    @rule()
    def restart(self) -> None:
        self.desk.db.close()
        self._open()

    @invariant()
    def people_know_what_is_so_and_hear_it_once(self) -> None:
        self.desk.notifier.run()
        assert self.desk.notifier.run() == 0, "the second look has nothing to say"
        found = self.desk.outbox.of("channel:ops", limit=1000)
        fresh, self.seen = found[: len(found) - self.seen], len(found)
        now = self.clock.now()
        for message in reversed(fresh):
            for line in message.text.split("\n"):
                feature = line.partition(": ")[2][:1]
                if line.startswith("resolved: "):
                    assert self.knows.pop(feature, None) is not None, "the end of what nobody was told of"
                elif line.startswith("warning: "):
                    self.knows[feature] = now
        fires = {alert.labels["feature"] for alert in self.desk.alerts.page(state="firing")}
        silent = {s.labels["feature"] for s in self.desk.silences.page(limit=1000) if s.expires_at > now}
        assert self.knows.keys() <= fires
        assert fires - silent <= self.knows.keys()
        assert all(now - self.knows[feature] < timedelta(hours=6) for feature in fires - silent), "people are reminded"

    def teardown(self) -> None:
        self.desk.db.close()
        self._home.cleanup()


AnyOrder.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
