"""`/metrics`: what Prometheus reads, rendered off the loop."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from typing import Any

from litestar import Request, Response, get
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from mlbox import __version__
from mlbox.records import Prediction
from mlbox.web.box import Box

MOST_FEATURES = 1000
"""Feature labels per model: a model with more is shown by its worst."""
SCORE_BUCKETS = tuple(n / 20 for n in range(1, 21))


class Metrics:
    """One registry per box: histograms are fed by the prediction log, everything else is read when asked."""

    def __init__(self, box: Box) -> None:
        self.registry = CollectorRegistry()
        self._scores = Histogram(
            "ml_prediction_score",
            "Scores that were given.",
            ("model", "version"),
            registry=self.registry,
            buckets=SCORE_BUCKETS,
        )
        self._latency = Histogram(
            "ml_prediction_latency_seconds",
            "How long a request's scoring took.",
            ("model", "version"),
            registry=self.registry,
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1),
        )
        self.registry.register(_BoxCollector(box))
        box.predictions.on_prediction(self._observe)

    def _observe(self, rows: Sequence[Prediction]) -> None:
        for row in rows:
            if row.role != "shadow":
                self._scores.labels(row.model, str(row.version)).observe(row.score)
                self._latency.labels(row.model, str(row.version)).observe(row.latency_ms / 1000)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who asks for it, else Prometheus's text."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _BoxCollector:
    """Reads the box at every scrape."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def describe(self) -> list[Metric]:
        """Nothing is known before a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield InfoMetricFamily("mlbox_build", "The release.", {"version": __version__})
        yield self._predictions()
        yield self._drift()
        yield self._jobs()
        yield self._alerts()
        dropped = CounterMetricFamily("mlbox_prediction_log_dropped", "Predictions that the log had no room for.")
        dropped.add_metric([], self._box.predictions.dropped)
        yield dropped

    def _predictions(self) -> Metric:
        family = CounterMetricFamily(
            "ml_predictions", "Predictions since the start.", labels=("model", "version", "role", "outcome")
        )
        for (model, version, role), (rows, errors) in sorted(self._box.predictions.counters().items()):
            family.add_metric([model, str(version), role, "ok"], rows)
            family.add_metric([model, str(version), role, "error"], errors)
        return family

    def _drift(self) -> Metric:
        family = GaugeMetricFamily(
            "ml_feature_drift_ks_statistic",
            "Kolmogorov-Smirnov D of served against training.",
            labels=("model", "version", "feature"),
        )
        for version in self._box.registry.in_stage("Production"):
            results = sorted(self._box.monitor.latest(version.model), key=lambda r: -(r.statistic or 0))
            for result in results[:MOST_FEATURES]:
                if result.statistic is not None:
                    family.add_metric([result.model, str(result.version), result.feature], result.statistic)
        return family

    def _jobs(self) -> Metric:
        family = GaugeMetricFamily("mlbox_jobs", "Jobs by state.", labels=("state",))
        for state, count in sorted(self._box.scheduler.counts().items()):
            family.add_metric([state], count)
        return family

    def _alerts(self) -> Metric:
        family = GaugeMetricFamily("mlbox_alerts_firing", "Alerts that fire.", labels=("name",))
        for name, count in sorted(Tally(a.name for a in self._box.monitor.alerts(state="firing", limit=1000)).items()):
            family.add_metric([name], count)
        return family


@get("/metrics", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any], box: Box) -> Response[bytes]:
    """Prometheus's page."""
    page, content_type = await box.call(request.app.state.metrics.render, request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


handlers: list[Any] = [metrics]
