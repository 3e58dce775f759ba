"""How models are served."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mlbox.records.base import Record


class ServingConfig(Record, frozen=True, kw_only=True):
    """How the requests of all versions of a model are joined, queued, limited and remembered. The defaults are the house's."""

    revision: int = 0
    """Which change of the model's configuration this is; 0 stands for the defaults."""
    max_batch: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Most rows of several requests that one run answers; 1 joins none. A larger request runs alone."""
    max_delay_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Microseconds that a request waits for others to join it; 0 joins what waits anyway, and never delays."""
    queue_limit: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Requests that may wait; what comes past them is refused with 429."""
    priority_levels: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Priorities that a request may name, from 1, the highest."""
    default_priority: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Of requests that name none, or one that there is not."""
    timeout_ms: Annotated[float, Meta(gt=0, le=3_600_000)] = 60_000
    """Milliseconds from a request's arrival to its answer, after which it is given up. A request may ask for less."""
    cache_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Bytes of answers to remember, by version and inputs; 0 remembers none."""
    rate_limit: Annotated[float, Meta(ge=0, le=1_000_000)] = 0
    """Requests a second that one token may send; 0 sets no limit."""
    rate_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    """Requests that it may send at once after a pause."""


class BenchFigure(Record, frozen=True, kw_only=True):
    """What requests of so many rows cost, with so many of them at a time."""

    rows: int
    """Of each request."""
    concurrency: int
    """Requests at a time."""
    p50_ms: float
    p95_ms: float
    p99_ms: float | None = None
    """None in figures from before it was taken."""
    rows_per_second: float
    requests: int
    """That were timed."""


class Bench(Record, frozen=True, kw_only=True):
    """How quick a version was on this box, through its queue and its batches, without the network."""

    model: str
    version: int
    at: datetime
    by: str
    provider: str
    """Where it ran, as onnxruntime calls it."""
    cpus: int
    """Of the box, which it shared with whatever else ran."""
    config: ServingConfig
    figures: tuple[BenchFigure, ...]
