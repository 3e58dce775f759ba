"""Two models on the same rows, against scipy, statsmodels and scikit-learn on random data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar

from mlbox.errors import InvalidInput
from mlbox.serve.promotion.compare import (
    LOWER_IS_BETTER,
    Difference,
    bootstrap,
    compare,
    delong,
    mcnemar,
    outcome,
    permutation,
    rows_to_decide,
    weighted,
)

SK = {
    "auc": sk.roc_auc_score,
    "log_loss": sk.log_loss,
    "brier": sk.brier_score_loss,
    "mae": sk.mean_absolute_error,
    "mse": sk.mean_squared_error,
    "rmse": sk.root_mean_squared_error,
}
CLASSIFIED = {
    "accuracy": sk.accuracy_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "f1": sk.f1_score,
}


def data(seed: int, n: int = 300, *, gain: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the scores of two models that know them a little; with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(float)
    shared = rng.normal(size=n)
    first = stats.norm.cdf(labels - 0.5 + shared + rng.normal(size=n) * 0.5)
    second = stats.norm.cdf((1 + gain) * (labels - 0.5) + shared + rng.normal(size=n) * 0.5)
    return labels, first.round(2), second.round(2)


@pytest.mark.parametrize("metric", [*SK, *CLASSIFIED])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_each_metric_is_that_of_scikit_learn_with_any_weights(metric: str, seed: int) -> None:
    labels, scores, _ = data(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(labels)).astype(float)
    if metric in SK:
        expected = SK[metric](labels, scores, sample_weight=weights)
    else:
        expected = CLASSIFIED[metric](labels, scores >= 0.5, sample_weight=weights)
    assert weighted(metric, labels, scores)(weights) == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 10_000), n=st.integers(12, 80))
@settings(max_examples=25, deadline=None)
def test_delong_is_the_covariance_of_all_pairs(seed: int, n: int) -> None:
    labels, first, second = data(seed, n)
    labels[:4] = (0, 0, 1, 1)
    found = delong(labels, first, second)
    placements = []
    for scores in (first, second):
        ones, zeros = scores[labels == 1], scores[labels == 0]
        wins = (ones[:, None] > zeros[None, :]) + 0.5 * (ones[:, None] == zeros[None, :])
        placements.append((wins.mean(axis=1), wins.mean(axis=0)))
    covariance = sum(np.cov(placements[0][side], placements[1][side]) / len(placements[0][side]) for side in (0, 1))
    spread = math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    assert (found.first, found.second) == pytest.approx(
        (sk.roc_auc_score(labels, first), sk.roc_auc_score(labels, second))
    )
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * spread, rel=1e-4, abs=1e-6)
    if spread > 1e-9:
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.value) / spread), rel=1e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_mcnemar_is_that_of_statsmodels(seed: int) -> None:
    labels, first, second = data(seed)
    right = [(scores >= 0.5) == (labels == 1) for scores in (first, second)]
    table = [[int((right[0] == a)[right[1] == b].sum()) for b in (True, False)] for a in (True, False)]
    found = mcnemar(labels, first, second)
    assert found.p_value == pytest.approx(sm_mcnemar(table, exact=True).pvalue)
    assert found.low <= found.value <= found.high


def test_the_bootstrap_is_that_of_scipy() -> None:
    labels, first, second = data(3, 400)
    moved = (second - labels) ** 2 - (first - labels) ** 2
    expected = stats.bootstrap((moved,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    found = bootstrap("mse", labels, first, second, resamples=4000)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05 * (expected.high - expected.low))
    assert found.value == pytest.approx(moved.mean())


def test_the_bootstrap_of_an_auc_has_delongs_width() -> None:
    labels, first, second = data(5, 800)
    boot, exact = bootstrap("auc", labels, first, second), delong(labels, first, second)
    assert boot.high - boot.low == pytest.approx(exact.high - exact.low, rel=0.1)


def test_the_permutation_test_is_that_of_scipy() -> None:
    labels, first, second = data(7, 200, gain=0.1)
    moved = (second - labels) ** 2 - (first - labels) ** 2
    expected = stats.permutation_test((moved,), np.sum, permutation_type="samples", n_resamples=9999, rng=2).pvalue
    assert permutation(moved) == pytest.approx(expected, abs=0.02)


def test_the_rows_of_an_entity_count_as_one() -> None:
    """Every row ten times over says no more than once."""
    labels, first, second = data(9, 150)
    once = bootstrap("auc", labels, first, second)
    groups = np.repeat(np.arange(150), 10)
    many = [np.repeat(values, 10) for values in (labels, first, second)]
    together = compare("auc", *many, groups=groups)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.15)
    alone = compare("auc", *many)
    assert alone.high - alone.low < 0.5 * (together.high - together.low)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.02, "better"),
        (-0.004, 0.02, "non_inferior"),
        (-0.03, -0.02, "worse"),
        (-0.03, 0.02, "undecided"),
        (-0.004, -0.002, "non_inferior"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_what_an_interval_shows(low: float, high: float, expected: str) -> None:
    up = Difference(0.7, 0.7 + (low + high) / 2, low, high, None, "")
    assert outcome(up, 0.005, lower_is_better=False) == expected
    down = Difference(0.7, 0.7 - (low + high) / 2, -high, -low, None, "")
    assert outcome(down, 0.005, lower_is_better=True) == expected


def test_as_many_rows_as_it_says_decide() -> None:
    labels, first, second = data(11, 400, gain=0.0)
    found = delong(labels, first, second)
    margin = abs(found.value) + (found.high - found.low) / 4
    assert outcome(found, margin, lower_is_better=False) == "undecided"
    rows = rows_to_decide(found, margin, 400, lower_is_better=False)
    assert rows is not None
    times = math.ceil(rows / 400)
    more = delong(*(np.tile(values, times) for values in (labels, first, second)))
    assert outcome(more, margin, lower_is_better=False) != "undecided"
    assert rows_to_decide(Difference(0, 0, 0, 0, None, ""), 0, 10, lower_is_better=False) is None


@pytest.mark.parametrize(
    ("metric", "labels", "words"),
    [
        ("auc", [0.0, 0.0, 0.0], "no positive among the 3 rows"),
        ("auc", [1.0, 1.0, 1.0], "no negative"),
        ("f1", [0.0, 1.0, 2.0], "there is 2"),
        ("mae", [0.0, 1.0, math.nan], "must be finite"),
    ],
)
def test_what_says_nothing_is_refused(metric: str, labels: list[float], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        compare(metric, np.array(labels), np.zeros(3), np.zeros(3))


def test_a_model_is_not_better_than_itself() -> None:
    labels, first, _ = data(13)
    for metric in ("auc", "accuracy", "log_loss", "f1"):
        found = compare(metric, labels, first, first)
        assert outcome(found, 0.0, lower_is_better=metric in LOWER_IS_BETTER) == "non_inferior"
        assert found.value == 0
