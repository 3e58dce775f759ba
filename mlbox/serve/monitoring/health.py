"""Health: all that is watched of a model in Production in one place, and of all models, the worst first.

It decides nothing of its own: each area repeats what its check found last. Performance is compared with what the version's run
measured: an error that is a fifth larger is worth a look, one that is half as large again is bad.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, NotFound
from mlbox.events import EventBus
from mlbox.records import (
    Alert,
    ConceptResult,
    DriftResult,
    HealthArea,
    HealthName,
    HealthState,
    LivePerformance,
    ModelHealth,
    ModelVersion,
    SkewResult,
)
from mlbox.records.distances import distance
from mlbox.serve.monitoring.concept import Concept
from mlbox.serve.monitoring.last_measured import Found, Kept, LastMeasured
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.performance import Performance
from mlbox.serve.monitoring.skew import Skew
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.features.quality import Screened
from mlbox.store.registry.registry import Registry

STATES: tuple[HealthState, ...] = ("bad", "warn", "unknown", "ok")
LOOK, BAD = 1.2, 1.5
"""How many times the error of training: from here it is worth a look, from here it is bad."""
ENOUGH = 100
"""Fewest labelled predictions that say anything of performance."""
ERRORS: dict[str, Callable[[float], float]] = {
    "auc": lambda value: 1 - value,
    "accuracy": lambda value: 1 - value,
    "r2": lambda value: 1 - value,
    **dict.fromkeys(("log_loss", "brier", "mae", "rmse"), lambda value: value),
}
"""Metrics as errors, of which less is better."""
MEASURED: tuple[HealthName, ...] = ("performance", "concept")
"""Areas that take long: they join predictions with labels."""
FAILED = "could not be looked at"
DEPTH = 8
"""Views over views that are looked through for the sources of a model."""


class _Checked(NamedTuple):
    """What the last check for drift says of a model, as far as health tells of it."""

    check: str | None
    area: HealthArea
    missing: Sequence[str] = ()
    """Features whose values are missing more often than in training."""
    odd: Sequence[str] = ()
    """Features with values that training did not have."""
    at: datetime | None = None
    worst: DriftResult | None = None


class _Look:
    """What a look at many models asks for once: alerts, and what whoever looks may know of views and sources."""

    def __init__(self, alerts: Sequence[Alert], features: Screened) -> None:
        self._alerts: dict[tuple[str, str], list[Alert]] = {}
        for alert in alerts:
            for label in ("model", "view"):
                if label in alert.labels:
                    self._alerts.setdefault((label, alert.labels[label]), []).append(alert)
        self.read_by = functools.cache(functools.partial(_read_by, features))
        self.held = functools.cache(features.quarantined_rows)
        self.knows = functools.cache(functools.partial(_knows, features))

    def firing(self, version: ModelVersion) -> list[Alert]:
        """Alerts of a model and of the views that it reads."""
        keys = [("model", version.model), *(("view", view) for view in _views(version))]
        return list({alert.id: alert for key in keys for alert in self._alerts.get(key, ())}.values())


class Health:
    """Of one model, and of all. `start` it for what a look at many leaves to a thread."""

    def __init__(
        self,
        registry: Registry,
        monitor: Monitor,
        skew: Skew,
        performance: Performance,
        concept: Concept,
        features: Screened,
        predictions: PredictionLog,
        clock: Clock,
        bus: EventBus,
    ) -> None:
        self._registry = registry
        self._monitor = monitor
        self._skew = skew
        self._performance = performance
        self._concept = concept
        self._features = features
        self._measured = LastMeasured(self._measure, lambda: registry.in_stage("Production"), predictions, clock, bus)
        self.live: dict[str, LivePerformance] = {}
        """By model, what labels said last of the version in Production."""
        self._checked: dict[str, _Checked] = {}
        self._skewed: dict[str, tuple[str | None, HealthArea]] = {}
        self.start, self.close = self._measured.start, self._measured.close

    def fleet(self) -> list[ModelHealth]:
        """Every model in Production, the worst first; of many, what was last measured of them."""
        versions = self._registry.in_stage("Production")
        found = self._look(versions, self._measured.last(versions))
        return sorted(found, key=lambda one: (STATES.index(one.state), -one.firing, -(one.worst_statistic or 0)))

    def of(self, model: str) -> ModelHealth:
        """One model, measured now; raises NotFound where it is unknown or has no version in Production."""
        version = self._registry.serving(model)
        return self._look([version], {model: self._measured.now(version)})[0]

    def keep(self, model: str) -> None:
        """Measure a model where what was measured last does not hold any more; raises NotFound."""
        self._measured.keep(self._registry.serving(model))

    def _look(self, versions: Sequence[ModelVersion], measured: Mapping[str, Kept]) -> list[ModelHealth]:
        names = [version.model for version in versions]
        checks, skews = self._monitor.last_checks(names), self._skew.last_checks(names)
        look = _Look(self._monitor.alerts(state="firing", limit=1000), self._features)
        return [
            self._of(version, look, checks[version.model], skews[version.model], measured.get(version.model))
            for version in versions
        ]

    def _of(
        self, version: ModelVersion, look: _Look, check: str | None, skew: str | None, measured: Kept | None
    ) -> ModelHealth:
        drift, own = self._drift_of(version.model, check), look.firing(version)
        areas = [
            drift.area,
            _guarded("data quality", lambda: self._quality(version, drift, own, look)),
            _guarded("skew", lambda: self._skew_of(version.model, skew)),
            *self._shown(measured),
            _alerts(own),
        ]
        return ModelHealth(
            model=version.model,
            version=version.version,
            state=_state_of(areas),
            checked_at=drift.at,
            measured_at=measured.at if measured else None,
            firing=len(own),
            worst_feature=drift.worst.feature if drift.worst else None,
            worst_statistic=drift.worst.statistic if drift.worst else None,
            areas=tuple(areas),
        )

    # -- what checks found, read again when there was another one ---------------------------------------------------------

    def _drift_of(self, model: str, check: str | None) -> _Checked:
        known = self._checked.get(model)
        if known is None or known.check != check:
            known = self._checked[model] = _checked(check, self._monitor.latest(model))
        return known

    def _skew_of(self, model: str, check: str | None) -> HealthArea:
        known = self._skewed.get(model)
        if known is None or known[0] != check:
            known = self._skewed[model] = check, _skew(self._skew.latest(model))
        return known[1]

    # -- what labels say --------------------------------------------------------------------------------------------------

    def _measure(self, version: ModelVersion) -> Found:
        label_set = None
        with contextlib.suppress(NotFound):
            label_set = self._performance.label_set(version.model)
        areas = (
            _guarded("performance", lambda: self._performance_of(version)),
            _guarded("concept", lambda: _concept(self._concept.measure(version.model))),
        )
        return Found(areas, label_set, lasts=not any(area.words.startswith(FAILED) for area in areas))

    def _performance_of(self, version: ModelVersion) -> HealthArea:
        found = self._performance.measure(version.model)
        own = next((one for one in found if one.version == version.version and one.role == "champion"), None)
        if own is None:
            self.live.pop(version.model, None)
        else:
            self.live[version.model] = own
        return _performance(version, own)

    def _shown(self, measured: Kept | None) -> tuple[HealthArea, ...]:
        """Of performance and concept, what whoever asks may know."""
        if measured is None:
            return tuple(_area(name, "unknown", "not measured yet") for name in MEASURED)
        label_set = measured.found.label_set
        if label_set is not None and not self._performance.sees(label_set):
            return tuple(_area(name, "unknown", f"There is no label set {label_set!r}.") for name in MEASURED)
        return measured.found.areas

    # -- what the feature store knows ---------------------------------------------------------------------------------

    def _quality(self, version: ModelVersion, drift: _Checked, alerts: Sequence[Alert], look: _Look) -> HealthArea:
        stale = [alert.labels["view"] for alert in alerts if alert.name == "staleness" and "view" in alert.labels]
        held = sum(look.held().get(source, 0) for source in _sources(version, look))
        words = [
            *([f"values are missing more often than in training: {_some(drift.missing)}"] if drift.missing else []),
            *([f"not up to date: {_some(stale)}"] if stale else []),
            *([f"values that training did not have: {_some(drift.odd)}"] if drift.odd else []),
            *([f"{held:,} row{'s' if held != 1 else ''} of its sources in quarantine"] if held else []),
        ]
        bad, odd = drift.missing or stale, drift.odd or held
        state: HealthState = "bad" if bad else "warn" if odd else "ok" if drift.at else "unknown"
        return _area("data quality", state, "; ".join(words) or ("nothing is odd" if drift.at else "not checked yet"))


def _views(version: ModelVersion) -> set[str]:
    return {name.partition(":")[0] for name in version.features}


def _sources(version: ModelVersion, look: _Look) -> set[str]:
    """The sources that a version's features are made of, as far as whoever asks may see them."""
    found: set[str] = set()
    views = _views(version)
    for _ in range(DEPTH):
        names = {name for view in views for name in look.read_by(view)}
        found |= {name for name in names if "@" not in name}
        views = names - found
    return {name for name in found if look.knows(name)}


def _read_by(features: Screened, view: str) -> tuple[str, ...]:
    try:
        return features.view(view).sources
    except NotFound:  # computed on demand, or gone
        return ()


def _knows(features: Screened, source: str) -> bool:
    try:
        features.declared(source)
    except NotFound:
        return False
    return True


def _checked(check: str | None, results: Sequence[DriftResult]) -> _Checked:
    known = [result for result in results if result.statistic is not None]
    return _Checked(
        check,
        _drift(results),
        missing=[result.feature for result in results if result.missing_risen],
        odd=[result.feature for result in results if _odd(result)],
        at=results[0].at if results else None,
        worst=max(known, key=lambda result: result.statistic or 0, default=None),
    )


def _guarded(name: HealthName, look: Callable[[], HealthArea]) -> HealthArea:
    """One area that cannot be had says why, and takes no other with it."""
    try:
        return look()
    except (NotFound, InvalidInput) as err:
        return _area(name, "unknown", err.message)
    except MlboxError as err:
        return _area(name, "warn", f"{FAILED}: {err.message}")


def _state_of(areas: Sequence[HealthArea]) -> HealthState:
    """The worst of what is known. That nothing fires says nothing of a model that nobody has looked at."""
    known = [area.state for area in areas if area.state != "unknown" and (area.name, area.state) != ("alerts", "ok")]
    return min(known, key=STATES.index, default="unknown")


def _area(name: HealthName, state: HealthState, words: str) -> HealthArea:
    return HealthArea(name=name, state=state, words=words)


def _drift(results: Sequence[DriftResult]) -> HealthArea:
    if not results:
        return _area("drift", "unknown", "not checked yet")
    known = [result for result in results if result.statistic is not None]
    if not known:
        return _area("drift", "unknown", "not enough data")
    drifting = [result for result in known if result.verdict == "alert"]
    suspected = [result for result in known if result.confirmed]
    worst = max(known, key=lambda result: result.statistic or 0)
    words = f"{len(drifting)} of {len(results)} drift, {worst.feature} most: D = {distance(worst.statistic)}"
    return _area("drift", "bad" if drifting else "warn" if suspected else "ok", words)


def _odd(result: DriftResult) -> bool:
    found = result.measures
    return found is not None and (found.type_changed or found.new_share > 0.01 or found.out_of_range > 0.1)


def _skew(results: Sequence[SkewResult]) -> HealthArea:
    known = [result for result in results if result.share is not None]
    if not known:
        return _area("skew", "unknown", "not enough data" if results else "not checked yet")
    bad = [result.feature for result in known if result.verdict == "alert"]
    least = min(result.share or 0.0 for result in known)
    words = f"served otherwise than the history says: {_some(bad)}" if bad else f"at least {least:.1%} of each agree"
    return _area("skew", "bad" if bad else "ok", words)


def _performance(version: ModelVersion, own: LivePerformance | None) -> HealthArea:
    if own is None:
        return _area("performance", "unknown", "it has predicted nothing yet")
    covered = f"{own.coverage:.0%} of {own.predictions:,} predictions have a label"
    if own.measured < ENOUGH:
        return _area("performance", "unknown", f"{covered}: too few to say")
    shared = [(name, value) for name, value in own.metrics.items() if value is not None]
    compared = [(_times(name, value, own.training[name]), name) for name, value in shared if name in own.training]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in shared)
    if not compared:
        return _area("performance", "unknown", f"{shown}; nothing to compare with from training; {covered}")
    worst, name = max(compared)
    words = f"{shown}; {name} in training {own.training[name]:.3f}; {covered}"
    return _area("performance", "bad" if worst >= BAD else "warn" if worst >= LOOK else "ok", words)


def _times(name: str, live: float, training: float) -> float:
    """How many times the error of training there is now."""
    now, then = ERRORS[name](live), ERRORS[name](training)
    return now / then if then > 0 else (1.0 if now <= 0 else BAD)


def _concept(found: ConceptResult) -> HealthArea:
    words = {
        "not_enough_data": f"{found.before_rows + found.now_rows:,} labelled predictions are too few to say",
        "ok": "its errors are what they were",
        "improved": "it errs less than before",
        "concept_drift": "it errs more than before, and its inputs are what they were",
        "inputs_moved": "it errs more than before, and its inputs have moved",
    }
    states: dict[str, HealthState] = {"not_enough_data": "unknown", "concept_drift": "bad", "inputs_moved": "warn"}
    return _area("concept", states.get(found.verdict, "ok"), words[found.verdict])


def _alerts(alerts: Sequence[Alert]) -> HealthArea:
    if not alerts:
        return _area("alerts", "ok", "nothing fires")
    only_suspected = all(alert.name == "feature_drift_suspected" for alert in alerts)
    return _area("alerts", "warn" if only_suspected else "bad", f"{len(alerts)} fire")


def _some(names: Sequence[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
