"""Tells people of alerts: a thread that plans what is due and puts it into the outbox, in the transaction that notes it as told.

So a restart neither forgets a message nor sends it twice; from the outbox it is sent by the courier, which notes what became
of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from mlbox.clock import Clock, from_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.ids import new_id
from mlbox.loop import Loop
from mlbox.records import Alert, DriftResult
from mlbox.serve.alerts.notices import Notice, Told, plan
from mlbox.serve.monitoring.measures import picture
from mlbox.serve.monitoring.why import moved
from mlbox.settings import secret_in
from mlbox.store import outbox
from mlbox.store.db import Database, Tx
from mlbox.store.monitoring import silences
from mlbox.store.monitoring.alert_rules import ADVICE, Channel, InForce, duration
from mlbox.store.monitoring.alerts import open_and_told

PREFIX = "channel:"
AGAIN_SECONDS = 60.0
SIGNATURE = "X-Mlbox-Signature"
MOST_NAMED = 20
"""Alerts that a message names; of more it says how many."""


class Post(NamedTuple):
    """A message as a channel wants it."""

    url: str
    body: bytes
    headers: dict[str, str]


class Notifier:
    """Follows alerts. `url` is where people reach this server's pages; `refresh` is called before it looks."""

    def __init__(
        self,
        db: Database,
        rules: InForce,
        clock: Clock,
        bus: EventBus,
        *,
        url: str,
        refresh: Callable[[], object] = lambda: None,
    ) -> None:
        self._db = db
        self.rules = rules
        self._clock = clock
        self._url = url
        self._refresh = refresh
        self._loop = Loop(self._tell, name="mlbox-notifier", failed="People could not be told of alerts")
        self._loop.wake_on(bus, ("alert.fired", "alert.resolved", "alert.silenced", "alert.unsilenced"))

    def start(self) -> None:
        """Begin, with what a former server left."""
        self._loop.start()

    def close(self) -> None:
        """Stop."""
        self._loop.close()

    def _tell(self) -> float:
        self._refresh()
        self.run()
        return AGAIN_SECONDS

    def run(self) -> int:
        """Put what is due into the outbox; how many messages."""
        return self._db.write(self._run) if self.rules.channel else 0

    def _run(self, tx: Tx) -> int:
        held = silences.active(tx)
        now = from_us(tx.domain_us)
        told = {
            (row["alert_id"], row["channel"]): Told(row["state"], from_us(row["at_us"]))
            for row in tx.all("SELECT * FROM notice WHERE state = 'firing'")
        }
        due = plan(
            open_and_told(tx), told, self.rules, lambda alert: any(silences.silences(one, alert) for one in held), now
        )
        for notice in due:
            self._post(tx, notice)
        return len(due)

    def _post(self, tx: Tx, notice: Notice) -> None:
        for alert in (*notice.firing, *notice.resolved):
            tx.run(
                "INSERT INTO notice (alert_id, channel, state, at_us) VALUES (?,?,?,?)"
                " ON CONFLICT (alert_id, channel) DO UPDATE SET state = excluded.state, at_us = excluded.at_us",
                (alert.id, notice.channel, alert.state, tx.domain_us),
            )
        body = {
            "text": self._text(tx, notice),
            "group": notice.labels,
            "alerts": [self._alert(a) for a in _all(notice)],
        }
        subject = f"{PREFIX}{notice.channel}"
        outbox.post(tx, subject, subject, body, cause=new_id())
        count = {"firing": len(notice.firing), "resolved": len(notice.resolved)}
        tx.emit("alert.notified", f"alert:{notice.channel}", "mlbox", labels=notice.labels, **count)

    def test(self, channel: str, *, actor: str) -> None:
        """Send a message that was made up over a channel; what becomes of it is among its deliveries. Raises NotFound."""
        if channel not in self.rules.channel:
            raise NotFound(
                f"There is no channel {channel[:80]!r}.",
                hint=f"One of: {', '.join(self.rules.channel) or 'none; name a file with alert_rules'}.",
                field="channel",
            )
        subject = f"{PREFIX}{channel}"
        body: dict[str, Any] = {"text": f"A test by {actor}: this channel works.", "group": {}, "alerts": []}

        def write(tx: Tx) -> None:
            outbox.post(tx, subject, subject, body, cause=new_id())
            tx.emit("alert.notified", f"alert:{channel}", actor, labels={}, test=True)

        self._db.write(write)

    # -- words ----------------------------------------------------------------------------------------------------------

    def _text(self, tx: Tx, notice: Notice) -> str:
        what = ", ".join(f"{name} {value}" for name, value in notice.labels.items())
        counts = [(len(notice.firing), "firing"), (len(notice.resolved), "resolved")]
        title = " and ".join(f"{count} {state}" for count, state in counts if count) + (f": {what}" if what else "")
        shown = list(_all(notice))
        lines = [line for alert in shown[:MOST_NAMED] for line in (self._line(alert), _picture(tx, alert)) if line]
        if len(shown) > MOST_NAMED:
            lines.append(f"and {len(shown) - MOST_NAMED} more")
        advice = dict.fromkeys(ADVICE[alert.name] for alert in notice.firing if alert.name in ADVICE)
        model = notice.labels.get("model", "")
        return "\n".join([title, *lines, *advice, f"{self._url}/monitoring{'/' if model else ''}{quote(model)}"])

    def _line(self, alert: Alert) -> str:
        rule = self.rules.of(alert.name)
        owner = f", owner {rule.owner}" if rule.owner else ""
        if alert.state == "resolved":
            return f"resolved: {alert.summary}"
        return f"{rule.severity}: {alert.summary}, since {alert.fired_at:%Y-%m-%d %H:%M} UTC{owner}"

    def _alert(self, alert: Alert) -> dict[str, Any]:
        model, feature = alert.labels.get("model"), alert.labels.get("feature")
        place = "".join(f"/{quote(one, safe='')}" for one in (model, feature) if one) if model else ""
        return {
            **msgspec.to_builtins(alert),
            "severity": self.rules.of(alert.name).severity,
            "owner": self.rules.of(alert.name).owner,
            "advice": ADVICE.get(alert.name, ""),
            "url": f"{self._url}/monitoring{place}",
        }

    # -- channels -------------------------------------------------------------------------------------------------------

    def address(self, message: outbox.Message) -> str:
        """Whom a message of a channel of mail is for, as mailto:; empty for other channels. Raises InvalidInput."""
        channel = self._channel(message)
        return f"mailto:{channel.to}" if channel.type == "email" else ""

    def by_apprise(self, message: outbox.Message) -> str:
        """The address of a channel of apprise; empty for other channels. Raises InvalidInput."""
        channel = self._channel(message)
        return _url(channel) if channel.type == "apprise" else ""

    def request(self, message: outbox.Message) -> Post:
        """A message as its channel wants it, signed where it has a key. Raises InvalidInput for a channel that is gone."""
        channel = self._channel(message)
        url = _url(channel)
        headers = {"Content-Type": "application/json", "X-Mlbox-Delivery": message.id}
        if channel.type == "slack":
            return Post(url, msgspec.json.encode({"text": message.body["text"]}), headers)
        if channel.type == "alertmanager":
            body = forwarded(message.body["alerts"], self._clock.real(), self.rules)
            return Post(f"{url.rstrip('/')}/api/v2/alerts", body, headers)
        body = msgspec.json.encode(message.body)
        key = secret_in(channel.secret_file, "secret_file")
        return Post(url, body, {**headers, SIGNATURE: signature(key, body)} if key else headers)

    def _channel(self, message: outbox.Message) -> Channel:
        name = message.address.removeprefix(PREFIX)
        if name not in self.rules.channel:
            raise InvalidInput(f"The channel {name} is no more.", hint="Name it in the alert rules.", field="channel")
        return self.rules.channel[name]


def _url(channel: Channel) -> str:
    return channel.url or secret_in(channel.url_file, "url_file") or ""


def _picture(tx: Tx, alert: Alert) -> str:
    """Training and what is served as the last check saw them, of a feature that drifts, and where its values went."""
    if not alert.name.startswith("feature_drift") or alert.state == "resolved":
        return ""
    row = tx.one(
        "SELECT result FROM drift WHERE model = ? AND feature = ? ORDER BY id DESC LIMIT 1",
        (alert.labels["model"], alert.labels["feature"]),
    )
    if row is None:
        return ""
    result = msgspec.json.decode(row["result"], type=DriftResult)
    shape = result.measures.shape if result.measures is not None else None
    return "\n".join(f"  {words}" for words in (shape and picture(shape), moved(result)) if words)


def _all(notice: Notice) -> Sequence[Alert]:
    return (*notice.firing, *notice.resolved)


def signature(key: str, body: bytes) -> str:
    """`sha256=` and the HMAC of a body in hex, as GitHub's webhooks have it."""
    return "sha256=" + hmac.digest(key.encode(), body, hashlib.sha256).hex()


def forwarded(alerts: Sequence[dict[str, Any]], now: datetime, rules: InForce) -> bytes:
    """Alerts as Alertmanager's API takes them.

    It takes one that nobody sends again for over after five minutes, unless it is told when to: after two reminders. And it
    refuses all that is sent with one that ends before it begins, as it might where the clock was put back meanwhile.
    """

    def ends_at(alert: dict[str, Any]) -> str:
        resolved: str | None = alert.get("resolved_at")
        if resolved:
            return not_ahead(resolved)
        return (now + 2 * duration(rules.of(alert["name"]).repeat, "repeat")).isoformat()

    def not_ahead(at: str) -> str:
        return at if datetime.fromisoformat(at) <= now else now.isoformat()

    return msgspec.json.encode(
        [
            {
                "labels": {"alertname": alert["name"], "severity": alert["severity"], **alert["labels"]},
                "annotations": {"summary": alert["summary"], "description": alert["advice"]},
                "startsAt": not_ahead(alert["fired_at"]),
                "endsAt": ends_at(alert),
                "generatorURL": alert["url"],
            }
            for alert in alerts
        ]
    )
