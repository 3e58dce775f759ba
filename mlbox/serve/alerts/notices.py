"""Who is told of which alerts, and when: a pure function over the alerts, what was told before, silences and rules.

A message is about a group: the alerts of one channel that agree in the labels of their rules. It is due when one of them is
new, one has ended, or the last telling is as long ago as the rule repeats, or lies ahead, as where the clock was put back since.
What is silenced or inhibited is in no message; of an end only those are told who were told of the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from mlbox.records import Alert, AlertState
from mlbox.store.monitoring.alert_rules import InForce, duration

Group = tuple[str, tuple[tuple[str, str], ...]]
"""A channel, and the labels that its alerts agree in."""


class Told(NamedTuple):
    """What a channel was last told of an alert."""

    state: AlertState
    at: datetime


class Notice(NamedTuple):
    """One message that is due."""

    channel: str
    labels: dict[str, str]
    firing: list[Alert]
    resolved: list[Alert]


def plan(
    alerts: Sequence[Alert],
    told: Mapping[tuple[str, str], Told],
    rules: InForce,
    silenced: Callable[[Alert], bool],
    now: datetime,
) -> list[Notice]:
    """The messages that are due now; `told` is by alert and channel."""
    firing = [alert for alert in alerts if alert.state == "firing"]
    groups: dict[Group, Notice] = {}
    due: set[Group] = set()
    for alert in alerts:
        for channel in rules.of(alert.name).channels:
            group = _group(alert, channel, rules)
            before = told.get((alert.id, channel))
            if alert.state == "resolved" and before is not None and before.state == "firing":
                groups.setdefault(group, Notice(channel, dict(group[1]), [], [])).resolved.append(alert)
                due.add(group)
            elif alert.state == "firing" and not silenced(alert) and not is_inhibited(alert, firing, rules):
                groups.setdefault(group, Notice(channel, dict(group[1]), [], [])).firing.append(alert)
                repeat = duration(rules.of(alert.name).repeat, "repeat")
                if before is None or not before.at <= now < before.at + repeat:
                    due.add(group)
    return [notice for group, notice in groups.items() if group in due]


def _group(alert: Alert, channel: str, rules: InForce) -> Group:
    wanted = rules.of(alert.name).group_by
    return channel, tuple((label, alert.labels[label]) for label in wanted if label in alert.labels)


def is_inhibited(alert: Alert, firing: Iterable[Alert], rules: InForce) -> bool:
    """Whether another alert that fires says why nobody needs to be told of this one."""
    return any(
        other.name == one.source and all(other.labels.get(label) == alert.labels.get(label) for label in one.equal)
        for one in rules.inhibit
        if alert.name in one.target
        for other in firing
    )
