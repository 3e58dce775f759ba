"""Estimated performance is what labels would say, also where the inputs shift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from mlbox.serve.monitoring.estimate import auc_of_labels, estimate, expected_auc


@pytest.mark.parametrize("shift", [-1.5, 0.0, 0.8])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_under_a_shift_of_the_inputs_it_is_near_the_truth(shift: float, spread: float) -> None:
    """A logistic world: what is positive depends on the inputs as it did in training, and the inputs are others."""
    rng = np.random.default_rng(7)
    inputs = rng.normal(loc=shift, scale=spread, size=(6000, 2))
    scores = 1 / (1 + np.exp(-(inputs @ np.array([1.5, -0.7]) - 0.3)))
    labels = rng.random(len(scores)) < scores
    found = estimate(scores)
    truth = {
        "auc": roc_auc_score(labels, scores),
        "accuracy": accuracy_score(labels, scores >= 0.5),
        "brier": brier_score_loss(labels, scores),
        "log_loss": log_loss(labels, scores),
    }
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        assert found[name].value == pytest.approx(value, abs=0.02), name
        assert found[name].low <= found[name].value <= found[name].high


def test_the_interval_holds_what_labels_say_about_as_often_as_it_claims() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(100):
        scores = rng.beta(2, 3, size=400)
        found = estimate(scores)["auc"]
        inside += found.low <= roc_auc_score(rng.random(400) < scores, scores) <= found.high
    assert 88 <= inside <= 100


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=60))
def test_of_labels_that_are_known_the_area_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    rows.sort()
    p, labels = np.array([score / 10 for score, _ in rows]), np.array([float(label) for _, label in rows])
    if 0 < labels.sum() < len(labels):
        theirs = pytest.approx(roc_auc_score(labels, p), abs=1e-12)
        assert auc_of_labels(p, labels[None, :])[0] == theirs
        assert expected_auc(p, labels) == theirs


def test_too_few_scores_and_scores_of_one_class_say_what_they_can() -> None:
    assert estimate(np.full(99, 0.5)) == {}
    sure = estimate(np.ones(200))
    assert sure["accuracy"].value == 1
    assert "auc" not in sure
