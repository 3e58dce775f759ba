"""What `/metrics` says of the box itself: requests, queues, GPUs, stores; and what labels say of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlbox.records import Gpu
from mlbox.web.box import Box

QUEUES = 200
"""Queues with series of their own: those with the most jobs."""
FAMILIES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "mlbox_http_requests_total": (("status",), "Requests over HTTP by the first digit of their status, as 2xx."),
    "mlbox_queue_jobs": (("queue", "state"), "Jobs that wait and run, by queue."),
    "mlbox_gpu_utilization_ratio": (("gpu",), "How busy a GPU is, 0 to 1, by the driver's number."),
    "mlbox_gpu_memory_used_bytes": (("gpu",), "Memory of a GPU that is taken."),
    "nv_gpu_utilization": (("gpu_uuid",), "As mlbox_gpu_utilization_ratio, by Triton's name for dashboards."),
    "nv_gpu_memory_total_bytes": (("gpu_uuid",), "Memory of a GPU."),
    "nv_gpu_memory_used_bytes": (("gpu_uuid",), "Memory of a GPU that is taken."),
    "nv_gpu_power_usage": (("gpu_uuid",), "Watts that a GPU takes."),
    "mlbox_store_bytes": (("store",), "What a store takes on disk."),
    "ml_label_coverage_ratio": (
        ("model_name", "model_version"),
        "Share of the predictions of the version in Production that have a label by now.",
    ),
    "ml_live_metric": (
        ("model_name", "model_version", "metric"),
        "What labels say of the version in Production: auc, log_loss, brier, accuracy, mae, rmse or r2.",
    ),
}


def _family(name: str, samples: Iterator[tuple[tuple[str, ...], float]]) -> Metric:
    labels, words = FAMILIES[name]
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family: Metric = kind(name.removesuffix("_total"), words, labels=labels)
    for own, value in samples:
        family.add_metric(own, value)  # type: ignore[attr-defined]  # both kinds have it
    return family


def requests(box: Box) -> Metric:
    """Of all requests since the start."""
    return _family("mlbox_http_requests_total", (((status,), n) for status, n in sorted(box.http_requests.items())))


def machine(box: Box) -> list[Metric]:
    """Queues and GPUs."""
    queues = sorted(box.sharing.queues(), key=lambda queue: (-(queue.waiting + queue.running), queue.name))[:QUEUES]
    jobs = (
        ((queue.name, state), float(number))
        for queue in queues
        for state, number in (("waiting", queue.waiting), ("running", queue.running))
    )
    return [_family("mlbox_queue_jobs", jobs), *gpus(box.scheduler.gpus())]


def gpus(found: Sequence[Gpu]) -> list[Metric]:
    """What each GPU does, as far as its driver says."""
    busy = (((g.label,), g.utilization_percentage / 100) for g in found if g.utilization_percentage is not None)
    taken = (((g.label,), g.memory_used_gb * 2**30) for g in found if g.memory_used_gb is not None)
    return [
        _family("mlbox_gpu_utilization_ratio", busy),
        _family("mlbox_gpu_memory_used_bytes", taken),
        *_as_triton(found),
    ]


def _as_triton(found: Sequence[Gpu]) -> list[Metric]:
    real = [gpu for gpu in found if not gpu.virtual]
    values: Mapping[str, Callable[[Gpu], float | None]] = {
        "nv_gpu_utilization": lambda gpu: _times(gpu.utilization_percentage, 0.01),
        "nv_gpu_memory_total_bytes": lambda gpu: _times(gpu.memory_gb or None, 2**30),
        "nv_gpu_memory_used_bytes": lambda gpu: _times(gpu.memory_used_gb, 2**30),
        "nv_gpu_power_usage": lambda gpu: gpu.power_watts,
    }
    return [
        _family(name, (((gpu.uuid,), value) for gpu in real if (value := of(gpu)) is not None))
        for name, of in values.items()
    ]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def stores(box: Box) -> Metric:
    """The files of each SQLite store, with what is not yet written back."""
    paths = sorted(box.store_paths().items())
    return _family("mlbox_store_bytes", (((name,), float(_size(path))) for name, path in paths))


def _size(path: Path) -> int:
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def labelled(box: Box, visible: Callable[[str], bool]) -> list[Metric]:
    """What was measured last of each model in Production, for those who may know of it and of its labels."""
    serving = {version.model: version.version for version in box.registry.in_stage("Production")}
    found = [
        one
        for model, one in sorted(box.health.live.items())
        if serving.get(model) == one.version and visible(model) and box.performance.sees(one.label_set)
    ]
    coverage = (((one.model, str(one.version)), one.coverage) for one in found)
    live = (
        ((one.model, str(one.version), metric), value)
        for one in found
        for metric, value in one.metrics.items()
        if value is not None
    )
    return [_family("ml_label_coverage_ratio", coverage), _family("ml_live_metric", live)]
