"""A report: all that is known of a model over a window of domain time, to be kept or sent on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import MonitorReport
from mlbox.serve.monitoring.business import Business
from mlbox.serve.monitoring.concept import Concept
from mlbox.serve.monitoring.health import Health
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.performance import Performance
from mlbox.serve.monitoring.skew import Skew
from mlbox.serve.monitoring.spans import Spans

ALERTS = 1000
T = TypeVar("T")


class Reports:
    """Reports of models in Production."""

    def __init__(
        self,
        health: Health,
        monitor: Monitor,
        spans: Spans,
        performance: Performance,
        concept: Concept,
        skew: Skew,
        business: Business,
        clock: Clock,
    ) -> None:
        self._health = health
        self._monitor = monitor
        self._spans = spans
        self._performance = performance
        self._concept = concept
        self._skew = skew
        self._business = business
        self._clock = clock

    def of(self, model: str, *, hold: timedelta) -> MonitorReport:
        """Over the window of this length up to now; raises NotFound where nothing serves."""
        now = self._clock.now()
        since = now - hold
        health = self._health.of(model)
        alerts = [
            alert
            for alert in self._monitor.alerts(limit=ALERTS)
            if alert.labels.get("model") == model and (alert.resolved_at is None or alert.resolved_at >= since)
        ]
        return MonitorReport(
            model=model,
            version=health.version,
            since=since,
            until=now,
            health=health,
            drift=tuple(self._spans.drift(model, hold=hold)),
            performance=tuple(_if_there(lambda: self._performance.measure(model, since=since)) or ()),
            concept=_if_there(lambda: self._concept.measure(model)),
            estimated=_if_there(lambda: self._monitor.estimate(model)),
            skew=tuple(self._skew.latest(model)),
            business=tuple(self._business.series(model, since=since)),
            alerts=tuple(alerts),
        )


def _if_there(look: Callable[[], T]) -> T | None:
    """What a model has no labels, or no probabilities, for is left out; health says why."""
    try:
        return look()
    except (NotFound, InvalidInput):
        return None
