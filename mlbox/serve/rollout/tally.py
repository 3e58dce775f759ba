"""Counts that grow: of one group's runs, and of rows that a shadow answered beside the champion."""

from __future__ import annotations

import array
import bisect
import math
from collections import Counter, deque
from collections.abc import Sequence

from mlbox.records import DIFFERENCES, Paired, Side
from mlbox.serve.rollout.sequential import EPOCHS, bucket_of
from mlbox.serve.rollout.shadow import time_bucket
from mlbox.serve.rollout.verdict import RECENT

WIDEST = 1e30
"""Further apart is as far: the sum of such differences stays a number."""
THRESHOLD = 0.5
"""Where a score turns a decision, for the agreement of a shadow and the champion."""


class Tally:
    """One group's counts."""

    def __init__(self, side: Side | None = None, *, most_scores: int = EPOCHS[-1]) -> None:
        side = side or Side()
        self.runs, self.errors = side.runs, side.errors
        self.rows, self.invalid = side.rows, side.invalid
        self.latency = Counter(side.latency)
        self.scores = array.array("d", side.scores)
        self.last = deque(side.last, maxlen=RECENT)
        self._most_scores = most_scores

    def answered(self, latencies: Sequence[float], scores: Sequence[float | None]) -> None:
        """Requests that were given scores, with the time of each request."""
        for latency_ms in latencies:
            self.runs += 1
            self.last.append(".")
            self.latency[bucket_of(latency_ms)] += 1
        for score in scores:
            self.rows += 1
            if score is None or not math.isfinite(score):
                self.invalid += 1
            elif len(self.scores) < self._most_scores:
                self.scores.append(score)

    def failed(self) -> None:
        """One run that gave none."""
        self.runs += 1
        self.errors += 1
        self.last.append("x")

    def side(self) -> Side:
        """As it is now."""
        return Side(
            runs=self.runs,
            errors=self.errors,
            rows=self.rows,
            invalid=self.invalid,
            latency=dict(self.latency),
            scores=self.scores.tobytes(),
            last="".join(self.last),
        )


class Pairs:
    """Rows that the champion answered and a shadow ran as well."""

    def __init__(self, seen: Paired | None = None) -> None:
        seen = seen or Paired()
        self._rows, self._agreed, self._total, self._leaning = seen.rows, seen.agreed, seen.total, seen.leaning
        self._scoreless = seen.scoreless
        self._compared, self._most, self._bins = seen.compared, seen.most, list(seen.bins)
        self._slower, self._faster = Counter(seen.slower), Counter(seen.faster)
        self._champion_ms, self._shadow_ms = Counter(seen.champion_ms), Counter(seen.shadow_ms)
        self._failed, self._invalid = seen.failed, seen.invalid

    def add(self, answered: float | None, beside: float | None) -> None:
        """One row, as the champion and as the shadow answered it."""
        self._rows += 1
        first, second = _finite(answered), _finite(beside)
        if first is None or second is None:
            self._scoreless += first is second
            self._invalid += first is not None
            return
        apart = min(abs(first - second), WIDEST)
        self._agreed += (first >= THRESHOLD) == (second >= THRESHOLD)
        self._compared += 1
        self._total += apart
        self._leaning += math.copysign(apart, second - first)
        self._most = max(self._most, apart)
        self._bins[bisect.bisect_left(DIFFERENCES, apart)] += 1

    def took(self, champion_ms: float, shadow_ms: float) -> None:
        """One request, as long as it took either."""
        self._champion_ms[time_bucket(champion_ms)] += 1
        self._shadow_ms[time_bucket(shadow_ms)] += 1
        later = shadow_ms - champion_ms
        (self._slower if later >= 0 else self._faster)[time_bucket(abs(later))] += 1

    def failed(self, rows: int) -> None:
        """Rows of a request on which the shadow failed."""
        self._failed += rows

    def seen(self) -> Paired:
        """As it is now."""
        return Paired(
            rows=self._rows,
            agreed=self._agreed,
            scoreless=self._scoreless,
            total=self._total,
            compared=self._compared,
            most=self._most,
            bins=tuple(self._bins),
            leaning=self._leaning,
            invalid=self._invalid,
            failed=self._failed,
            slower=dict(self._slower),
            faster=dict(self._faster),
            champion_ms=dict(self._champion_ms),
            shadow_ms=dict(self._shadow_ms),
        )


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
