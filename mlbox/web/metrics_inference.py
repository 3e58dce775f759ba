"""What inference did, as Prometheus reads it: requests, failures by reason, batches, time in the queue and in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.slots import State
from mlbox.serve.inference.statistics import Totals
from mlbox.web import metrics_triton
from mlbox.web.unhurried import HISTOGRAMS, unhurried

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 10_000)
LABELS = ("model_name", "model_version")
COUNTERS: Mapping[str, tuple[str, Callable[[Totals], float]]] = {
    "mlbox_inference_requests_total": (
        "Requests that a version answered; one of several versions counts for each.",
        lambda totals: totals.success.count,
    ),
    "mlbox_inference_rows_total": ("Rows in them.", lambda totals: totals.rows),
    "mlbox_inference_queue_seconds_total": (
        "Seconds that requests waited for their run, together.",
        lambda totals: totals.queue.ns / 1e9,
    ),
    "mlbox_inference_compute_seconds_total": (
        "Seconds that runs of the model took, together.",
        lambda totals: sum(found.ns for found in totals.batches.values()) / 1e9,
    ),
    "mlbox_inference_cache_hits_total": (
        "Requests answered from the cache, without a run.",
        lambda totals: totals.cache_hit.count,
    ),
}
FAILURES = "mlbox_inference_failures_total"
BATCH = "mlbox_inference_batch_rows"
PENDING = "mlbox_inference_pending"
LOADED = "mlbox_models_loaded_bytes"
WORKERS = "mlbox_workers"
RESTARTS = "mlbox_worker_restarts_total"
CRASHES = "mlbox_worker_crashes_total"
HELP = {
    FAILURES: "Requests that were not answered: model (it failed), timeout, queue_timeout, queue_full, rate_limit, cancelled (its"
    " client left), crash.",
    BATCH: "Rows by run: of one request, or of several that were joined.",
    PENDING: "Requests that wait now.",
    LOADED: "Memory of the versions that are loaded, as measured before they were.",
    WORKERS: "Processes that run models (setting workers), by state: idle, busy, starting.",
    RESTARTS: "Processes that run models which were started in the place of one that ended.",
    CRASHES: "Processes that ended while they ran a version.",
}


def families(
    models: ModelServer, visible: Callable[[str], bool], shown: Callable[[str, str], tuple[str, str]]
) -> Iterator[Metric]:
    """Every family, of the models that may be seen, under the labels that there is room for."""
    found: dict[tuple[str, str], Totals] = {}
    waiting: dict[tuple[str, str], int] = {}
    counts, known = models.pending(), models.statistics.all()
    waited_for = [name for name, count in counts.items() if count]  # which may have answered nothing yet
    for model, version in dict.fromkeys([*known, *waited_for]):
        if visible(model):
            labels = shown(model, str(version))
            found.setdefault(labels, Totals()).merge(known.get((model, version), Totals()))
            waiting[labels] = waiting.get(labels, 0) + counts.get((model, version), 0)
    for name, (words, value) in COUNTERS.items():
        family = CounterMetricFamily(name.removesuffix("_total"), words, labels=LABELS)
        for labels, totals in unhurried(found.items()):
            family.add_metric(labels, value(totals))
        yield family
    yield _failures(found)
    yield _batches(found)
    pending = GaugeMetricFamily(PENDING, HELP[PENDING], labels=LABELS)
    for labels, count in waiting.items():
        pending.add_metric(labels, count)
    yield pending
    yield GaugeMetricFamily(LOADED, HELP[LOADED], value=models.held_bytes())
    yield from metrics_triton.families(found, waiting)


def _failures(found: Mapping[tuple[str, str], Totals]) -> Metric:
    family = CounterMetricFamily(FAILURES.removesuffix("_total"), HELP[FAILURES], labels=(*LABELS, "reason"))
    for labels, totals in found.items():
        for reason, count in totals.reasons.items():
            family.add_metric((*labels, reason), count)
    return family


def _batches(found: Mapping[tuple[str, str], Totals]) -> Metric:
    family = HistogramMetricFamily(BATCH, HELP[BATCH], labels=LABELS)
    for labels, totals in unhurried(found.items(), HISTOGRAMS):
        upto = [
            (str(float(bound)), float(sum(took.count for rows, took in totals.batches.items() if rows <= bound)))
            for bound in BATCH_BUCKETS
        ]
        family.add_metric(labels, [*upto, ("+Inf", float(totals.executions))], totals.rows)
    return family


def of_workers(
    state: State, visible: Callable[[str], bool], shown: Callable[[str, str], tuple[str, str]]
) -> Iterator[Metric]:
    """What the processes do that run models."""
    family = GaugeMetricFamily(WORKERS, HELP[WORKERS], labels=("state",))
    for name, count in (("idle", state.running - state.busy), ("busy", state.busy), ("starting", state.starting)):
        family.add_metric((name,), count)
    yield family
    yield CounterMetricFamily(RESTARTS.removesuffix("_total"), HELP[RESTARTS], value=state.restarts)
    crashes: dict[tuple[str, str], int] = {}
    for (model, version), count in state.crashes.items():
        if visible(model):
            labels = shown(model, str(version))
            crashes[labels] = crashes.get(labels, 0) + count
    died = CounterMetricFamily(CRASHES.removesuffix("_total"), HELP[CRASHES], labels=LABELS)
    for labels, count in crashes.items():
        died.add_metric(labels, count)
    yield died
