"""Two-sample Kolmogorov-Smirnov, exactly: the statistic is a fraction of integers, and so are its thresholds.

D is the largest distance between the two empirical distribution functions. With n and m values it is |i·m - j·n| / (n·m) at some
value, where i and j count the values not above it; comparing integers, no rounding decides whether an alert fires.

Sources: N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", Ann. Math. Stat. 19 (1948), for the
p-value of large samples; J. L. Hodges, "The significance probability of the Smirnov two-sample test", Ark. Mat. 3 (1958), for the
exact one of small samples, by counting lattice paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from mlbox.records import Verdict
from mlbox.records.distances import DRIFT_BOUNDS

if TYPE_CHECKING:
    import numpy as np

INVESTIGATE, ALERT = (Fraction(str(bound)) for bound in DRIFT_BOUNDS)
MISSING_RISE = Fraction(1, 10)
"""A rise of the missing share is D of "is it missing?", so it is flagged where D would be investigated."""
MINIMUM = 100
"""Fewest values on either side."""
EXACT_PAIRS = 10_000
"""Largest n·m whose p-value is exact: counting the paths takes a few milliseconds there, and time grows with n·m."""
_TERMS = 100


@dataclass(frozen=True)
class Comparison:
    """Two samples of one feature, compared; a missing value (NaN) is counted apart."""

    reference_rows: int
    current_rows: int
    reference_missing: int
    current_missing: int
    distance: Fraction | None
    """D; None when a side has no values."""

    @property
    def values(self) -> tuple[int, int]:
        """How many values there are on either side, the missing ones left out."""
        return self.reference_rows - self.reference_missing, self.current_rows - self.current_missing

    @property
    def statistic(self) -> float | None:
        """D as a float."""
        return None if self.distance is None else float(self.distance)

    @property
    def p_value(self) -> float | None:
        """The probability of a D this large when nothing differs; where values are tied, the true one is at most this."""
        if self.distance is None:
            return None
        n, m = self.values
        if n * m <= EXACT_PAIRS:
            return exact_survival(n, m, self.distance)
        return survival(float(self.distance) * math.sqrt(n * m / (n + m)))

    @property
    def missing_rise(self) -> Fraction | None:
        """The share of missing values now, less that of the reference; None when a side has no rows."""
        if not self.reference_rows or not self.current_rows:
            return None
        now = Fraction(self.current_missing, self.current_rows)
        return now - Fraction(self.reference_missing, self.reference_rows)


def compare(reference: np.ndarray, current: np.ndarray) -> Comparison:
    """Compare two samples [N] and [M] of float64 in O((N + M) log (N + M)); infinities are values like others."""
    import numpy as np

    a, b = (np.sort(sample[~np.isnan(sample)]) for sample in (reference, current))
    n, m = len(a), len(b)
    distance = Fraction(max(_lead(a, b), _lead(b, a)), n * m) if n and m else None
    return Comparison(
        reference_rows=len(reference),
        current_rows=len(current),
        reference_missing=len(reference) - n,
        current_missing=len(current) - m,
        distance=distance,
    )


def _lead(a: np.ndarray, b: np.ndarray) -> int:
    """The most by which a's distribution function is above b's, times n·m.

    A step function leads most right at one of its own steps. Of equal values only the last has the true count; those before
    it count too few of their own, so they lead by less and change no maximum.
    """
    import numpy as np

    below = np.searchsorted(b, a, side="right")
    return int((np.arange(1, len(a) + 1) * len(b) - below * len(a)).max())


def verdict(comparison: Comparison, *, minimum: int = MINIMUM) -> Verdict:
    """What a comparison means; a distance that equals a threshold is not above it."""
    if comparison.distance is None or min(comparison.values) < minimum:
        return "not_enough_data"
    if comparison.distance > ALERT:
        return "alert"
    return "investigate" if comparison.distance > INVESTIGATE else "ok"


def missing_risen(comparison: Comparison, *, minimum: int = MINIMUM) -> bool:
    """Whether values are missing that were there in training: what D cannot see, because it knows the others only."""
    if comparison.missing_rise is None or min(comparison.reference_rows, comparison.current_rows) < minimum:
        return False
    return comparison.missing_rise > MISSING_RISE


def survival(x: float) -> float:
    """1 - K(x) of the Kolmogorov distribution: 2 Σ (-1)^(k-1) exp(-2 k² x²)."""
    if x < 0.2:  # the series converges slowly there, and the value is 1 to 12 digits
        return 1.0
    total = math.fsum((1 if k % 2 else -1) * math.exp(-2 * k * k * x * x) for k in range(1, _TERMS))
    return min(1.0, max(0.0, 2 * total))


def exact_survival(n: int, m: int, distance: Fraction) -> float:
    """The share of all orders of n and m values whose D is at least `distance`, in O(n·m).

    An order is a path from (0, 0) to (n, m); its D stays below where |i·m - j·n| does at each of its points.
    """
    bound = distance * n * m
    paths = [0] * (m + 1)
    for i in range(n + 1):
        reached = 1 if i == 0 else 0  # the one way into the corner
        for j in range(m + 1):
            reached = paths[j] = paths[j] + reached if abs(i * m - j * n) < bound else 0
    return float(1 - Fraction(paths[m], math.comb(n + m, n)))
