"""How often one token may ask one model: a bucket that fills at the model's rate, up to its burst."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from mlbox.errors import TooMany

MOST_BUCKETS = 10_000
"""Past these the longest unused is forgotten, which can only be to its owner's good."""


class Rates:
    """The buckets of all models and tokens."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, model: str, token: str, *, rate: float, burst: int) -> None:
        """Count a request; raises TooMany, which says when to come back, where the bucket is empty."""
        key = model, token
        with self._lock:
            now = self._seconds()
            left, at = self._buckets.get(key, (float(burst), now))
            left = min(float(burst), left + (now - at) * rate)
            if left < 1:
                err = TooMany(
                    f"This token may ask {model!r} {rate:g} times a second.",
                    hint="Come back later, or have the model's owner raise its rate_limit.",
                )
                err.retry_seconds = max(1, math.ceil((1 - left) / rate))
                raise err
            self._buckets[key] = left - 1, now
            self._buckets.move_to_end(key)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
