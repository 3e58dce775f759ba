"""Kolmogorov-Smirnov, exactly: against the definition, and against scipy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mlbox.serve.drift import Comparison, compare, survival, verdict

values = st.lists(st.integers(-5, 5).map(float) | st.floats(allow_nan=False) | st.just(np.inf), min_size=1, max_size=60)


def of(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float64)


@given(values, values)
def test_the_statistic_is_the_largest_distance_of_the_distribution_functions(a: list[float], b: list[float]) -> None:
    found = compare(of(*a), of(*b)).distance
    by_hand = max(
        abs(Fraction(sum(x <= v for x in a), len(a)) - Fraction(sum(x <= v for x in b), len(b))) for v in [*a, *b]
    )
    assert found == by_hand


@settings(max_examples=50)
@given(values, values)
def test_scipy_agrees(a: list[float], b: list[float]) -> None:
    found = compare(of(*a), of(*b)).statistic
    with np.errstate(all="ignore"):  # scipy's own p-value divides by zero for some
        assert found == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12)


@given(values, values)
def test_it_is_symmetric_between_0_and_1_and_0_for_the_same(a: list[float], b: list[float]) -> None:
    forth, back = compare(of(*a), of(*b)).distance, compare(of(*b), of(*a)).distance
    assert forth == back
    assert 0 <= forth <= 1
    assert compare(of(*a), of(*a)).distance == 0


@given(values, values, st.integers(0, 5), st.integers(0, 5))
def test_missing_values_are_counted_and_change_nothing_else(a: list[float], b: list[float], m: int, n: int) -> None:
    bare, found = compare(of(*a), of(*b)), compare(of(*a, *[np.nan] * m), of(*[np.nan] * n, *b))
    assert (found.distance, found.reference_missing, found.current_missing) == (bare.distance, m, n)
    assert (found.reference_rows, found.current_rows) == (len(a) + m, len(b) + n)


def test_nothing_on_one_side_is_no_distance() -> None:
    found = compare(of(np.nan), of(1))
    assert (found.distance, found.statistic, found.p_value) == (None, None, None)
    assert verdict(found) == "not_enough_data"


@pytest.mark.parametrize("x", [0.21, 0.3, 0.5, 0.8, 1.0, 1.36, 2.0, 5.0])
def test_the_p_value_is_kolmogorovs_distribution(x: float) -> None:
    assert survival(x) == pytest.approx(special.kolmogorov(x), abs=1e-12)
    assert survival(0.0) == 1.0


def at(distance: Fraction, *, rows: int = 100) -> Comparison:
    return Comparison(reference_rows=rows, current_rows=rows, reference_missing=0, current_missing=0, distance=distance)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (Fraction(0), "ok"),
        (Fraction(10, 100), "ok"),
        (Fraction(11, 100), "investigate"),
        (Fraction(20, 100), "investigate"),
        (Fraction(21, 100), "alert"),
    ],
)
def test_a_threshold_itself_is_not_above_it(distance: Fraction, expected: str) -> None:
    assert verdict(at(distance)) == expected
    assert verdict(at(distance, rows=99)) == "not_enough_data"


def test_no_rounding_decides() -> None:
    """0.1 as a float is above a tenth: 3 of 30 against 0 of 30 must still be ok."""
    a, b = of(*[0.0] * 27, *[1.0] * 3), of(*[0.0] * 30)
    assert verdict(compare(np.tile(a, 10), np.tile(b, 10))) == "ok"
