"""Rules of alerts, as code: how long a condition must hold, who is told over which channel, how often, and what silences what.

A TOML file, named by the setting `alert_rules`, changes the defaults:

    [channel.ops]
    type = "slack"                  # email, slack, webhook, alertmanager or apprise
    url_file = "/etc/mlbox/slack"   # or url = "https://..."; for email: to = "ml@example.org"

    [rule.feature_drift]            # or [rule.default] for all that are not named
    for = "10m"
    repeat = "1d"
    channels = ["ops"]

    [[inhibit]]
    source = "feature_missing"
    target = ["feature_drift"]
    equal = ["model", "feature"]
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from mlbox.errors import InvalidInput, suggest, unknown_names

NAMES = (
    *("model_failing", "predictions_dropped", "clock_jumped"),
    *("concept_drift", "feature_drift", "feature_missing"),
    *("training_serving_skew", "staleness", "feature_drift_suspected"),
)
"""Every alert that there is; of those that are as severe, the first is the worst."""
ADVICE = {
    "model_failing": "Look at the model's errors in the server's log and on its page; roll back if a new version began it.",
    "predictions_dropped": "Look for a disk that is full or slow; answers go on, and what is not logged is lost to monitoring.",
    "clock_jumped": "Set the server's clock where it is wrong: nothing was removed by it yet. Where it is right, do nothing.",
    "concept_drift": "The same inputs have come to mean something else: look at the newest labels, then train anew.",
    "feature_drift": "Compare both distributions on the feature's page; where the world has changed, train anew.",
    "feature_drift_suspected": "Watch the feature's page; it is more than chance and not yet an alert.",
    "feature_missing": "Look for what stopped writing this feature: its source, its view, the caller.",
    "training_serving_skew": "Compare the served value with the recomputed one on the page Monitoring.",
    "staleness": "Look at the view's schedule and at the last error of its source.",
}
"""What to do next."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
Severity = Literal["page", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("page", "warning", "info")
"""From worst to least."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Where people are told."""

    type: Literal["email", "slack", "webhook", "alertmanager", "apprise"]
    url: str = ""
    url_file: str = ""
    """A file with the URL, where it is a secret."""
    to: str = ""
    secret_file: str = ""
    """A file with the key that a webhook's requests are signed with."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename={"hold": "for"}):
    """What becomes of one kind of alert. Times are domain time, such as 10m or 1d."""

    hold: str = "0s"
    """How long a condition must last before it fires."""
    repeat: str = "1d"
    """How often people are reminded of what still fires."""
    group_by: tuple[str, ...] = ("model",)
    """Alerts that agree in these labels are one message."""
    channels: tuple[str, ...] = ()
    severity: Severity = "warning"
    owner: str = ""


class Inhibition(msgspec.Struct, frozen=True, kw_only=True):
    """While an alert `source` fires, those of `target` that agree in the labels `equal` are not told of."""

    source: str
    target: tuple[str, ...]
    equal: tuple[str, ...] = ("model",)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    channel: dict[str, Channel] = {}
    rule: dict[str, Rule] = {}
    inhibit: tuple[Inhibition, ...] = (
        Inhibition(
            source="model_failing",
            target=(
                *("feature_drift", "feature_drift_suspected", "feature_missing"),
                *("training_serving_skew", "concept_drift"),
            ),
        ),
        Inhibition(source="feature_missing", target=("training_serving_skew",), equal=("model", "feature")),
    )

    def of(self, name: str) -> Rule:
        """The rule of an alert."""
        return self.rule.get(name) or self.rule.get("default") or Rule()


class InForce(Protocol):
    """Rules as they are now: fixed ones, or those of a book that changes."""

    @property
    def channel(self) -> Mapping[str, Channel]:
        """Channels by name."""

    @property
    def inhibit(self) -> Sequence[Inhibition]:
        """Which alert says why another is not told of."""

    def of(self, name: str) -> Rule:
        """The rule of an alert."""


DEFAULT = Rules()
_HINT = "The reference of the rules is in docs/how-to/alerts.md."


def duration(text: str, field: str) -> timedelta:
    """A time such as 90s, 10m, 12h or 7d; raises InvalidInput."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise InvalidInput(f"{text[:40]!r} is no time.", hint="A number and s, m, h or d, such as 10m.", field=field)
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def load(path: str) -> Rules:
    """The rules in a file, the defaults where it names none; raises InvalidInput, naming what is wrong."""
    return parse(read(load_text(path), path)) if path else DEFAULT


def load_text(path: str) -> str:
    """What a file says; raises InvalidInput."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is no text in UTF-8"
        raise InvalidInput(
            f"The alert rules {path} cannot be read: {why}.", hint="Check the setting alert_rules.", field="alert_rules"
        ) from err


def read(text: str, where: str) -> dict[str, Any]:
    """TOML as a mapping; raises InvalidInput."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise InvalidInput(
            f"The alert rules {where} are not TOML: {err}.", hint="Mend them.", field="alert_rules"
        ) from err


def parse(content: Mapping[str, Any]) -> Rules:
    """Rules from what a file says; raises InvalidInput for what is wrong in it."""
    try:
        rules = msgspec.convert(content, Rules)
    except msgspec.ValidationError as err:
        raise InvalidInput(
            f"The alert rules are wrong: {err}.",
            hint=_HINT,
            field="alert_rules",
        ) from err
    for odd, known in unknown_names(content, msgspec.to_builtins(rules)):
        hint = suggest(odd.rpartition(".")[2], known, otherwise=_HINT)
        raise InvalidInput(f"{odd} is nothing that the alert rules know.", hint=hint, field=odd)
    for name, rule in rules.rule.items():
        _known(name, (*NAMES, "default"), f"rule.{name}")
        for named in rule.channels:
            _known(named, tuple(rules.channel), f"rule.{name}.channels")
        duration(rule.hold, f"rule.{name}.for")
        if not duration(rule.repeat, f"rule.{name}.repeat"):
            raise InvalidInput("Nobody can be told every 0 seconds.", hint="Such as 1d.", field=f"rule.{name}.repeat")
    for number, inhibition in enumerate(rules.inhibit):
        for name in (inhibition.source, *inhibition.target):
            _known(name, NAMES, f"inhibit.{number}")
    for name, channel in rules.channel.items():
        _check_channel(name, channel)
    return rules


def _check_channel(name: str, channel: Channel) -> None:
    wants, has = ("to", channel.to) if channel.type == "email" else ("url", channel.url or channel.url_file)
    if not has:
        raise InvalidInput(
            f"The channel {name} has no {wants}.",
            hint=f"A channel of type {channel.type} needs it.",
            field=f"channel.{name}",
        )
    if channel.type == "apprise" and importlib.util.find_spec("apprise") is None:
        raise InvalidInput(
            f"The channel {name} is of apprise, which this server does not have.",
            hint="Install the extra, `pip install 'mlbox[apprise]'`, and start the server again.",
            field=f"channel.{name}",
        )


def _known(name: str, names: tuple[str, ...], field: str) -> None:
    if name not in names:
        hint = suggest(name, names, otherwise=f"One of: {', '.join(names) or 'none is defined'}.")
        raise InvalidInput(
            f"The alert rules name {name[:80]!r} at {field}, which is not known.", hint=hint, field=field
        )
