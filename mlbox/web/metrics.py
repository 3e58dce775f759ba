"""`/metrics`: what Prometheus reads, rendered off the loop, and with pauses in which the loop goes on.

Scores and latencies are counted as the prediction log takes them; everything else is read at a scrape. A store that is down takes
its own families with it and no others, and `mlbox_metrics_source_up` names it. However many models, versions and features there
are, the number of series has a bound.
"""

from __future__ import annotations

import heapq
import math
import threading
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from litestar import Request, Response, get
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from mlbox import __version__
from mlbox.errors import Unavailable
from mlbox.serve.monitoring.monitor import DriftGauge
from mlbox.serve.predictions.batches import Batch
from mlbox.web import metrics_box, metrics_inference, metrics_triton, metrics_values
from mlbox.web.box import Box
from mlbox.web.unhurried import HISTOGRAMS, Unhurried, unhurried

MOST_VERSIONS = 500
"""Versions with series of their own since the start; those after them are counted together, as `other`."""
MOST_FEATURES = 3000
"""Features with drift gauges; a box with more shows those that drift or are missing most."""
PAGES = 16
"""Rendered pages of checks that are kept: one for each source, format and set of models that may be seen."""
EOF = b"# EOF\n"
"""What ends a page of OpenMetrics."""
OTHER = "other"
_Ranked = tuple[float, tuple[str, ...], float]
"""A sample by how bad it is: its labels and its value."""
Seen = Callable[[tuple[str, str]], bool]
"""Whether the series of a model and version are shown."""
SCORE_BUCKETS = tuple(n / 10 for n in range(1, 10))
LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)

VERSION, FEATURE = ("model_name", "model_version"), ("model_name", "feature_name")
"""Labels. Drift is of the version in Production, so that a series goes on when another one comes there."""


class Family(NamedTuple):
    """One metric, as a scrape names it."""

    kind: Literal["counter", "gauge", "histogram", "unknown"]
    labels: tuple[str, ...]
    help: str


FAMILIES: Mapping[str, Family] = {
    "ml_predictions_total": Family(
        "counter",
        VERSION,
        "Rows since the start that were scored, in whatever role: a shadow's too.",
    ),
    "ml_prediction_outcomes_total": Family(
        "counter",
        (*VERSION, "role", "outcome"),
        "Rows since the start by outcome: ok where they were scored, error where the model failed on their request.",
    ),
    "ml_prediction_score": Family("histogram", VERSION, "Scores that were given to users: every role but shadow."),
    metrics_values.NAME: Family("histogram", VERSION, metrics_values.HELP),
    "ml_prediction_latency_seconds": Family(
        "histogram",
        VERSION,
        "Seconds from the look-up of features to the scores, by row: each row of a request counts the whole of it.",
    ),
    "ml_feature_drift_ks_statistic": Family(
        "gauge",
        FEATURE,
        "Kolmogorov-Smirnov D of served against training values, 0 to 1, at the last check; absent without enough data.",
    ),
    "ml_feature_missing_ratio": Family(
        "gauge", FEATURE, "Share of served values that were missing, 0 to 1, at the last check."
    ),
    "ml_feature_skew_equal_ratio": Family(
        "gauge",
        FEATURE,
        "Share of served values that are what the offline history says, 0 to 1, at the last check; absent without enough data.",
    ),
    "mlbox_alerts_firing": Family("gauge", ("name",), "Alerts that fire now, up to 1,000."),
    "mlbox_alert_rules_valid": Family(
        "gauge",
        (),
        "1 when the rules of alerts that are written are in force, 0 when they are wrong and those before are.",
    ),
    "mlbox_jobs": Family("gauge", ("state",), "Jobs in each state."),
    "mlbox_shadow_dropped_total": Family(
        "counter", (), "Rows since the start that a shadow did not see, because it was too far behind."
    ),
    "mlbox_prediction_log_dropped_total": Family(
        "counter", (), "Predictions that found the log's queue full, and are not in it."
    ),
    "mlbox_prediction_log_sampled_out_total": Family(
        "counter",
        ("model_name",),
        "Predictions that are not in the log, because their model's sampling leaves them out.",
    ),
    "mlbox_fast_path_requests_total": Family(
        "counter",
        ("way",),
        "Whole, plain requests for predictions, online reads and new jobs by who answered them: fast, or app where it had to.",
    ),
    "mlbox_metrics_source_up": Family(
        "gauge", ("source",), "1 when what these metrics are read from could be read, 0 when its families are absent."
    ),
    **{
        name: Family("counter", metrics_inference.LABELS, words)
        for name, (words, _) in metrics_inference.COUNTERS.items()
    },
    metrics_inference.FAILURES: Family(
        "counter", (*metrics_inference.LABELS, "reason"), metrics_inference.HELP[metrics_inference.FAILURES]
    ),
    metrics_inference.BATCH: Family(
        "histogram", metrics_inference.LABELS, metrics_inference.HELP[metrics_inference.BATCH]
    ),
    metrics_inference.PENDING: Family(
        "gauge", metrics_inference.LABELS, metrics_inference.HELP[metrics_inference.PENDING]
    ),
    metrics_inference.WORKERS: Family("gauge", ("state",), metrics_inference.HELP[metrics_inference.WORKERS]),
    metrics_inference.RESTARTS: Family("counter", (), metrics_inference.HELP[metrics_inference.RESTARTS]),
    metrics_inference.CRASHES: Family(
        "counter", metrics_inference.LABELS, metrics_inference.HELP[metrics_inference.CRASHES]
    ),
    metrics_inference.LOADED: Family("gauge", (), metrics_inference.HELP[metrics_inference.LOADED]),
    **{
        name: Family(
            "unknown",
            (*metrics_triton.LABELS, "reason") if name == metrics_triton.FAILURE else metrics_triton.LABELS,
            words,
        )
        for name, words in metrics_triton.HELP.items()
    },
    **{
        name: Family("counter" if name.endswith("_total") else "gauge", labels, words)
        for name, (labels, words) in metrics_box.FAMILIES.items()
    },
    "mlbox_build_info": Family("gauge", ("version",), "The release; always 1."),
}
"""Every family of ours; the reference page is compared with this."""


class Histogram:
    """Counts by bucket for each model and version: as quick as a request's thread needs it, and of bounded size."""

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = (*buckets, math.inf)
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def observe(self, model: str, version: str, values: Sequence[float]) -> None:
        """Count values, each in the first bucket that is not below it; what is no finite number is left out."""
        with self._lock:
            key = bounded((model, version), self._counts)
            counts = self._counts.get(key)
            if counts is None:
                counts, self._sums[key] = self._counts.setdefault(key, [0] * len(self._buckets)), 0.0
            total = 0.0
            for value in values:
                if math.isfinite(value):
                    counts[bisect_left(self._buckets, value)] += 1
                    total += value
            self._sums[key] += total

    def family(self, name: str, seen: Seen = lambda _: True) -> Metric:
        """What was counted of the versions that are to be seen, cumulated as Prometheus wants it."""
        family = HistogramMetricFamily(name, FAMILIES[name].help, labels=FAMILIES[name].labels)
        with self._lock:
            found = [(key, list(counts), self._sums[key]) for key, counts in self._counts.items() if seen(key)]
        bounds = [*map(repr, self._buckets[:-1]), "+Inf"]
        for key, counts, total in unhurried(found, HISTOGRAMS):
            upto = [sum(counts[: n + 1]) for n in range(len(counts))]
            family.add_metric(key, list(zip(bounds, map(float, upto), strict=True)), total)
        return family


def bounded(key: tuple[str, str], known: Mapping[tuple[str, str], Any]) -> tuple[str, str]:
    """The labels that a model and version are counted under: their own, as long as there is room for them.

    First come, first served: a series that has begun never shrinks, as a counter must not.
    """
    return key if key in known or len(known) < MOST_VERSIONS else (OTHER, OTHER)


class Metrics:
    """One registry per box."""

    def __init__(self, box: Box) -> None:
        self._scores = Histogram(SCORE_BUCKETS)
        self._latency = Histogram(LATENCY_BUCKETS)
        self._values = metrics_values.Values(box)
        self._box = _BoxCollector(box, self._scores, self._latency, self._values)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._checks: dict[str, _Checks] = {"drift": _Drift(box), "skew": _Skew(box)}
        self._pages: dict[tuple[object, ...], bytes] = {}
        self.rendered: Tally[str] = Tally()
        """How often each source's checks were rendered, since they had not been."""
        box.predictions.on_prediction(self._observe)

    def _observe(self, batch: Batch) -> None:
        if batch.role != "shadow":
            version = str(batch.version)
            scores = [score for score in batch.scores if score is not None]
            self._scores.observe(batch.model, version, scores)
            self._values.observe(batch.model, version, scores)
            self._latency.observe(batch.model, version, [one / 1000 for one in batch.latencies])

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who asks for it, else Prometheus's text."""
        encode, content_type = choose_encoder(accept)
        pages, up = [], {}
        for source in self._checks:
            try:
                pages.append(self._checked(source, encode, content_type))
                up[source] = True
            except Unavailable:
                up[source] = False
        rest = _Page([*self._box.collect(up), *self._process.collect()])
        return _joined([*pages, encode(rest)]), content_type

    def _checked(self, source: str, encode: Callable[[Any], bytes], content_type: str) -> bytes:
        """What the last checks found, rendered once: it stays the same until one of the models is checked again."""
        checks = self._checks[source]
        key = (source, content_type, checks.stamp())
        page = self._pages.get(key)
        if page is None:
            page = checks.render(encode)
            self.rendered[source] += 1
            if len(self._pages) >= PAGES:
                self._pages.clear()
            self._pages[key] = page
        return page


class _Page:
    """Families as the encoders take them, which go through their samples with pauses."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families
        for family in families:
            family.samples = Unhurried(family.samples)

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self._families


def _joined(pages: Sequence[bytes]) -> bytes:
    """Several pages as one: only the last may end with OpenMetrics's end."""
    return b"".join([*(page.removesuffix(EOF) for page in pages[:-1]), pages[-1]])


class _Checks:
    """What the last check of each model in Production that whoever asks may see found, as gauges by feature.

    Rendered model by model: the samples of all at once would have the garbage collector look at tens of thousands of objects, for
    longer than the event loop may wait.
    """

    families: tuple[str, ...]

    def __init__(self, box: Box) -> None:
        self._box = box

    def last_checks(self, models: Sequence[str]) -> Mapping[str, str | None]:
        """The id of the last check of each of these."""
        raise NotImplementedError

    def found(self, model: str) -> list[list[_Ranked]]:
        """By family, the samples of a model."""
        raise NotImplementedError

    def stamp(self) -> tuple[object, ...]:
        """The same as long as `render` gives the same; raises Unavailable."""
        serving = [version.model for version in self._box.registry.in_stage("Production")]
        return tuple(self.last_checks(serving).items())

    def render(self, encode: Callable[[Any], bytes]) -> bytes:
        """The families, of many features those that are worst; raises Unavailable."""
        kept = [_Worst() for _ in self.families]
        for version in unhurried(self._box.registry.in_stage("Production"), 1):
            for worst, name, samples in zip(kept, self.families, self.found(version.model), strict=True):
                worst.ranks += [rank for rank, _, _ in samples]
                worst.lines += _lines(encode, _gauge(name, [(labels, value) for _, labels, value in samples]))
        heads = [encode(_Page([_gauge(name, [])])).removesuffix(EOF) for name in self.families]
        return b"".join(
            part for head, worst in zip(heads, kept, strict=True) for part in (head, *worst.of(MOST_FEATURES))
        )


class _Worst:
    """Lines and how bad each is, side by side: thousands of pairs would be the garbage collector's to look at."""

    def __init__(self) -> None:
        self.ranks: list[float] = []
        self.lines: list[bytes] = []

    def of(self, most: int) -> list[bytes]:
        """So many at most, in their order where that is all of them, else the worst first."""
        if len(self.lines) <= most:
            return self.lines
        return [self.lines[place] for place in heapq.nlargest(most, range(len(self.lines)), key=self.ranks.__getitem__)]


class _Drift(_Checks):
    families = ("ml_feature_drift_ks_statistic", "ml_feature_missing_ratio")

    def last_checks(self, models: Sequence[str]) -> Mapping[str, str | None]:
        return self._box.monitor.last_checks(models)

    def found(self, model: str) -> list[list[_Ranked]]:
        ranked = [(max(one.statistic or 0, _missing(one)), one) for one in self._box.monitor.gauges(model)]
        return [
            [(rank, _of(one), one.statistic) for rank, one in ranked if one.statistic is not None],
            [(rank, _of(one), _missing(one)) for rank, one in ranked if one.current_rows],
        ]


class _Skew(_Checks):
    families = ("ml_feature_skew_equal_ratio",)

    def last_checks(self, models: Sequence[str]) -> Mapping[str, str | None]:
        return self._box.skew.last_checks(models)

    def found(self, model: str) -> list[list[_Ranked]]:
        found = self._box.skew.latest(model)
        return [[(-one.share, (one.model, one.feature), one.share) for one in found if one.share is not None]]


def _lines(encode: Callable[[Any], bytes], family: Metric) -> list[bytes]:
    """The line of each of a family's samples, in their order."""
    return [line + b"\n" for line in encode(_Page([family])).split(b"\n") if line and not line.startswith(b"#")]


class _BoxCollector:
    """Reads the box at every scrape."""

    def __init__(self, box: Box, scores: Histogram, latency: Histogram, values: metrics_values.Values) -> None:
        self._box = box
        self._values = values
        self._scores = scores
        self._latency = latency

    def collect(self, others: Mapping[str, bool]) -> Iterator[Metric]:
        """Every family but those of checks; of a store that is down, none. `others` says which of those could be read."""
        yield _gauge("mlbox_build_info", [((__version__,), 1)])
        seen = self._seen()
        yield self._scores.family("ml_prediction_score", seen)
        yield self._values.family(VERSION, seen)
        yield self._latency.family("ml_prediction_latency_seconds", seen)
        yield _counter("mlbox_shadow_dropped_total", [((), self._box.models.shadows_dropped)])
        yield _counter("mlbox_prediction_log_dropped_total", [((), self._box.predictions.dropped)])
        left_out = self._box.predictions.left_out()
        told = [((model,), rows) for model, rows in left_out.items() if self._box.registry.visible(model)]
        yield _counter("mlbox_prediction_log_sampled_out_total", sorted(told))
        yield _gauge("mlbox_alert_rules_valid", [((), float(self._box.rules.error is None))])
        yield metrics_box.requests(self._box)
        yield metrics_box.stores(self._box)
        yield from self._predictions(seen)
        yield from self._inference()
        yield _counter("mlbox_fast_path_requests_total", [((way,), n) for way, n in self._box.fast_path.items()])
        sources: dict[str, Callable[[], list[Metric]]] = {
            "alerts": self._alerts,
            "jobs": self._jobs,
            "labels": lambda: metrics_box.labelled(self._box, self._box.registry.visible),
        }
        up: list[tuple[tuple[str, ...], float]] = [((source,), float(there)) for source, there in others.items()]
        for source, read in sources.items():
            try:
                yield from read()
                up.append(((source,), 1))
            except Unavailable:
                up.append(((source,), 0))
        yield _gauge("mlbox_metrics_source_up", up)

    def _seen(self) -> Seen:
        """Which series are shown: of models that may be seen, and not of versions that were retired."""
        try:
            retired = {(version.model, str(version.version)) for version in self._box.registry.in_stage("Archived")}
        except Unavailable:  # the registry is down; what is counted is known all the same
            retired = set()
        return lambda key: key not in retired and self._box.registry.visible(key[0])

    def _predictions(self, seen: Seen) -> Iterator[Metric]:
        shown: dict[tuple[str, str], None] = {}
        outcomes: Tally[tuple[str, ...]] = Tally()
        scored: Tally[tuple[str, ...]] = Tally()
        for (model, version, role), (rows, errors) in self._box.predictions.counters().items():
            labels = bounded((model, str(version)), shown)
            shown.setdefault(labels)
            if seen(labels):
                scored[labels] += rows
                outcomes[(*labels, role, "ok")] += rows
                outcomes[(*labels, role, "error")] += errors
        yield _counter("ml_predictions_total", sorted(scored.items()))
        yield _counter("ml_prediction_outcomes_total", sorted(outcomes.items()))

    def _inference(self) -> Iterator[Metric]:
        known: dict[tuple[str, str], None] = {}

        def shown(model: str, version: str) -> tuple[str, str]:
            labels = bounded((model, version), known)
            known.setdefault(labels)
            return labels

        yield from metrics_inference.families(self._box.models, self._box.registry.visible, shown)
        yield from metrics_inference.of_workers(self._box.workers.state(), self._box.registry.visible, shown)

    def _jobs(self) -> list[Metric]:
        jobs = [((state,), n) for state, n in sorted(self._box.scheduler.counts().items())]
        return [_gauge("mlbox_jobs", jobs), *metrics_box.machine(self._box)]

    def _alerts(self) -> list[Metric]:
        firing = Tally(alert.name for alert in self._box.monitor.alerts(state="firing", limit=1000))
        return [_gauge("mlbox_alerts_firing", [((name,), n) for name, n in sorted(firing.items())])]


def _of(result: DriftGauge) -> tuple[str, ...]:
    return result.model, result.feature


def _missing(result: DriftGauge) -> float:
    return result.current_missing / result.current_rows if result.current_rows else 0.0


def _gauge(name: str, samples: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, FAMILIES[name].help, labels=FAMILIES[name].labels)
    for labels, value in unhurried(samples):
        family.add_metric(labels, value)
    return family


def _counter(name: str, samples: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily(name.removesuffix("_total"), FAMILIES[name].help, labels=FAMILIES[name].labels)
    for labels, value in unhurried(samples):
        family.add_metric(labels, value)
    return family


@get("/metrics", include_in_schema=False, action="monitor.read")
async def metrics(request: Request[Any, Any, Any], box: Box) -> Response[bytes]:
    """Prometheus's page."""
    page, content_type = await box.call(request.app.state.metrics.render, request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


handlers: list[Any] = [metrics]
