"""Training-serving skew, measured: what was served, computed anew from the offline history as of the same moment.

A model trains on the history. Where the values that it was served are not those that the history has for the moment of the
request, it answers for another world than the one that it learned: the online store was stale, a row came late and was counted as
known before it was, someone's code computed a feature in its own way. The share of equal values says how often, per feature.

Rows are sampled by chance from the newest in the prediction log, of every role that users were answered by. Of a row that came
with ready-made features the ids are compared as well, where it names them; a row without the join keys says nothing.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import ModelVersion, Prediction, SkewResult
from mlbox.serve.predictions.as_known import as_known
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.selection import has_keys
from mlbox.store.asking import asking
from mlbox.store.checks import Thinning, last_checks
from mlbox.store.db import Database, Tx
from mlbox.store.features.ondemand import Transforms
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts, Signal
from mlbox.store.registry.registry import Registry

SKEW = "training_serving_skew"
MINIMUM = 20
"""Fewer rows say nothing."""
WINDOW = 10_000
SIGNALS: dict[str, Signal] = {"alert": "fire", "not_enough_data": "hold", "ok": "resolve"}
_log = logging.getLogger(__name__)


class Compared(NamedTuple):
    """One served value and the one that the history has."""

    row: Prediction
    served: float | None
    recomputed: float | None


class Skew:
    """Measures skew of models, on demand and beside the checks for drift."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        features: Transforms,
        predictions: PredictionLog,
        clock: Clock,
        *,
        sample: int = 500,
        limit: float = 0.99,
        minimum: int = MINIMUM,
        rules: InForce = DEFAULT,
    ) -> None:
        self._db = db
        self._alerts = Alerts(db, rules)
        self._registry = registry
        self._features = features
        self._predictions = predictions
        self._clock = clock
        self._sample = sample
        self._limit = limit
        self._minimum = minimum
        self._checking = threading.Lock()
        self._thinning = Thinning("skew")

    # -- measuring ------------------------------------------------------------------------------------------------------

    def check(self, model: str) -> list[SkewResult]:
        """Compare a sample of what a model was served; by feature of the version in Production. Raises NotFound without one."""
        with self._checking:
            version = self._registry.serving(model)
            if not self._sample:
                return []
            now = self._clock.now()
            with asking(None):  # who may ask about a model may have it look at what it needs
                found = self._compared(version, self._sampled(model))
            results = [self._result(version.model, name, found.get(name, []), now) for name in version.features]
            self._db.write(lambda tx: self._save(tx, version, results))
            return results

    def _sampled(self, model: str) -> list[Prediction]:
        served = [row for row in self._predictions.recent(model, WINDOW) if row.role != "shadow" and row.entity]
        if len(served) <= self._sample:
            return served
        return random.Random(served[0].id).sample(served, self._sample)  # noqa: S311  # a sample, not a secret

    def _compared(self, version: ModelVersion, rows: Sequence[Prediction]) -> dict[str, list[Compared]]:
        """By feature. One that the store no longer has is compared with nothing."""
        found: dict[str, list[Compared]] = {}
        for ref in dict.fromkeys(name.partition(":")[0] for name in version.features):
            names = [name for name in version.features if name.startswith(f"{ref}:")]
            try:
                found |= self._of_view(names, [row for row in rows if names[0] in row.features])
            except (NotFound, InvalidInput) as err:
                _log.warning("%s of %s cannot be computed anew: %s", ref, version.ref, err)
        return found

    def _of_view(self, names: Sequence[str], rows: Sequence[Prediction]) -> dict[str, list[Compared]]:
        moments = [to_us(row.domain_at) for row in rows]
        places, values = as_known(self._features, names, [row.entity for row in rows], moments)
        return {
            name: [
                Compared(rows[at], rows[at].features.get(name), value) for at, value in zip(places, found, strict=True)
            ]
            for name, found in values.items()
        }

    def _result(self, model: str, feature: str, found: Sequence[Compared], at: datetime) -> SkewResult:
        different = [one for one in found if not is_equal(one.served, one.recomputed)]
        rows, equal = len(found), len(found) - len(different)
        share = equal / rows if rows >= self._minimum else None
        result = SkewResult(
            model=model,
            feature=feature,
            rows=rows,
            equal=equal,
            share=share,
            verdict="not_enough_data" if share is None else "alert" if share < self._limit else "ok",
            at=at,
        )
        if not different:
            return result
        last = max(different, key=lambda one: one.row.id)
        return msgspec.structs.replace(
            result,
            entity=last.row.entity,
            moment=last.row.domain_at,
            served=last.served,
            recomputed=last.recomputed,
        )

    def _save(self, tx: Tx, version: ModelVersion, results: Sequence[SkewResult]) -> None:
        check_id = new_id()
        tx.many(
            "INSERT INTO skew (model, feature, check_id, at_us, result) VALUES (?,?,?,?,?)",
            [(r.model, r.feature, check_id, to_us(r.at), r.to_json().decode()) for r in results],
        )
        self._thinning.thin(tx, version.model)
        shares = [r.share for r in results if r.share is not None]
        lowest = {"lowest": min(shares)} if shares else {}
        tx.emit("skew.checked", f"model:{version.ref}", "mlbox", features=len(results), **lowest)
        for result in results:
            labels = {"model": result.model, "feature": result.feature}
            words = _words(result, self._limit)
            self._alerts.apply(tx, SKEW, labels, SIGNALS[result.verdict], summary=words, value=result.share)
        measured = {result.feature for result in results}
        for alert in self._alerts.firing(tx, SKEW):
            if alert.labels["model"] == version.model and alert.labels["feature"] not in measured:
                reason = f"{alert.labels['feature']} is no feature of {version.ref}, which is in Production"
                self._alerts.apply(tx, SKEW, alert.labels, "resolve", summary=reason)

    def forget(self, model: str, entity: Mapping[str, Any]) -> None:
        """Take an entity, and what it was served, out of the results that show it as an example."""

        def write(tx: Tx) -> None:
            rows = tx.all("SELECT id, result FROM skew WHERE model = ? AND result -> '$.entity' != '{}'", (model,))
            for row in rows:
                found = msgspec.json.decode(row["result"], type=SkewResult)
                if found.entity and has_keys(found.entity, entity):
                    bare = msgspec.structs.replace(found, entity={}, moment=None, served=None, recomputed=None)
                    tx.run("UPDATE skew SET result = ? WHERE id = ?", (bare.to_json().decode(), row["id"]))

        self._db.write(write)

    # -- reading --------------------------------------------------------------------------------------------------------

    def last_checks(self, models: Sequence[str]) -> dict[str, str | None]:
        """The id of each model's last check; it tells whether `latest` has anything new."""
        return last_checks(self._db, "skew", models)

    def latest(self, model: str) -> list[SkewResult]:
        """The results of a model's last check, by feature; none before the first."""
        rows = self._db.all(
            "SELECT result FROM skew WHERE model = :model AND visible('model', :model) AND check_id ="
            " (SELECT check_id FROM skew WHERE model = :model ORDER BY check_id DESC LIMIT 1) ORDER BY feature",
            {"model": model},
        )
        return [msgspec.json.decode(row["result"], type=SkewResult) for row in rows]


def is_equal(served: float | None, recomputed: float | None) -> bool:
    """Two missing values are equal, and so are two NaN."""
    if served is None or recomputed is None:
        return served is recomputed
    return served == recomputed or (math.isnan(served) and math.isnan(recomputed))


def _words(result: SkewResult, limit: float) -> str:
    """A result as an alert says it."""
    if result.share is None:
        return f"{result.feature} of {result.model}: {result.rows:,} rows are too few to say"
    verb = "differs from" if result.verdict == "alert" else "agrees with"
    figures = f"{result.equal:,} of {result.rows:,} served values are equal, {limit:.4g} of them are expected"
    return f"{result.feature} of {result.model} {verb} its history: {figures}"
