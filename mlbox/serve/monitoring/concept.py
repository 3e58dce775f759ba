"""Concept drift: a version errs more on its newest labelled predictions than on those before, and its inputs are what they were.

The error of a prediction is the square of its distance from the label; of more than two classes, whether the rounded score is
another class. Two means are compared by Welch's z. People are told where the rise is both sure and worth it; where inputs
moved as well, drift explains it and has its own alert. Source: J. Gama et al., "A survey on concept drift adaptation", ACM
Comput. Surv. 46 (2014): real drift is of p(y|x), virtual drift of p(x).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import ConceptResult, DriftResult, LabelSet, ModelVersion
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.outcomes import Joined, Outcomes
from mlbox.serve.monitoring.performance import Performance, positive_of
from mlbox.store.db import Database
from mlbox.store.labels.history import LabelHistory
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts, Signal
from mlbox.store.offline.offline import Offline
from mlbox.store.registry.registry import Registry

CONCEPT = "concept_drift"
NOW, BEFORE = 1000, 10_000
"""Labelled predictions on either side, at most."""
MINIMUM = 100
"""Fewest on either side."""
SURE = 4.0
"""The z of a rise that is told: it is looked at again and again, so chance must be rare."""
WORTH = 1.1
"""How many times the former error the new one is at least."""
SIGNALS: dict[str, Signal] = {
    "concept_drift": "fire",
    "not_enough_data": "hold",
    "inputs_moved": "resolve",
    "improved": "resolve",
    "ok": "resolve",
}


class Side(NamedTuple):
    """Squared errors of some predictions."""

    rows: int = 0
    mean: float = 0.0
    variance: float = 0.0


class Concept:
    """Looks for concept drift, on demand and beside the checks for drift."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        monitor: Monitor,
        performance: Performance,
        outcomes: Outcomes,
        offline: Offline,
        labels: LabelHistory,
        *,
        rules: InForce = DEFAULT,
    ) -> None:
        self._db = db
        self._alerts = Alerts(db, rules)
        self._registry = registry
        self._monitor = monitor
        self._performance = performance
        self._outcomes = outcomes
        self._offline = offline
        self._labels = labels

    def check(self, model: str) -> ConceptResult:
        """Measure, and raise or end the alert."""
        found = self.measure(model)
        words = f"{found.model} errs otherwise than before: {_shown(found.now_error)} on its newest {found.now_rows:,}"
        words += f" labelled predictions, {_shown(found.before_error)} on the {found.before_rows:,} before"
        self._db.write(
            lambda tx: self._alerts.apply(
                tx, CONCEPT, {"model": model}, SIGNALS[found.verdict], summary=words, value=found.now_error
            )
        )
        return found

    def measure(self, model: str) -> ConceptResult:
        """Of the version in Production. Raises NotFound without one or without a label set, InvalidInput for labels of text."""
        version = self._registry.serving(model)
        labels = self._labels.declared(self._performance.label_set(model))
        before, now = self._sides(version, labels, self._outcomes.join(model, labels))
        inputs = _inputs(self._monitor.latest(model))
        z = _z(before, now) if min(before.rows, now.rows) >= MINIMUM else None
        return ConceptResult(
            model=model,
            version=version.version,
            label_set=labels.name,
            before_rows=before.rows,
            now_rows=now.rows,
            before_error=before.mean if before.rows else None,
            now_error=now.mean if now.rows else None,
            z=z,
            inputs=inputs,
            verdict=_verdict(z, before, now, inputs),
        )

    def _sides(self, version: ModelVersion, labels: LabelSet, tables: Joined) -> tuple[Side, Side]:
        error, given = _error(labels)
        newest = (
            f"SELECT row_number() OVER (ORDER BY asked._at DESC, asked._id DESC) AS _age, {error} AS _error"
            f" FROM {tables.asked} asked JOIN {tables.met} met USING (_id)"
            " WHERE asked._version = ? AND asked._role != 'shadow' AND met._tied IS false AND isfinite(asked._score)"
            f" QUALIFY _age <= {NOW + BEFORE}"
        )
        sql = (
            f"WITH newest AS ({newest}) SELECT _age <= least({NOW}, (SELECT count(*) FROM newest) // 2) AS _now,"
            " count(*), avg(_error), coalesce(var_samp(_error), 0) FROM newest GROUP BY _now"
        )
        rows = self._offline.read(lambda cursor: cursor.execute(sql, [*given, version.version]).fetchall())
        found = {bool(row[0]): Side(*row[1:]) for row in rows}
        return found.get(False, Side()), found.get(True, Side())


def _error(labels: LabelSet) -> tuple[str, list[Any]]:
    """What one prediction errs by, as SQL with its parameters."""
    positive = positive_of(labels)
    if positive is not None:
        return "power(asked._score - CAST(met._value = ? AS DOUBLE), 2)", [positive]
    if labels.value.dtype == "STRING":
        raise InvalidInput(
            f"The labels of {labels.name} are texts of more than two classes: no error of a score is defined.",
            hint="Give the label set two classes, or numbers.",
            field="labels",
        )
    if labels.classes:
        return "CAST(round(asked._score) != met._value AS DOUBLE)", []
    return "power(asked._score - met._value, 2)", []


def _z(before: Side, now: Side) -> float:
    spread = math.sqrt(before.variance / before.rows + now.variance / now.rows)
    if spread == 0:
        return 0.0 if now.mean == before.mean else math.copysign(1e9, now.mean - before.mean)
    return (now.mean - before.mean) / spread


def _inputs(results: list[DriftResult]) -> Literal["moved", "same", "unknown"]:
    known = [result for result in results if result.verdict != "not_enough_data"]
    if not known:
        return "unknown"
    return "moved" if any(result.verdict == "alert" or result.confirmed for result in known) else "same"


def _verdict(
    z: float | None, before: Side, now: Side, inputs: str
) -> Literal["not_enough_data", "ok", "improved", "concept_drift", "inputs_moved"]:
    if z is None:
        return "not_enough_data"
    if z <= -SURE:
        return "improved"
    if z < SURE or now.mean < WORTH * before.mean:
        return "ok"
    return "inputs_moved" if inputs == "moved" else "concept_drift"


def _shown(error: float | None) -> str:
    return "–" if error is None else f"{error:.4g}"
