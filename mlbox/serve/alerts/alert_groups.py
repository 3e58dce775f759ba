"""Alerts as a person reads them: one group for each model, the worst first, in the group and among the groups.

A season that moves a dozen features is one thing that happened, and takes one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from mlbox.records import Alert, AlertGroup
from mlbox.store.monitoring.alert_rules import DEFAULT, NAMES, SEVERITIES, InForce

Owner = tuple[Literal["model", "view", "other"], str]


def grouped(alerts: Sequence[Alert], rules: InForce = DEFAULT) -> list[AlertGroup]:
    """The groups of alerts that fire: by severity of the worst, then by how many there are."""
    members: dict[Owner, list[Alert]] = {}
    for alert in alerts:
        members.setdefault(_owner(alert), []).append(alert)
    groups = [_group(owner, some, rules) for owner, some in members.items()]
    return sorted(groups, key=lambda group: (badness(group.worst, rules)[:2], -group.firing, group.name))


def badness(alert: Alert, rules: InForce) -> tuple[int, int, float]:
    """Sorts alerts, the worst first: by severity, by kind, by how far the value is."""
    value = alert.value or 0.0
    known = NAMES.index(alert.name) if alert.name in NAMES else len(NAMES)
    lower_is_worse = alert.name == "training_serving_skew"
    return SEVERITIES.index(rules.of(alert.name).severity), known, value if lower_is_worse else -value


def _owner(alert: Alert) -> Owner:
    for kind in ("model", "view"):
        if kind in alert.labels:
            return kind, alert.labels[kind]
    return "other", alert.name


def _group(owner: Owner, alerts: Sequence[Alert], rules: InForce) -> AlertGroup:
    ordered = sorted(alerts, key=lambda alert: (badness(alert, rules), alert.id))
    return AlertGroup(
        kind=owner[0],
        name=owner[1],
        firing=len(ordered),
        counts=dict(Counter(alert.name for alert in ordered)),
        worst=ordered[0],
        since=min(alert.fired_at for alert in ordered),
        alerts=tuple(ordered),
    )
