"""`ml_prediction_value`: scores of models whose output is not a share of 0 to 1, in buckets of their own.

The buckets are the tenths of the scores that a version gave to its training rows, so that a histogram shows where served scores
have moved. They are read beside the request path, once for each version; what is scored meanwhile waits for them.
"""

from __future__ import annotations

import contextlib
import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from prometheus_client.core import HistogramMetricFamily, Metric

from mlbox.errors import MlboxError
from mlbox.serve.monitoring.reference import SCORE, load_reference
from mlbox.web.box import Box
from mlbox.web.unhurried import HISTOGRAMS, unhurried

NAME = "ml_prediction_value"
HELP = (
    "Scores that were given to users, of versions whose training scores leave 0 to 1; buckets are tenths of those."
    " Others have no series."
)
TENTHS = 10
MOST_VERSIONS = 500
"""Versions since the start that are looked at."""
MOST_WAITING = 100_000
"""Scores of one version that wait for its buckets."""
Key = tuple[str, str]
Edges = tuple[float, ...]


class Values:
    """Counts by bucket for each model and version that has buckets of its own."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._lock = threading.Lock()
        self._edges: dict[Key, Edges | None] = {}
        """None for versions that have no such series."""
        self._waiting: dict[Key, list[float]] = {}
        self._counts: dict[Key, list[int]] = {}
        self._sums: dict[Key, float] = {}

    def observe(self, model: str, version: str, values: Sequence[float]) -> None:
        """Count values; what is no finite number is left out."""
        key = (model, version)
        if self._edges.get(key, ()) is None:  # most versions: no lock, on the path of a request
            return
        with self._lock:
            if key in self._edges:
                self._count(key, values)
                return
            waiting = self._waiting.get(key)
            if waiting is not None:
                if len(waiting) < MOST_WAITING:
                    waiting.extend(values)
                return
            if len(self._edges) + len(self._waiting) >= MOST_VERSIONS:
                return
            self._waiting[key] = list(values)
        with contextlib.suppress(RuntimeError):  # the box closes
            self._box.pool.submit(self._learn, key)

    def _learn(self, key: Key) -> None:
        edges = _edges_of(self._box, key)
        with self._lock:
            self._edges[key] = edges
            self._count(key, self._waiting.pop(key, []))

    def _count(self, key: Key, values: Sequence[float]) -> None:
        edges = self._edges[key]
        if edges is None:
            return
        counts = self._counts.setdefault(key, [0] * (len(edges) + 1))
        for value in values:
            if math.isfinite(value):
                counts[bisect_left(edges, value)] += 1
                self._sums[key] = self._sums.get(key, 0.0) + value

    def family(self, labels: Sequence[str], seen: Callable[[Key], bool]) -> Metric:
        """What was counted of the versions that are to be seen, cumulated as Prometheus wants it."""
        family = HistogramMetricFamily(NAME, HELP, labels=labels)
        with self._lock:
            found: Mapping[Key, tuple[list[int], float]] = {
                key: (list(counts), self._sums.get(key, 0.0)) for key, counts in self._counts.items() if seen(key)
            }
        for key, (counts, total) in unhurried(found.items(), HISTOGRAMS):
            bounds = [*map(repr, self._edges[key] or ()), "+Inf"]
            upto = [float(sum(counts[: place + 1])) for place in range(len(counts))]
            family.add_metric(key, list(zip(bounds, upto, strict=True)), total)
        return family


def _edges_of(box: Box, key: Key) -> Edges | None:
    """Tenths of a version's training scores, where those are not all from 0 to 1."""
    import numpy as np

    try:
        reference = load_reference(box.artifacts, box.registry.version(key[0], int(key[1])))
    except (MlboxError, OSError, EOFError, ValueError):
        return None
    scores = reference.get(SCORE, np.empty(0))
    scores = scores[np.isfinite(scores)]
    if not len(scores) or (scores.min() >= 0 and scores.max() <= 1):
        return None
    return tuple(np.unique(np.quantile(scores, np.arange(1, TENTHS) / TENTHS)).tolist())
