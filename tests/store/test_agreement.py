"""Figures of agreement are those that scikit-learn, statsmodels and krippendorff compute."""

from __future__ import annotations

from typing import Any

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from mlbox.store.labels import agreement

matrices = st.integers(2, 5).flatmap(
    lambda raters: st.lists(st.lists(st.integers(0, 3), min_size=raters, max_size=raters), min_size=2, max_size=30).map(
        np.array
    )
)


def counted(claims: np.ndarray) -> np.ndarray:
    """Claims [items, raters], -1 for none, counted by item and class."""
    return np.stack([(claims == value).sum(axis=1) for value in range(4)], axis=1)


@settings(max_examples=200, deadline=None)
@given(claims=matrices)
def test_cohens_kappa_is_scikit_learns(claims: np.ndarray) -> None:
    one, other = claims[:, 0].tolist(), claims[:, 1].tolist()
    found = agreement.cohen_kappa(one, other)
    if len({*one, *other}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(one, other))


@settings(max_examples=200, deadline=None)
@given(claims=matrices)
def test_fleiss_kappa_is_statsmodels(claims: np.ndarray) -> None:
    assume(len(np.unique(claims)) > 1)
    assert agreement.fleiss_kappa(counted(claims)) == pytest.approx(fleiss_kappa(aggregate_raters(claims)[0]))


@settings(max_examples=200, deadline=None)
@given(claims=matrices, data=st.data())
def test_krippendorffs_alpha_is_krippendorffs_with_claims_missing(claims: np.ndarray, data: Any) -> None:
    gaps = data.draw(st.lists(st.booleans(), min_size=claims.size, max_size=claims.size))
    some = np.where(np.array(gaps).reshape(claims.shape), -1, claims)
    pairable = some[(some >= 0).sum(axis=1) > 1]
    assume(len(np.unique(pairable[pairable >= 0])) > 1)
    expected = krippendorff.alpha(
        reliability_data=np.where(some < 0, np.nan, some).T.astype(float), level_of_measurement="nominal"
    )
    assert agreement.krippendorff_alpha(counted(some)) == pytest.approx(expected)


def test_where_chance_agrees_always_there_is_no_figure() -> None:
    same = np.array([[3, 0], [3, 0]])
    assert agreement.fleiss_kappa(same) is None
    assert agreement.krippendorff_alpha(same) is None
    assert agreement.krippendorff_alpha(np.array([[1, 0], [0, 1]])) is None, "nobody looked at the same item"
    assert agreement.fleiss_kappa(np.array([[1, 1], [2, 1]])) is None, "not as many claims on each item"
    assert agreement.cohen_kappa([], []) is None


def test_everything_over_claims_of_people_and_sources() -> None:
    claims = [
        *((1, "vet/x", "vet", "cat"), (1, "crowd", "crowd", "cat")),
        *((2, "vet/x", "vet", "dog"), (2, "crowd", "crowd", "cat"), (2, "vet/y", "vet", "dog")),
        *((3, "vet/x", "vet", "dog"), (3, "crowd", "crowd", "dog")),
    ]
    found = agreement.over(claims)
    assert (found.items, found.raters, found.fleiss_kappa) == (3, 3, None)
    assert found.cohen_kappa["crowd | vet/x"] == pytest.approx(cohen_kappa_score([0, 0, 1], [0, 1, 1]))
    assert found.by_rater == {"crowd": 0.5, "vet/x": 0.75, "vet/y": 0.5}
    assert found.confusion == {"crowd | vet": {"cat": {"cat": 1, "dog": 2}, "dog": {"dog": 1}}}
    assert set(found.by_class) == {"cat", "dog"}
    assert found.by_class["cat"] == pytest.approx(found.krippendorff_alpha), "of two classes, one against the other"


def test_nothing_is_no_figure() -> None:
    found = agreement.over([])
    assert (found.items, found.krippendorff_alpha, found.cohen_kappa, found.confusion) == (0, None, {}, {})
