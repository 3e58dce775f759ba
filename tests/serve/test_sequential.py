"""Always-valid evidence: against scipy at one look, and against its own promise over all looks."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mlbox.serve.rollout.sequential import (
    EPOCHS,
    GROWTH,
    RATIOS,
    alpha_of_epoch,
    bucket_of,
    distance_slack,
    log_evidence_of_rate,
    proportion,
    quantile,
    ranks,
    seen_quantile,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.05, 0.01]))
@settings(max_examples=40, deadline=None)
def test_a_proportion_lies_where_the_mixture_does_not_exclude_it(count: tuple[int, int], alpha: float) -> None:
    hits, n = count
    low, high = proportion(hits, n, alpha)
    assert low <= hits / n <= high

    def mixture(p: float) -> float:  # the same by the integral that it is
        log_likelihood = stats.binom.logpmf(hits, n, p)
        return float(
            integrate.quad(
                lambda t: stats.beta.pdf(t, 0.5, 0.5) * math.exp(stats.binom.logpmf(hits, n, t) - log_likelihood), 0, 1
            )[0]
        )

    for edge in (low, high):
        if 1e-6 < edge < 1 - 1e-6:
            assert mixture(edge) == pytest.approx(1 / alpha, rel=1e-3)
    exact = stats.binomtest(hits, n).proportion_ci(1 - alpha, "exact")
    assert (low, high) == (pytest.approx(min(low, exact.low)), pytest.approx(max(high, exact.high)))  # never narrower


@pytest.mark.parametrize("p", [0.02, 0.5])
def test_a_proportion_is_between_its_ends_at_every_look_of_most_runs(p: float) -> None:
    rng = np.random.default_rng(0)
    looks = [10, 30, 100, 300, 1000, 3000]
    missed = 0
    for _ in range(300):
        hits = np.cumsum(rng.random(3000) < p)
        ends = [proportion(int(hits[n - 1]), n, 0.1) for n in looks]
        missed += any(not low <= p <= high for low, high in ends)
    assert missed <= stats.binom.ppf(0.999, 300, 0.1)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_evidence_of_a_rate_is_the_mean_likelihood_ratio(hits: int, others: int, share: float) -> None:
    def likelihood(times: float) -> float:
        coin = share * times / (share * times + 1 - share)
        return float(stats.binom.logpmf(hits, hits + others, coin))

    terms = [likelihood(times) - likelihood(1) for times in RATIOS]
    expected = float(np.logaddexp.reduce(terms)) - math.log(len(terms))
    assert log_evidence_of_rate(hits, others, share) == pytest.approx(expected, abs=1e-8)


def test_more_failures_are_more_evidence_and_a_larger_ratio_forgives_more() -> None:
    grows = [log_evidence_of_rate(hits, 40, 0.05) for hits in range(2, 30)]
    assert grows == sorted(grows)
    assert log_evidence_of_rate(8, 40, 0.05, 3.0) < log_evidence_of_rate(8, 40, 0.05)
    assert log_evidence_of_rate(0, 0, 0.05) == 0


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.05, 0.01]))
@settings(max_examples=60, deadline=None)
def test_a_quantile_lies_between_ranks_that_no_exact_interval_exceeds(n: int, q: float, alpha: float) -> None:
    low, high = ranks(n, q, alpha)
    assert 0 <= low <= high <= n + 1
    assert stats.binom.cdf(low - 1, n, q) <= alpha
    assert stats.binom.sf(high - 1, n, q) <= alpha


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300), st.sampled_from([0.5, 0.95]))
@settings(max_examples=60, deadline=None)
def test_a_quantile_out_of_buckets_is_that_of_the_values(values: list[float], q: float) -> None:
    buckets = Counter(bucket_of(value) for value in values)
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert seen_quantile(buckets, q) == pytest.approx(exact, rel=GROWTH - 1)
    low, high = quantile(buckets, q, 0.05)
    assert low <= exact <= high


def test_nothing_seen_bounds_nothing() -> None:
    assert proportion(0, 0, 0.05) == (0, 1)
    assert quantile({}, 0.95, 0.05) == (0, math.inf)
    assert quantile({100: 5}, 0.95, 0.05).high == math.inf
    assert math.isnan(seen_quantile({}, 0.5))


def test_the_epochs_spend_no_more_than_there_is() -> None:
    assert sum(alpha_of_epoch(epoch, 0.05) for epoch in range(1, len(EPOCHS) + 1)) < 0.05
    assert EPOCHS[0] == 300
    rng = np.random.default_rng(1)
    beyond = sum(
        stats.ks_2samp(rng.random(300), rng.random(300)).statistic > distance_slack(300, 0.05) for _ in range(200)
    )
    assert beyond <= stats.binom.ppf(0.999, 200, 0.05)


def test_losses_between_0_and_1_keep_the_promise_that_is_made_for_hits() -> None:
    """Squared errors of the same model on either side, looked at again and again: few are shown worse."""
    rng = np.random.default_rng(1)
    looks, alpha, runs = [50, 100, 200, 400, 800], 0.1, 400
    worse = missed = 0
    for _ in range(runs):
        chance = rng.beta(1, 3, 1600)
        losses = (chance - (rng.random(1600) < chance)) ** 2
        ours = rng.random(1600) < 0.5
        sums = [(losses[:n][ours[:n]], losses[:n][~ours[:n]]) for n in (2 * look for look in looks)]
        worse += any(
            log_evidence_of_rate(float(a.sum()), float(b.sum()), len(a) / (len(a) + len(b))) > math.log(1 / alpha)
            for a, b in sums
        )
        mean = 0.25 * 0.75 - 0.25 * 0.75 / 5  # E[p (1 - p)] of that beta distribution
        ends = [proportion(float(a.sum()), len(a), alpha) for a, _ in sums]
        missed += any(not low <= mean <= high for low, high in ends)
    assert worse <= alpha * runs
    assert missed <= alpha * runs
