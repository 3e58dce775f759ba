"""The same figures under the names that dashboards made for Triton ask for.

Triton's counters have no `_total`, which Prometheus wants of a counter: so they are of no type here, and `rate` takes them too.

https://github.com/triton-inference-server/server, docs/user_guide/metrics.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import Metric

from mlbox.serve.inference.statistics import Duration, Totals
from mlbox.web.unhurried import unhurried

Labels = tuple[str, str]
LABELS = ("model", "version")
FAILURE = "nv_inference_request_failure"
PENDING = "nv_inference_pending_request_count"
REASONS = {
    **dict.fromkeys(("queue_full", "queue_timeout", "rate_limit"), "REJECTED"),
    **dict.fromkeys(("model", "crash"), "BACKEND"),
    "cancelled": "CANCELED",
}
"""Triton's reason for each of ours; any other is OTHER."""


def _us(of: Callable[[Totals], Duration]) -> Callable[[Totals], float]:
    return lambda totals: of(totals).ns / 1000


VALUES: Mapping[str, tuple[str, Callable[[Totals], float]]] = {
    "nv_inference_request_success": ("Requests that were answered.", lambda totals: totals.success.count),
    "nv_inference_count": ("Rows in them.", lambda totals: totals.rows),
    "nv_inference_exec_count": ("Runs of the model.", lambda totals: totals.executions),
    "nv_inference_request_duration_us": ("Microseconds of requests, together.", _us(lambda totals: totals.success)),
    "nv_inference_queue_duration_us": ("Microseconds that they waited, together.", _us(lambda totals: totals.queue)),
    **{
        f"nv_inference_compute_{part}_duration_us": (
            f"0: what it takes to {what} is not timed apart.",
            lambda totals: 0.0,
        )
        for part, what in (("input", "read tensors"), ("output", "write them"))
    },
    "nv_inference_compute_infer_duration_us": (
        "Microseconds that the model took, together.",
        _us(lambda totals: totals.infer),
    ),
    "nv_cache_num_hits_per_model": ("Requests answered from the cache.", lambda totals: totals.cache_hit.count),
    "nv_cache_num_misses_per_model": ("Requests that the cache had not.", lambda totals: totals.cache_miss.count),
    "nv_cache_hit_duration_per_model": ("Microseconds of hits, together.", _us(lambda totals: totals.cache_hit)),
    "nv_cache_miss_duration_per_model": ("Microseconds of misses, together.", _us(lambda totals: totals.cache_miss)),
}
HELP = {name: words for name, (words, _) in VALUES.items()} | {
    FAILURE: "Requests that were not answered: REJECTED, CANCELED, BACKEND (the model) or OTHER.",
    PENDING: "Requests that wait now.",
}
"""Every family; of `FAILURE` with the label `reason` beside the others."""


def families(found: Mapping[Labels, Totals], waiting: Mapping[Labels, int]) -> Iterator[Metric]:
    """Every family, of these models and versions."""
    for name, (words, value) in VALUES.items():
        yield _family(name, words, {labels: value(totals) for labels, totals in found.items()})
    yield _family(PENDING, HELP[PENDING], waiting)
    failures = Metric(FAILURE, HELP[FAILURE], "unknown")
    for labels, totals in found.items():
        for reason, count in _failures(totals).items():
            failures.add_sample(FAILURE, {**dict(zip(LABELS, labels, strict=True)), "reason": reason}, count)
    yield failures


def _failures(totals: Totals) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason, count in totals.reasons.items():
        theirs = REASONS.get(reason, "OTHER")
        counts[theirs] = counts.get(theirs, 0) + count
    return counts


def _family(name: str, words: str, values: Mapping[Labels, float]) -> Metric:
    family = Metric(name, words, "unknown")
    for labels, value in unhurried(values.items()):
        family.add_sample(name, dict(zip(LABELS, labels, strict=True)), value)
    return family
