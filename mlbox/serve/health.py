"""Health: all that is watched of a model in Production in one place, and of all models, the worst first.

It decides nothing of its own: each area repeats what its check found last. Performance is compared with what the version's run
measured: an error that is a fifth larger is worth a look, one that is half as large again is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlbox.errors import InvalidInput, MlboxError, NotFound
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
from mlbox.serve.concept import Concept
from mlbox.serve.monitor import Monitor
from mlbox.serve.performance import Performance
from mlbox.serve.skew import Skew
from mlbox.store.quality import Screened
from mlbox.store.registry import Registry

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
DEPTH = 8
"""Views over views that are looked through for the sources of a model."""


class Health:
    """Of one model, and of all."""

    def __init__(
        self,
        registry: Registry,
        monitor: Monitor,
        skew: Skew,
        performance: Performance,
        concept: Concept,
        features: Screened,
    ) -> None:
        self._registry = registry
        self._monitor = monitor
        self._skew = skew
        self._performance = performance
        self._concept = concept
        self._features = features

    def fleet(self) -> list[ModelHealth]:
        """Every model in Production, the worst first."""
        alerts = self._monitor.alerts(state="firing", limit=1000)
        found = [self._of(version, alerts) for version in self._registry.in_stage("Production")]
        return sorted(found, key=lambda one: (STATES.index(one.state), -one.firing, -(one.worst_statistic or 0)))

    def of(self, model: str) -> ModelHealth:
        """One model; raises NotFound where it is unknown or has no version in Production."""
        version = self._registry.serving(model)
        return self._of(version, self._monitor.alerts(state="firing", limit=1000))

    def _of(self, version: ModelVersion, alerts: Sequence[Alert]) -> ModelHealth:
        drift = self._monitor.latest(version.model)
        views = {name.partition(":")[0] for name in version.features}
        own = [
            alert for alert in alerts if alert.labels.get("model") == version.model or alert.labels.get("view") in views
        ]
        areas = [
            _drift(drift),
            _guarded("data quality", lambda: self._quality(version, drift, own)),
            _guarded("skew", lambda: _skew(self._skew.latest(version.model))),
            _guarded("performance", lambda: _performance(version, self._performance.measure(version.model))),
            _guarded("concept", lambda: _concept(self._concept.measure(version.model))),
            _alerts(own),
        ]
        worst = max((r for r in drift if r.statistic is not None), key=lambda r: r.statistic or 0, default=None)
        return ModelHealth(
            model=version.model,
            version=version.version,
            state=_state_of(areas),
            checked_at=drift[0].at if drift else None,
            firing=len(own),
            worst_feature=worst.feature if worst else None,
            worst_statistic=worst.statistic if worst else None,
            areas=tuple(areas),
        )

    # -- what the feature store knows ---------------------------------------------------------------------------------

    def _quality(self, version: ModelVersion, drift: Sequence[DriftResult], alerts: Sequence[Alert]) -> HealthArea:
        missing = [result.feature for result in drift if result.missing_risen]
        odd = [result.feature for result in drift if _odd(result)]
        stale = [alert.labels["view"] for alert in alerts if alert.name == "staleness" and "view" in alert.labels]
        held = sum(self._features.quality(source).quarantined for source in self._sources(version))
        words = [
            *([f"values are missing more often than in training: {_some(missing)}"] if missing else []),
            *([f"not up to date: {_some(stale)}"] if stale else []),
            *([f"values that training did not have: {_some(odd)}"] if odd else []),
            *([f"{held:,} row{'s' if held != 1 else ''} of its sources in quarantine"] if held else []),
        ]
        state: HealthState = "bad" if missing or stale else "warn" if odd or held else "ok" if drift else "unknown"
        return _area("data quality", state, "; ".join(words) or ("nothing is odd" if drift else "not checked yet"))

    def _sources(self, version: ModelVersion) -> set[str]:
        """The sources that a version's features are made of, as far as whoever asks may see them."""
        found: set[str] = set()
        views = {name.partition(":")[0] for name in version.features}
        for _ in range(DEPTH):
            names = {name for view in views for name in self._read_by(view)}
            found |= {name for name in names if "@" not in name}
            views = names - found
        return {name for name in found if self._known(name)}

    def _read_by(self, view: str) -> tuple[str, ...]:
        try:
            return self._features.view(view).sources
        except NotFound:  # computed on demand, or gone
            return ()

    def _known(self, source: str) -> bool:
        try:
            self._features.declared(source)
        except NotFound:
            return False
        return True


def _guarded(name: HealthName, look: Callable[[], HealthArea]) -> HealthArea:
    """One area that cannot be had says why, and takes no other with it."""
    try:
        return look()
    except (NotFound, InvalidInput) as err:
        return _area(name, "unknown", err.message)
    except MlboxError as err:
        return _area(name, "warn", f"could not be looked at: {err.message}")


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
    words = f"{len(drifting)} of {len(results)} features drift, {worst.feature} most: D = {worst.statistic:.3f}"
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


def _performance(version: ModelVersion, found: Sequence[LivePerformance]) -> HealthArea:
    own = next((one for one in found if one.version == version.version and one.role == "champion"), None)
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
