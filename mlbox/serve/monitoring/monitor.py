"""Drift: what is served against what the model in Production learned from, and the alerts that follow.

An alert of drift fires above 0.2 and is resolved at or below 0.1: between the two it stays as it is, so that a value near a
threshold does not ring all day. Between them another one, that drift is suspected, fires where that is more than chance. Missing
values have an alert of their own. Too little data changes nothing. A feature that the version in Production no longer has is
resolved, because nothing measures it any more.

Invariants
- Checks take turns: what one finds is on disk before the next begins, so results and alerts follow one order.
- A check's results, the moves of its alerts and their events are one transaction.
"""

from __future__ import annotations

import itertools
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.ids import new_id
from mlbox.loop import attempt
from mlbox.records import (
    Alert,
    AlertState,
    DriftResult,
    DriftSummary,
    EstimatedPerformance,
    ModelVersion,
    Verdict,
)
from mlbox.records.distances import distance
from mlbox.serve.monitoring import drift, judge
from mlbox.serve.monitoring.estimate import estimate
from mlbox.serve.monitoring.live_window import LiveWindow
from mlbox.serve.monitoring.reference import load_reference
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.artifacts import Artifacts
from mlbox.store.checks import Thinning, last_checks, spread
from mlbox.store.db import Database, Tx
from mlbox.store.monitoring.alert_rules import DEFAULT, InForce
from mlbox.store.monitoring.alerts import Alerts, Signal
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np

DRIFT = "feature_drift"
SUSPECTED = "feature_drift_suspected"
MISSING = "feature_missing"
SIGNALS: dict[Verdict, Signal] = {
    "alert": "fire",
    "investigate": "hold",
    "not_enough_data": "hold",
    "ok": "resolve",
}
"""The hysteresis: what each verdict does to an alert of drift."""
MOST_WINDOWS = 32
"""Models whose windows are kept in memory; of another one it is read from the log again."""
LOOKED_BACK = 10_000
"""Checks of a feature that are looked at for how long it has been suspected."""
T = TypeVar("T")
_log = logging.getLogger(__name__)


class DriftGauge(msgspec.Struct, frozen=True, gc=False):
    """Of a result, what a scrape tells. To read thousands of these leaves the garbage collector nothing to look at."""

    model: str
    feature: str
    statistic: float | None
    current_rows: int
    current_missing: int


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
        rules: InForce = DEFAULT,
    ) -> None:
        self._db = db
        self._alerts = Alerts(db, rules)
        self._registry = registry
        self._artifacts = artifacts
        self._predictions = predictions
        self._clock = clock
        self._size = window
        self._windows: dict[str, LiveWindow] = {}
        self._days = timedelta(days=window_days)
        self._minimum = minimum
        self._every = every
        self._checking = threading.Lock()
        self._thinning = Thinning("drift")
        self.beside: list[Callable[[str], object]] = []
        """What else is checked of each model in Production, on the same schedule."""
        self.names_beside: tuple[str, ...] = ()
        """The alerts that those raise."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # -- checking ---------------------------------------------------------------------------------------------------

    def check(self, model: str) -> list[DriftResult]:
        """Compare every feature of the version in Production, and the score where its training values are known.

        Raises NotFound when nothing serves or it has no reference, Unavailable when the reference cannot be read.
        """
        with self._checking:
            version = self._registry.serving(model)
            now = self._clock.now()
            window = self._window(version)
            window.follow(self._predictions, now - self._days)
            results = judge.results(window, now, self._minimum, lambda feature: self._suspected_since(model, feature))
            self._db.write(lambda tx: self._save(tx, version, results))
            return results

    def reference(self, version: ModelVersion) -> dict[str, np.ndarray]:
        """Its training values by feature; raises NotFound, or Unavailable where they cannot be read."""
        try:
            return load_reference(self._artifacts, version)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as err:
            raise Unavailable(
                f"The training reference of {version.ref} cannot be read: {err}.",
                hint="Restore its artifact from a backup, or register the version anew.",
            ) from err

    def _window(self, version: ModelVersion) -> LiveWindow:
        """The window of a model, begun anew where another version, or another reference, is in Production."""
        known = self._windows.pop(version.model, None)
        if known is None or (known.version.id, known.version.reference) != (version.id, version.reference):
            known = LiveWindow(version, self.reference(version), self._size)
        self._windows[version.model] = known
        if len(self._windows) > MOST_WINDOWS:
            del self._windows[next(iter(self._windows))]
        return known

    def _suspected_since(self, model: str, feature: str) -> datetime | None:
        """The first of the checks, up to the last one, that all found a feature above the lower threshold."""
        rows = self._db.all(
            "SELECT at_us, result ->> 'verdict' AS verdict FROM drift WHERE model = ? AND feature = ? ORDER BY id DESC LIMIT ?",
            (model, feature, LOOKED_BACK),
        )
        above = list(itertools.takewhile(lambda row: row["verdict"] in ("investigate", "alert"), rows))
        return from_us(above[-1]["at_us"]) if above else None

    def _save(self, tx: Tx, version: ModelVersion, results: Sequence[DriftResult]) -> None:
        check_id = new_id()
        tx.many(
            "INSERT INTO drift (model, feature, check_id, at_us, result) VALUES (?,?,?,?,?)",
            [(r.model, r.feature, check_id, to_us(r.at), r.to_json().decode()) for r in results],
        )
        worst = max((r.statistic or 0 for r in results), default=0)
        risen = [r.feature for r in results if r.missing_risen]
        tx.emit(
            "drift.checked", f"model:{version.ref}", "mlbox", features=len(results), worst=worst, missing_risen=risen
        )
        self._thinning.thin(tx, version.model)
        for result in results:
            for name, signal, words in _signals(result, self._minimum):
                value = _share(result) if name == MISSING else result.statistic
                self._alerts.apply(tx, name, _labels(result), signal, summary=words, value=value)
        self._resolve_left_over(tx, version, {r.feature for r in results if r.reference != "absent"})

    def _resolve_left_over(self, tx: Tx, version: ModelVersion, checked: set[str]) -> None:
        """End the alerts of features that a former version had: nothing would ever end them otherwise."""
        for name in (DRIFT, SUSPECTED, MISSING):
            for alert in self._alerts.firing(tx, name):
                if alert.labels["model"] == version.model and alert.labels["feature"] not in checked:
                    reason = f"{alert.labels['feature']} is no feature of {version.ref}, which is in Production"
                    self._alerts.apply(tx, name, alert.labels, "resolve", summary=reason)

    def _resolve_retired(self, serving: set[str]) -> None:
        """End the alerts of what is measured of models in Production only, and of which nothing is there any more."""

        names = {DRIFT, SUSPECTED, MISSING, *self.names_beside}
        rows = self._db.all("SELECT name, labels ->> 'model' AS model FROM alert WHERE state IN ('pending', 'firing')")
        left = {row["name"] for row in rows if row["name"] in names and row["model"] not in serving}

        def write(tx: Tx) -> None:
            for name in left:
                for alert in self._alerts.firing(tx, name):
                    if (model := alert.labels["model"]) not in serving:
                        reason = f"No version of {model} is in Production"
                        self._alerts.apply(tx, name, alert.labels, "resolve", summary=reason)

        if left:
            self._db.write(write)

    def estimate(self, model: str) -> EstimatedPerformance:
        """How well the version in Production does by its own scores, over the window of drift.

        Raises NotFound when nothing serves, InvalidInput for scores that are no probabilities.
        """
        version = self._registry.serving(model)
        found = self._predictions.served(model, limit=self._size, since=self._clock.now() - self._days)
        scores = found.scores[found.versions == version.version][-self._size :]
        scores = scores[scores == scores]
        if len(scores) and not ((scores >= 0) & (scores <= 1)).all():
            raise InvalidInput(
                f"The scores of {version.ref} are no probabilities: they go from {scores.min():g} to {scores.max():g}.",
                hint="Only a classifier's performance can be estimated; `mlbox monitor performance` measures by labels.",
                field="model",
            )
        return EstimatedPerformance(
            model=version.model,
            version=version.version,
            predictions=len(scores),
            metrics=estimate(scores),
            training=version.metrics,
            at=self._clock.now(),
        )

    # -- reading ----------------------------------------------------------------------------------------------------

    def last_checks(self, models: Sequence[str]) -> dict[str, str | None]:
        """The id of each model's last check; it tells whether `latest` has anything new."""
        return last_checks(self._db, "drift", models)

    def latest(self, model: str) -> list[DriftResult]:
        """The results of a model's last check, by feature; none before the first."""
        return self._latest(model, DriftResult)

    def gauges(self, model: str) -> list[DriftGauge]:
        """What a scrape tells of them."""
        return self._latest(model, DriftGauge)

    def _latest(self, model: str, kind: type[T]) -> list[T]:
        rows = self._db.all(
            "SELECT result FROM drift WHERE model = :model AND visible('model', :model) AND check_id ="
            " (SELECT check_id FROM drift WHERE model = :model ORDER BY check_id DESC LIMIT 1) ORDER BY feature",
            {"model": model},
        )
        return [msgspec.json.decode(row["result"], type=kind) for row in rows]

    def checks(self, model: str, most: int) -> list[list[DriftResult]]:
        """The results of so many of a model's checks, spread over the time of all that are kept, oldest first, by feature."""
        ids = msgspec.json.encode(spread(self._db, "drift", model, most)).decode()
        rows = self._db.all(
            "SELECT check_id, result FROM drift WHERE model = :model AND visible('model', :model) AND check_id IN"
            " (SELECT value FROM json_each(:ids)) ORDER BY check_id, feature",
            {"model": model, "ids": ids},
        )
        found: dict[str, list[DriftResult]] = {}
        for row in rows:
            found.setdefault(row["check_id"], []).append(msgspec.json.decode(row["result"], type=DriftResult))
        return list(found.values())

    def history(self, model: str, feature: str, limit: int = 1000) -> list[DriftResult]:
        """A feature's last results, oldest first."""
        rows = self._db.all(
            "SELECT result FROM drift WHERE model = ? AND feature = ? AND visible('model', model) ORDER BY id DESC LIMIT ?",
            (model, feature, limit),
        )
        return [msgspec.json.decode(row["result"], type=DriftResult) for row in reversed(rows)]

    def alerts(self, *, state: AlertState | None = None, limit: int = 100, after: str | None = None) -> list[Alert]:
        """Alerts, newest first."""
        return self._alerts.page(state=state, limit=limit, after=after)

    def summaries(self, *, limit: int = 100, after: str | None = None) -> list[DriftSummary]:
        """The last check of each model in Production, by model name, from the one after `after`."""
        serving = [v for v in self._registry.in_stage("Production") if v.model > (after or "")]
        return [_summary(version, self.latest(version.model)) for version in serving[:limit]]

    # -- by itself --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check every model in Production every so many seconds of real time, where that is set.

        In replay mode domain time stands between two moves of the clock, and checks are on demand only.
        """
        if self._every > 0 and not self._clock.replay:
            self._thread = threading.Thread(target=self._loop, name="mlbox-monitor", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while not self._stopping.wait(self._every):
            attempt(self.check_all, "The models to check could not be listed", otherwise=None)

    def check_all(self) -> None:
        """Check every model in Production; one that cannot be checked is logged and keeps no other from it."""
        versions = self._registry.in_stage("Production")
        self._resolve_retired({version.model for version in versions})
        for version in versions:
            for check in (self.check, *self.beside):
                if self._stopping.is_set():
                    return
                self._check_safely(check, version)

    def _check_safely(self, check: Callable[[str], object], version: ModelVersion) -> None:
        try:
            check(version.model)
        except NotFound as err:
            _log.debug("%s is not checked for drift: %s", version.ref, err)
        except Exception as err:  # whatever is wrong with one model's files, the thread lives on
            _log.warning("%s could not be checked for drift: %s", version.ref, err)

    def close(self) -> None:
        """Stop checking."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()


def _labels(result: DriftResult) -> dict[str, str]:
    return {"model": result.model, "feature": result.feature}


def _signals(result: DriftResult, minimum: int) -> Iterator[tuple[str, Signal, str]]:
    """What a result says of each alert of its feature, and in which words."""
    yield DRIFT, SIGNALS[result.verdict], _words(result)
    suspected: Signal = "resolve" if result.verdict in ("ok", "alert") else "fire" if result.confirmed else "hold"
    yield SUSPECTED, suspected, _words(result)
    few = min(result.reference_rows, result.current_rows) < minimum
    missing: Signal = "fire" if result.missing_risen else "hold" if few else "resolve"
    before = result.reference_missing / result.reference_rows if result.reference_rows else 0.0
    shares = f"{_share(result):.1%} of its values are missing, {before:.1%} were in training"
    yield MISSING, missing, f"{result.feature} of {result.model}: {shares}"


def _share(result: DriftResult) -> float:
    return result.current_missing / result.current_rows if result.current_rows else 0.0


def _words(result: DriftResult) -> str:
    """A result as an alert says it."""
    value = "unknown" if result.statistic is None else distance(result.statistic)
    verb = {"alert": "drifts", "investigate": "may drift", "ok": "is ok"}.get(result.verdict, "has not enough data")
    rows = f"{result.current_rows:,} rows, against {result.reference_rows:,} that version {result.version} learned from"
    return f"{result.feature} of {result.model} {verb}: D = {value} over {rows}"


def _summary(version: ModelVersion, results: Sequence[DriftResult]) -> DriftSummary:
    worst = max((r for r in results if r.statistic is not None), key=lambda r: r.statistic or 0, default=None)
    return DriftSummary(
        model=version.model,
        version=version.version,
        checked_at=results[0].at if results else None,
        features=len(results),
        drifting=sum(r.verdict == "alert" for r in results),
        missing_risen=sum(r.missing_risen for r in results),
        worst_feature=worst.feature if worst else None,
        worst_statistic=worst.statistic if worst else None,
    )
