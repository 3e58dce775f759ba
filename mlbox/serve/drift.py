"""Two-sample Kolmogorov-Smirnov, exactly: the statistic is a fraction of integers, and so are its thresholds.

D is the largest distance between the two empirical distribution functions. With n and m values it is |i·m - j·n| / (n·m) at some
value, where i and j count the values not above it; comparing integers, no rounding decides whether an alert fires.

Source: N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", Ann. Math. Stat. 19 (1948); the
p-value is the limit distribution for large samples given there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from mlbox.records import Verdict

if TYPE_CHECKING:
    import numpy as np

INVESTIGATE = Fraction(1, 10)
ALERT = Fraction(1, 5)
MINIMUM = 100
"""Fewest values on either side."""
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
    def statistic(self) -> float | None:
        """D as a float."""
        return None if self.distance is None else float(self.distance)

    @property
    def p_value(self) -> float | None:
        """The probability of a D this large when nothing differs, for large samples."""
        if self.distance is None:
            return None
        n = self.reference_rows - self.reference_missing
        m = self.current_rows - self.current_missing
        return survival(float(self.distance) * math.sqrt(n * m / (n + m)))


def compare(reference: np.ndarray, current: np.ndarray) -> Comparison:
    """Compare two samples [N] and [M] of float64 in O((N + M) log (N + M)); infinities are values like others."""
    import numpy as np

    a, b = np.sort(reference[~np.isnan(reference)]), np.sort(current[~np.isnan(current)])
    n, m = len(a), len(b)
    distance = None
    if n and m:
        values = np.concatenate([a, b])
        i = np.searchsorted(a, values, side="right").astype(np.int64)
        j = np.searchsorted(b, values, side="right").astype(np.int64)
        distance = Fraction(int(np.abs(i * m - j * n).max()), n * m)
    return Comparison(
        reference_rows=len(reference),
        current_rows=len(current),
        reference_missing=len(reference) - n,
        current_missing=len(current) - m,
        distance=distance,
    )


def verdict(comparison: Comparison, *, minimum: int = MINIMUM) -> Verdict:
    """What a comparison means; a distance that equals a threshold is not above it."""
    n = comparison.reference_rows - comparison.reference_missing
    m = comparison.current_rows - comparison.current_missing
    if comparison.distance is None or min(n, m) < minimum:
        return "not_enough_data"
    if comparison.distance > ALERT:
        return "alert"
    return "investigate" if comparison.distance > INVESTIGATE else "ok"


def survival(x: float) -> float:
    """1 - K(x) of the Kolmogorov distribution: 2 Σ (-1)^(k-1) exp(-2 k² x²)."""
    if x < 0.2:  # the series converges slowly there, and the value is 1 to 12 digits
        return 1.0
    total = math.fsum((1 if k % 2 else -1) * math.exp(-2 * k * k * x * x) for k in range(1, _TERMS))
    return min(1.0, max(0.0, 2 * total))
