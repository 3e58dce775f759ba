"""Drift: what is served against what the model in Production learned from, and the alerts that follow.

An alert fires above 0.2 and is resolved at or below 0.1: between the two it stays as it is, so that a value near a threshold does
not ring all day. Too little data changes nothing.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import msgspec

from mlbox.clock import Clock, to_us
from mlbox.errors import MlboxError, NotFound
from mlbox.ids import new_id
from mlbox.records import Alert, AlertState, DriftResult, ModelVersion
from mlbox.serve import drift
from mlbox.serve.predlog import PredictionLog, Window
from mlbox.serve.reference import load_reference
from mlbox.store.alerts import Alerts
from mlbox.store.artifacts import Artifacts
from mlbox.store.db import Database, Tx
from mlbox.store.registry import Registry

DRIFT = "feature_drift"


class Monitor:
    """Checks models for drift, on demand and every so many seconds."""

    def __init__(
        self,
        db: Database,
        registry: Registry,
        artifacts: Artifacts,
        predictions: PredictionLog,
        clock: Clock,
        *,
        window: int = 10_000,
        window_days: float = 30,
        minimum: int = drift.MINIMUM,
        every: float = 0,
    ) -> None:
        self._db = db
        self._alerts = Alerts(db)
        self._registry = registry
        self._artifacts = artifacts
        self._predictions = predictions
        self._clock = clock
        self._window = window
        self._days = timedelta(days=window_days)
        self._minimum = minimum
        self._every = every
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- checking ---------------------------------------------------------------------------------------------------

    def check(self, model: str) -> list[DriftResult]:
        """Compare every feature of the version in Production; raises NotFound when nothing serves or it has no reference."""
        version = self._registry.by_stage(model, "Production")
        if version is None:
            self._registry.model(model)
            raise NotFound(
                f"No version of {model!r} is in Production.", hint="`mlbox model ls` shows the stages.", field="model"
            )
        reference = load_reference(self._artifacts, version)
        served = self._predictions.window(model, limit=self._window, since=self._clock.now() - self._days)
        results = [self._result(version, feature, values, served) for feature, values in reference.items()]
        self._save(version, results)
        for result in results:
            self._alert(result)
        return results

    def _result(self, version: ModelVersion, feature: str, reference: object, served: Window) -> DriftResult:
        import numpy as np

        current = served.features.get(feature, np.empty(0))
        found = drift.compare(np.asarray(reference), current)
        return DriftResult(
            model=version.model,
            version=version.version,
            feature=feature,
            statistic=found.statistic,
            p_value=found.p_value,
            verdict=drift.verdict(found, minimum=self._minimum),
            reference_rows=found.reference_rows,
            current_rows=found.current_rows,
            reference_missing=found.reference_missing,
            current_missing=found.current_missing,
            at=self._clock.now(),
        )

    def _save(self, version: ModelVersion, results: list[DriftResult]) -> None:
        check_id = new_id()

        def write(tx: Tx) -> None:
            tx.many(
                "INSERT INTO drift (model, feature, check_id, at_us, result) VALUES (?,?,?,?,?)",
                [(r.model, r.feature, check_id, to_us(r.at), r.to_json().decode()) for r in results],
            )
            worst = max((r.statistic or 0 for r in results), default=0)
            tx.emit("drift.checked", f"model:{version.ref}", "mlbox", features=len(results), worst=worst)

        self._db.write(write)

    def _alert(self, result: DriftResult) -> None:
        labels = {"model": result.model, "feature": result.feature}
        if result.verdict == "alert":
            summary = f"{result.feature} of {result.model} drifts: D = {result.statistic:.3f} over {result.current_rows:,} rows"
            self._alerts.fire(DRIFT, labels, summary, result.statistic)
        elif result.verdict == "ok":
            self._alerts.resolve(DRIFT, labels)

    # -- reading ----------------------------------------------------------------------------------------------------

    def latest(self, model: str) -> list[DriftResult]:
        """The results of a model's last check, by feature; none before the first."""
        rows = self._db.all(
            "SELECT result FROM drift WHERE model = :model AND check_id ="
            " (SELECT check_id FROM drift WHERE model = :model ORDER BY check_id DESC LIMIT 1) ORDER BY feature",
            {"model": model},
        )
        return [msgspec.json.decode(row["result"], type=DriftResult) for row in rows]

    def history(self, model: str, feature: str, limit: int = 1000) -> list[DriftResult]:
        """A feature's results, oldest first."""
        rows = self._db.all(
            "SELECT result FROM drift WHERE model = ? AND feature = ? ORDER BY id DESC LIMIT ?", (model, feature, limit)
        )
        return [msgspec.json.decode(row["result"], type=DriftResult) for row in reversed(rows)]

    def alerts(self, *, state: AlertState | None = None, limit: int = 100, after: str | None = None) -> list[Alert]:
        """Alerts, newest first."""
        return self._alerts.page(state=state, limit=limit, after=after)

    # -- by itself --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check every model in Production every so many seconds of real time, where that is set."""
        if self._every > 0:
            self._thread = threading.Thread(target=self._loop, name="mlbox-monitor", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while not self._stopping.wait(self._every):
            for version in self._registry.in_stage("Production"):
                try:
                    self.check(version.model)
                except MlboxError:
                    continue  # no reference, or a store that is down: the next round sees

    def close(self) -> None:
        """Stop checking."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
