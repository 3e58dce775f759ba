"""Kolmogorov-Smirnov, exactly: against the definition, and against scipy."""

from __future__ import annotations

import warnings
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mlbox.records.distances import distance
from mlbox.serve.monitoring.drift import (
    EXACT_PAIRS,
    Comparison,
    compare,
    exact_survival,
    missing_risen,
    survival,
    verdict,
)

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


@settings(max_examples=100, deadline=None)
@given(values, values)
def test_the_p_value_of_small_samples_is_exact_as_scipys(a: list[float], b: list[float]) -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings(record=True) as given_up:
        warnings.simplefilter("always")
        theirs = stats.ks_2samp(a, b, method="exact").pvalue
    assume(not given_up)  # scipy counts in floats, and says so where that went wrong
    assert compare(of(*a), of(*b)).p_value == pytest.approx(theirs, abs=1e-9)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_exact_p_value_is_the_share_of_all_orders(n: int, m: int, data: st.DataObject) -> None:
    """By the definition: of every way to order n and m values, those at least as far apart."""
    distance = Fraction(data.draw(st.integers(0, n * m)), n * m)
    orders = [[place in chosen for place in range(n + m)] for chosen in combinations(range(n + m), n)]
    far = sum(_distance(order, n, m) >= distance for order in orders)
    assert exact_survival(n, m, distance) == float(Fraction(far, len(orders)))


def _distance(order: list[bool], n: int, m: int) -> Fraction:
    heights = [(sum(order[:k]), k - sum(order[:k])) for k in range(n + m + 1)]
    return max(abs(Fraction(i, n) - Fraction(j, m)) for i, j in heights)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_exact_and_limit_meet_where_one_takes_over_from_the_other(shift: float) -> None:
    rng = np.random.default_rng(4)
    side = int(EXACT_PAIRS**0.5)
    exact = compare(rng.normal(size=side), rng.normal(loc=shift, size=side))
    assert exact.p_value == exact_survival(side, side, exact.distance)
    assert exact.p_value == pytest.approx(survival(exact.statistic * (side / 2) ** 0.5), abs=0.03)
    more = compare(rng.normal(size=side), rng.normal(loc=shift, size=side + 1))
    assert more.p_value == survival(more.statistic * (side * (side + 1) / (2 * side + 1)) ** 0.5)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05])
def test_the_p_value_of_large_samples_is_near_scipys(shift: float) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=10_000), rng.normal(loc=shift, size=9_000)
    assert compare(a, b).p_value == pytest.approx(stats.ks_2samp(a, b, method="asymp").pvalue, abs=0.01)


def test_constants_and_infinities_are_values_like_others() -> None:
    same = compare(np.full(200, 7.0), np.full(300, 7.0))
    assert (same.distance, same.p_value, verdict(same)) == (0, 1.0, "ok")
    assert compare(np.full(200, 7.0), np.full(300, 8.0)).distance == 1
    assert compare(of(-np.inf, np.inf), of(-np.inf, np.inf)).distance == 0
    assert compare(of(-np.inf, 0), of(0, np.inf)).distance == Fraction(1, 2)
    assert compare(of(-0.0), of(0.0)).distance == 0


def test_the_samples_are_left_as_they_were() -> None:
    a, b = of(3, np.nan, 1), of(2, 1)
    compare(a, b)
    assert a.tolist()[::2] == [3, 1]
    assert b.tolist() == [2, 1]


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


@given(st.integers(100, 3000), st.integers(100, 3000), st.data())
def test_thresholds_are_compared_as_fractions(n: int, m: int, data: st.DataObject) -> None:
    """Of n and m values at a, one side has some at b: D is that share, whatever n and m are."""
    moved = data.draw(st.integers(0, m))
    current = np.repeat(of(0.0, 1.0), [m - moved, moved])
    expected = "alert" if 5 * moved > m else "investigate" if 10 * moved > m else "ok"
    assert verdict(compare(np.zeros(n), current)) == expected


@given(*[st.integers(100, 2000)] * 2, st.data())
def test_a_rise_of_missing_values_is_flagged_above_a_tenth(n: int, m: int, data: st.DataObject) -> None:
    before, now = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    found = Comparison(n, m, before, now, None)
    assert missing_risen(found) == (10 * (now * n - before * m) > n * m)
    assert missing_risen(found, minimum=max(n, m) + 1) is False


def test_a_rise_of_exactly_a_tenth_is_not_above_it() -> None:
    """0.3 - 0.2 as floats is below a tenth, 0.8 - 0.7 above it."""
    assert [missing_risen(Comparison(100, 1000, before, now, None)) for before, now in ((20, 300), (70, 800))] == [
        False,
        False,
    ]
    assert missing_risen(Comparison(100, 1000, 70, 801, None)) is True


def test_a_feature_that_stops_arriving_is_flagged_though_d_is_silent() -> None:
    found = compare(np.zeros(200), np.full(200, np.nan))
    assert (verdict(found), missing_risen(found)) == ("not_enough_data", True)
    assert missing_risen(compare(np.zeros(200), np.zeros(0))) is False, "no rows say nothing of their values"


def test_no_rounding_decides() -> None:
    """0.1 as a float is above a tenth: 3 of 30 against 0 of 30 must still be ok."""
    a, b = of(*[0.0] * 27, *[1.0] * 3), of(*[0.0] * 30)
    assert verdict(compare(np.tile(a, 10), np.tile(b, 10))) == "ok"


@given(st.integers(100, 10_000), st.integers(100, 10_000), st.data())
def test_what_people_read_of_d_is_on_the_side_of_its_verdict(n: int, m: int, data: st.DataObject) -> None:
    bound = data.draw(st.sampled_from([Fraction(1, 10), Fraction(1, 5), Fraction(1, 2)]))
    near = int(bound * n * m) + data.draw(st.integers(-50, 50))
    exact = Fraction(min(max(near, 0), n * m), n * m)
    shown = distance(float(exact), data.draw(st.sampled_from([2, 3, 7])))
    for threshold in (Fraction(1, 10), Fraction(1, 5)):
        assert (Fraction(shown) > threshold, Fraction(shown) < threshold) == (exact > threshold, exact < threshold)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1, "0.100"),
        (0.10004, "0.10004"),
        (0.0999996, "0.0999996"),
        (0.2, "0.200"),
        (0.2004, "0.2004"),
        (0.31, "0.310"),
    ],
)
def test_no_more_digits_are_shown_than_it_takes(value: float, shown: str) -> None:
    assert distance(value) == shown
    assert distance(None) == "–"
