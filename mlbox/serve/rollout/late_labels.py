"""What labels that arrived meanwhile say of a canary: what each of its predictions, and of its control group's, cost.

Labels are joined as for live performance (`outcomes`). All of the promotion's canary counts, from its first step on: a label that
takes days is about a step that is over. A label that is tied, or a score that is no number, is in no sum.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from mlbox.errors import MlboxError, NotFound
from mlbox.records import Guard, LabelledLoss, LabelSet, Promotion
from mlbox.serve.monitoring.outcomes import Outcomes
from mlbox.serve.monitoring.performance import Performance, positive_of
from mlbox.store.asking import asking
from mlbox.store.labels.history import LabelHistory
from mlbox.store.offline.offline import Offline, one
from mlbox.store.offline.views import literal

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

AGAIN_SECONDS = 30.0
"""How long what was read counts, in real time, where domain time stands."""


class LateLabels:
    """The losses of canaries, by guard."""

    def __init__(self, performance: Performance, outcomes: Outcomes, labels: LabelHistory, offline: Offline) -> None:
        self._performance = performance
        self._outcomes = outcomes
        self._labels = labels
        self._offline = offline
        self._read: dict[str, tuple[datetime, float, dict[str, LabelledLoss]]] = {}

    def of(self, promotion: Promotion, since: datetime, now: datetime) -> Mapping[str, LabelledLoss]:
        """What each guard of labels has to go by, for the canary that began at `since`."""
        guards = [guard for guard in promotion.policy.guards if guard.kind == "labels"]
        if not guards or promotion.state != "canary" or promotion.champion is None:
            return {}
        known = self._read.get(promotion.id)
        if known is not None and known[0] == now and time.monotonic() - known[1] < AGAIN_SECONDS:
            return known[2]
        with asking(None):
            found = self._losses(promotion, since, guards)
        fresh = {key: read for key, read in self._read.items() if time.monotonic() - read[1] < AGAIN_SECONDS}
        self._read = {**fresh, promotion.id: (now, time.monotonic(), found)}
        return found

    def _losses(self, promotion: Promotion, since: datetime, guards: list[Guard]) -> dict[str, LabelledLoss]:
        try:
            labels = self._labels.declared(self._performance.label_set(promotion.model))
        except NotFound as err:
            return {guard.name: LabelledLoss(note=err.message.rstrip(".")) for guard in guards}
        try:
            tables = self._outcomes.join(promotion.model, labels)
        except MlboxError as err:  # a store that is down says nothing against the canary
            return {guard.name: LabelledLoss(note=f"labels cannot be read: {err.message}") for guard in guards}
        asked = (
            f"SELECT asked._role AS role, asked._score AS score, met._value AS label FROM {tables.asked} asked"
            f" JOIN {tables.met} met USING (_id) WHERE met._tied IS false AND isfinite(asked._score)"
            f" AND asked._at >= {literal(since)} AND ((asked._role = 'canary' AND asked._version = {promotion.version})"
            f" OR (asked._role = 'control' AND asked._version = {promotion.champion}))"
        )
        return {guard.name: self._sums(guard, labels, asked) for guard in guards}

    def _sums(self, guard: Guard, labels: LabelSet, asked: str) -> LabelledLoss:
        loss = loss_sql(guard, labels)
        if loss is None:
            words = f"labels of {labels.name} are no two classes and no measure that {guard.name} is of"
            return LabelledLoss(note=words)

        def read(cursor: Cursor) -> LabelledLoss:
            row = one(
                cursor,
                "SELECT count(*) FILTER (role = 'canary'), coalesce(sum(loss) FILTER (role = 'canary'), 0.0),"
                " count(*) FILTER (role = 'control'), coalesce(sum(loss) FILTER (role = 'control'), 0.0)"
                f" FROM (SELECT role, {loss} AS loss FROM ({asked}))",
            )
            assert row is not None
            return LabelledLoss(candidate=row[0], candidate_loss=row[1], control=row[2], control_loss=row[3])

        return self._offline.read(read)


def loss_sql(guard: Guard, labels: LabelSet) -> str | None:
    """The loss of a `score` against its `label`, of 0 to 1; None where a guard's metric is none of such labels."""
    positive = positive_of(labels)
    if positive is not None:
        truth = f"(label = {_value(positive)})"
        if guard.metric == "errors":
            return f"CAST((score > 0.5) != {truth} AS DOUBLE)"
        return f"least(1.0, power(score - CAST({truth} AS DOUBLE), 2))" if guard.metric == "brier" else None
    if labels.value.dtype in ("STRING", "BOOL", "TIMESTAMP"):
        return None
    if labels.classes:
        return "CAST(round_even(score, 0) != label AS DOUBLE)" if guard.metric == "errors" else None
    return f"least(1.0, abs(score - label) / {guard.scale!r})" if guard.metric == "absolute" else None


def _value(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("'", "''")
        return f"'{escaped}'"
    return repr(value).lower()
