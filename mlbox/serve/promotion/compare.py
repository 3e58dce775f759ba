"""Two models on the same rows: how much better one is, how sure that is, and how many rows would decide.

Everything is paired: what differs between rows is in both models' figures and falls out of the difference.

Sources: E. DeLong et al., Biometrics 44 (1988), for the variance of two correlated AUCs, in the O(n log n) form of X. Sun and
W. Xu, IEEE Signal Processing Letters 21 (2014); Q. McNemar, Psychometrika 12 (1947), in its exact form; B. Efron, "Better
bootstrap confidence intervals" (1987), of which the percentile interval is used; B. Phipson and G. Smyth (2010), for the one that
is added to the counts of a permutation test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlbox.errors import InvalidInput
from mlbox.records import ComparisonOutcome

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_ROWS = 30
"""Of fewer rows, or entities, nothing is said."""
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "mae", "mse", "rmse"})
CLASSES = frozenset({"auc", "accuracy", "precision", "recall", "f1", "log_loss", "brier"})
"""Metrics whose labels are 0 and 1."""
THRESHOLD = 0.5
_TINY = 2.0**-52
"""As scikit-learn has it: a probability of 0 that comes true costs 36, and not everything."""


@dataclass(frozen=True)
class Difference:
    """How much a metric of the second model is above that of the first; NaN where it could not be computed."""

    first: float
    second: float
    low: float
    high: float
    p_value: float | None
    method: str

    @property
    def value(self) -> float:
        """Second less first."""
        return self.second - self.first


Weighted = Callable[["np.ndarray"], float]
"""A metric as a function of how often each row counts."""


def weighted(metric: str, labels: np.ndarray, scores: np.ndarray) -> Weighted:
    """A metric of labels and scores [N] as a function of the rows' weights [N]: what does not depend on these is done once."""
    import numpy as np

    if metric == "auc":
        return _weighted_auc(labels, scores)
    if metric in ("precision", "recall", "f1"):
        return _weighted_counts(metric, labels == 1, scores >= THRESHOLD)
    losses = _losses(metric, labels, scores)

    def mean(weights: np.ndarray) -> float:
        total = float(weights.sum())
        value = _inner(weights, losses) / total if total else math.nan
        return math.sqrt(value) if metric == "rmse" else value

    return mean if not np.isnan(losses).any() else lambda weights: math.nan


def _inner(first: np.ndarray, second: np.ndarray) -> float:
    """The inner product, without BLAS: its threads cost more than they bring at this size, and others' cores with it."""
    import numpy as np

    return float(np.einsum("i,i->", first, second))


def _losses(metric: str, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What each row adds to a metric that is a mean."""
    import numpy as np

    found: np.ndarray
    if metric == "accuracy":
        found = ((scores >= THRESHOLD) == (labels == 1)).astype(float)
    elif metric == "log_loss":
        found = -np.log(np.clip(np.where(labels == 1, scores, 1 - scores), _TINY, 1 - _TINY))
    elif metric == "mae":
        found = np.abs(scores - labels)
    else:
        found = (scores - labels) ** 2
    return found


def _weighted_auc(labels: np.ndarray, scores: np.ndarray) -> Weighted:
    """The Mann-Whitney form: equal scores count one half."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    ones_at, zeros_at = order[labels[order] == 1], order[labels[order] != 1]
    negatives = scores[zeros_at]
    low, high = (np.searchsorted(negatives, scores[ones_at], side) for side in ("left", "right"))

    def auc(weights: np.ndarray) -> float:
        ones, below = weights[ones_at], np.zeros(len(zeros_at) + 1)
        np.cumsum(weights[zeros_at], out=below[1:])
        pairs = float(ones.sum()) * float(below[-1])
        return _inner(ones, below[low] + below[high]) / (2 * pairs) if pairs else math.nan

    return auc


def _weighted_counts(metric: str, labels: np.ndarray, guesses: np.ndarray) -> Weighted:

    hit, guessed, there = (part.astype(float) for part in (labels & guesses, guesses, labels))

    def counted(weights: np.ndarray) -> float:
        hits = _inner(weights, hit)
        of = {
            "precision": _inner(weights, guessed),
            "recall": _inner(weights, there),
            "f1": _inner(weights, guessed + there) / 2,
        }[metric]
        return hits / of if of else math.nan

    return counted


# -- the tests ------------------------------------------------------------------------------------------------------------


def bootstrap(
    metric: str,
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The paired bootstrap of any metric: both models on the same resampled rows, or entities where groups [N] name them."""
    import numpy as np

    rng = np.random.default_rng(seed)
    of_first, of_second = weighted(metric, labels, first), weighted(metric, labels, second)
    place = np.unique(groups, return_inverse=True)[1] if groups is not None else None
    n = int(place.max()) + 1 if place is not None else len(labels)
    found = np.empty(resamples)
    for at in range(resamples):
        drawn = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)
        weights = drawn if place is None else drawn[place]
        found[at] = of_second(weights) - of_first(weights)
    found = found[~np.isnan(found)]  # a resample without positives has no AUC
    ones = np.ones(len(labels))
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [outside, 1 - outside]) if len(found) > resamples / 2 else (math.nan, math.nan)
    words = "paired bootstrap" + (f" of {n} entities" if place is not None else "")
    return Difference(of_first(ones), of_second(ones), float(low), float(high), None, words)


def delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """Two AUCs on the same rows."""
    import numpy as np
    from scipy import stats

    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Difference(math.nan, math.nan, math.nan, math.nan, None, "DeLong")
    parts = [_structural(scores[positive], scores[~positive]) for scores in (first, second)]
    aucs = [float(of_positive.mean()) for of_positive, _ in parts]
    moved = [np.asarray(parts[1][side]) - np.asarray(parts[0][side]) for side in (0, 1)]
    variance = sum(float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan for values in moved)
    spread, value = math.sqrt(variance) if variance == variance else math.nan, aucs[1] - aucs[0]
    width = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * spread
    p = float(2 * stats.norm.sf(abs(value) / spread)) if spread else 1.0 if value == 0 else 0.0
    return Difference(aucs[0], aucs[1], value - width, value + width, p, "DeLong")


def _structural(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, and for each negative that of positives above; ties count half."""
    import numpy as np

    m, n = len(positives), len(negatives)
    order_p, order_n = np.argsort(positives), np.argsort(negatives)
    sorted_p, sorted_n = positives[order_p], negatives[order_n]
    below, above = np.empty(m), np.empty(n)
    # Asked for in order: a search that jumps about in a million rows waits for memory at each step.
    below[order_p] = np.searchsorted(sorted_n, sorted_p, "left") + np.searchsorted(sorted_n, sorted_p, "right")
    above[order_n] = 2 * m - np.searchsorted(sorted_p, sorted_n, "left") - np.searchsorted(sorted_p, sorted_n, "right")
    return below / (2 * n), above / (2 * m)


def auc_interval(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """An AUC and its interval by DeLong's variance, kept within 0 and 1; NaN where there is one class alone."""
    from scipy import stats

    if positive.sum() < 2 or (~positive).sum() < 2:
        return math.nan, math.nan, math.nan
    parts = _structural(scores[positive], scores[~positive])
    value = float(parts[0].mean())
    spread = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in parts))
    width = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * spread
    return value, max(0.0, value - width), min(1.0, value + width)


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """Two accuracies on the same rows: of those on which only one is right, exactly; the interval is the paired Wald one."""
    from scipy import stats

    right = [(scores >= THRESHOLD) == (labels == 1) for scores in (first, second)]
    lost, won, n = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()), len(labels)
    p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    value = (won - lost) / n
    width = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(max(0.0, won + lost - (won - lost) ** 2 / n)) / n
    return Difference(float(right[0].mean()), float(right[1].mean()), value - width, value + width, p, "McNemar")


def permutation(differences: np.ndarray, *, resamples: int = 9999, seed: int = 0) -> float:
    """The two-sided p-value of a mean of paired differences [N], by exchanging the two models of a pair at random."""
    import numpy as np

    rng = np.random.default_rng(seed)
    seen = abs(float(differences.sum()))
    beyond, step = 0, max(1, 4_000_000 // max(1, len(differences)))
    for begin in range(0, resamples, step):
        signs = rng.integers(0, 2, (min(step, resamples - begin), len(differences)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ differences) >= seen * (1 - 1e-12)).sum())
    return (beyond + 1) / (resamples + 1)


# -- the verdict ----------------------------------------------------------------------------------------------------------


def compare(
    metric: str,
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Difference:
    """The second model against the first, by the test made for the metric; by entities, where rows are not independent."""
    check(metric, labels, first, second)
    if groups is None and metric == "auc":
        return delong(labels, first, second)
    if groups is None and metric == "accuracy":
        return mcnemar(labels, first, second)
    found = bootstrap(metric, labels, first, second, groups=groups, seed=seed)
    if metric in ("auc", "precision", "recall", "f1", "rmse"):
        return found
    moved = _losses(metric, labels, second) - _losses(metric, labels, first)
    p = permutation(_sums(moved, groups), seed=seed)
    return Difference(found.first, found.second, found.low, found.high, p, f"{found.method}, paired permutation")


def _sums(values: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Of each entity's rows together; an entity is exchanged as a whole."""
    import numpy as np

    if groups is None:
        return values
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values)


def check(metric: str, labels: np.ndarray, *scores: np.ndarray) -> None:
    """Raise InvalidInput for labels or scores of which a metric says nothing."""
    import numpy as np

    if not all(np.isfinite(values).all() for values in (labels, *scores)):
        raise InvalidInput("Labels and scores must be finite.", hint="Remove the rows that are not.", field="label")
    if metric not in CLASSES:
        return
    odd = np.setdiff1d(labels, (0, 1))
    if len(odd):
        raise InvalidInput(f"{metric} takes labels 0 and 1, and there is {odd[0]:g}.", hint="Use mae.", field="metric")
    for value, word in ((1, "positive"), (0, "negative")):
        if not (labels == value).any():
            raise InvalidInput(
                f"There is no {word} among the {len(labels)} rows.", hint="Compare on rows with both.", field="label"
            )


def outcome(difference: Difference, margin: float, *, lower_is_better: bool) -> ComparisonOutcome:
    """What a difference shows: better, no worse than the margin, worse, or nothing yet."""
    low, high = gains(difference, lower_is_better=lower_is_better)
    if not low <= high:  # NaN
        return "undecided"
    if low > 0:
        return "better"
    if low >= -margin:
        return "non_inferior"
    return "worse" if high < 0 else "undecided"


def gains(difference: Difference, *, lower_is_better: bool) -> tuple[float, float]:
    """The interval with more being better."""
    if lower_is_better:
        return -difference.high, -difference.low
    return difference.low, difference.high


def rows_to_decide(difference: Difference, margin: float, rows: int, *, lower_is_better: bool) -> int | None:
    """How many rows, of such a difference, show that the margin is kept or is not; None where none would."""
    value = -difference.value if lower_is_better else difference.value
    half = (difference.high - difference.low) / 2
    distance = value + margin if value > -margin else -value
    if not half > 0 or not distance > 0:
        return None
    return math.ceil(rows * (half / distance) ** 2)
