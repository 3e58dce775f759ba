"""Evidence that may be looked at as often as one likes: what it shows at any look holds for all looks together.

A test that is right at one look is wrong when it is asked again and again until it fires. These are not: each is a mixture of
likelihood ratios, a nonnegative martingale under what it tests, which by Ville's inequality ever exceeds 1/α with a
probability of at most α.

Sources: H. Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970), for mixtures;
R. Johari et al., "Always valid inference", Operations Research 70 (2022), for their use in experiments; S. Howard and A. Ramdas,
"Sequential estimation of quantiles", Bernoulli 28 (2022), for quantiles through ranks; P. Massart, Ann. Probab. 18 (1990), for
the constant of the Dvoretzky-Kiefer-Wolfowitz inequality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""How many times worse a side may be, each as likely as the others before anything was seen."""
GROWTH = 1.01
"""A bucket of latency is one percent wide."""
FIRST_EPOCH, LAST_EPOCH = 300, 10_000
EPOCHS = tuple(round(FIRST_EPOCH * 2 ** (k / 2)) for k in range(11))
"""After how many values on each side distributions are compared, and never between."""
_STEPS = 60


class Interval(NamedTuple):
    """What a value lies between."""

    low: float
    high: float


def log_beta(a: float, b: float) -> float:
    """The logarithm of the beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def proportion(hits: float, n: int, alpha: float) -> Interval:
    """A confidence sequence for a probability of which so many of n trials were hits: Robbins' mixture over Beta(½, ½).

    It holds for the mean of n values between 0 and 1 as well, with their sum as hits: each factor of the likelihood ratio is
    convex in the value, so its mean is at most that of a coin with the same mean, which is 1.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    mixture = log_beta(hits + 0.5, n - hits + 0.5) - log_beta(0.5, 0.5)
    most = math.log(1 / alpha)

    def excluded(p: float) -> bool:
        return mixture - _log_power(p, hits) - _log_power(1 - p, n - hits) > most

    seen = hits / n
    return Interval(_edge(excluded, 0.0, seen), _edge(excluded, 1.0, seen))


def _log_power(p: float, n: float) -> float:
    if n <= 0:
        return 0.0
    return n * math.log(p) if p > 0 else -math.inf


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where a region that holds `inside` ends on the way to `outside`, to the excluded side of it."""
    if not excluded(outside):
        return outside
    for _ in range(_STEPS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def log_evidence_of_rate(hits: float, others: float, share: float, ratio: float = 1.0) -> float:
    """The logarithm of the evidence that one side's rate of hits is more than `ratio` times the other's.

    Of each hit, whichever side it falls on, the odds are those of the traffic times the ratio of the rates: a coin whose
    bias under the null is known. `hits` fell on this side and `others` on the other; `share` of the traffic is this side's.
    Sums of values between 0 and 1 are taken for hits as well, by the same convexity as in `proportion`.
    """
    if hits + others <= 0 or not 0 < share < 1:
        return 0.0
    odds = share / (1 - share) * ratio
    null = odds / (1 + odds)
    terms = []
    for times in RATIOS:
        worse = odds * times / (1 + odds * times)
        terms.append(hits * math.log(worse / null) + others * math.log((1 - worse) / (1 - null)))
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms) / len(terms))


def ranks(n: int, quantile: float, alpha: float) -> tuple[int, int]:
    """Between which of n sorted values a quantile lies at every look: ranks from 1; 0 and n + 1 say that it is not bounded.

    The values not above the quantile are hits of probability `quantile`, so their number is bounded by the mixture.
    """
    a, b = quantile * 10, (1 - quantile) * 10
    most = math.log(1 / alpha)

    def excluded(count: int) -> bool:
        mixture = log_beta(count + a, n - count + b) - log_beta(a, b)
        return mixture - count * math.log(quantile) - (n - count) * math.log(1 - quantile) > most

    middle = round(n * quantile)
    return _last(excluded, middle, 0), _last(excluded, middle, n) + 1


def _last(excluded: Callable[[int], bool], inside: int, outside: int) -> int:
    """The last count that is not excluded, from one that is not towards one that may be."""
    if not excluded(outside):
        return outside
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return inside


def bucket_of(milliseconds: float) -> int:
    """The bucket of a latency."""
    return math.floor(math.log(max(milliseconds, 1e-4)) / math.log(GROWTH))


def quantile(buckets: Mapping[int, int], q: float, alpha: float) -> Interval:
    """A confidence sequence for a quantile of what was counted in buckets, widened to the buckets' edges."""
    n = sum(buckets.values())
    if n == 0:
        return Interval(0.0, math.inf)
    low, high = ranks(n, q, alpha)
    return Interval(
        0.0 if low < 1 else GROWTH ** _bucket_at(buckets, low),
        math.inf if high > n else GROWTH ** (_bucket_at(buckets, high) + 1),
    )


def seen_quantile(buckets: Mapping[int, int], q: float) -> float:
    """The quantile of what was seen, as the middle of its bucket; NaN of nothing."""
    n = sum(buckets.values())
    return GROWTH ** (_bucket_at(buckets, max(1, math.ceil(n * q))) + 0.5) if n else math.nan


def _bucket_at(buckets: Mapping[int, int], rank: int) -> int:
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return bucket
    raise AssertionError((rank, seen))


def alpha_of_epoch(epoch: int, alpha: float) -> float:
    """What the comparison of this epoch, from 1, may spend: all of them together spend at most alpha."""
    return alpha / (epoch * (epoch + 1))


def distance_slack(n: int, alpha: float) -> float:
    """How far D of n values a side may be from the true one: the DKW inequality on either side."""
    return 2 * math.sqrt(math.log(4 / alpha) / (2 * n))
