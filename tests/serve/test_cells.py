"""The window of cells says what comparing all values says, and the measures are scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from mlbox.serve.monitoring.cells import Grid, ReferenceState, Ring
from mlbox.serve.monitoring.drift import compare, verdict
from mlbox.serve.monitoring.measures import adjusted, binned, chi_square, measure, stability

odd = [np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1.7e308, -1.7e308, 0.0, -0.0, 0.1, 0.30000000000000004]
numbers = st.integers(-3, 3).map(float) | st.sampled_from(odd) | st.floats()
columns = st.lists(numbers, max_size=40)


def ring_of(reference: np.ndarray, size: int) -> Ring:
    return Ring([Grid(reference)], size)


def of(values: list[float]) -> np.ndarray:
    return np.array(values, np.float64)


@settings(deadline=None)
@given(columns, st.lists(columns, max_size=5), st.integers(1, 60), st.integers(0, 5))
def test_a_ring_says_of_its_rows_what_comparing_them_says(
    reference: list[float], pushed: list[list[float]], size: int, dropped: int
) -> None:
    ring = ring_of(of(reference), size)
    kept: list[float] = []
    for batch in pushed:
        ring.push(of(batch)[None, :])
        kept = [*kept, *batch][-size:]
        ring.drop(dropped)
        kept = kept[dropped:]
    assert ring.compare(0) == compare(of(reference), of(kept))
    assert sorted(ring.values(0)) == sorted(value for value in kept if value == value)
    assert ring.rows == len(kept)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([99, 100, 101, 400]), st.sampled_from([99, 100, 333]), st.integers(0, 4)
)
def test_d_and_verdict_are_scipys(seed: int, n: int, m: int, kind: int) -> None:
    """Of smooth, tied, tiny and huge columns with infinities and missing values, around the fewest rows."""
    rng = np.random.default_rng(seed)
    draw = (
        lambda size: rng.normal(size=size),
        lambda size: rng.poisson(2, size).astype(float),
        lambda size: rng.normal(size=size) * 1e-300,
        lambda size: rng.choice(of([1e308, -1e308, np.inf, -np.inf, 0.0]), size),
        lambda size: rng.choice(of([np.nan, 1.0, 2.0]), size),
    )[kind]
    a, b = draw(n), draw(m)
    ring = ring_of(a, 1000)
    ring.push(b[None, :])
    found = ring.compare(0)
    theirs = stats.ks_2samp(a[~np.isnan(a)], b[~np.isnan(b)], method="asymp").statistic
    assert found.statistic == pytest.approx(theirs, abs=1e-12)
    enough = min((~np.isnan(a)).sum(), (~np.isnan(b)).sum()) >= 100
    assert (verdict(found) != "not_enough_data") == enough


@pytest.mark.parametrize(("tenths", "expected"), [(1, "ok"), (2, "investigate")])
@pytest.mark.parametrize("rows", [100, 110, 330, 1000, 7770])
def test_exactly_at_a_threshold_no_rounding_decides(tenths: int, expected: str, rows: int) -> None:
    """In floats 0.3 - 0.1 is below and 0.8 - 0.6 above 0.2."""
    for at in range(10 - tenths + 1):
        before, now = (np.repeat([0.0, 1.0], [k * rows // 10, rows - k * rows // 10]) for k in (at, at + tenths))
        ring = ring_of(before, rows)
        ring.push(now[None, :])
        assert verdict(ring.compare(0)) == expected


def test_rows_that_a_column_is_not_asked_of_are_not_missing_in_it() -> None:
    ring = ring_of(np.zeros(100), 10)
    ring.push(of([0, 1, np.nan])[None, :], np.array([[True, False, True]]))
    assert (ring.compare(0).current_rows, ring.compare(0).current_missing) == (2, 1)
    ring.drop(3)
    assert ring.compare(0).current_rows == 0


@pytest.mark.parametrize(
    ("reference", "state"),
    [([], "empty"), ([np.nan], "empty"), ([3.0, 3.0], "constant"), ([1.0, np.inf], "infinite"), ([1.0, 2.0], "usable")],
)
def test_what_is_odd_about_a_reference_has_a_name(reference: list[float], state: ReferenceState) -> None:
    assert Grid(of(reference)).state == state


# -- measures -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=60), st.lists(st.floats(-40, 40), min_size=1, max_size=60))
def test_measures_are_scipys(before: list[int], now: list[float]) -> None:
    a, b = of([n / 2 for n in before]), of(now)
    grid, ring = Grid(a), ring_of(a, 100)
    ring.push(b[None, :])
    found = measure(grid, ring.counts(0), ring.values(0))
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-9)
    bins = binned(grid, ring.counts(0), found.chi_square_p is not None)
    assert found.jensen_shannon == pytest.approx(jensenshannon(*bins, base=2), abs=1e-7)
    assert (sum(bins[0]), sum(bins[1])) == (len(a), len(b))
    assert found.out_of_range == np.mean((b < a.min()) | (b > a.max()))
    assert found.constant_share == np.unique(b, return_counts=True)[1].max() / len(b)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=6))
def test_chi_square_is_scipys(table: list[tuple[int, int]]) -> None:
    before, now = np.array(table).T
    kept = before + now > 0
    if not before.any() or not now.any() or kept.sum() < 2:
        return
    theirs = stats.chi2_contingency([before[kept], now[kept]], correction=False).pvalue
    assert chi_square(before, now) == pytest.approx(theirs, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_correction_is_scipys(p_values: list[float]) -> None:
    assert adjusted(p_values) == pytest.approx(stats.false_discovery_control(p_values), abs=1e-12)
    assert adjusted([]) == []


def test_the_stability_index_of_shares_is_by_its_definition() -> None:
    assert stability(np.array([50, 50]), np.array([50, 50])) == 0
    assert stability(np.array([50, 50]), np.array([80, 20])) == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4))
    assert stability(np.array([100, 0]), np.array([0, 100])) > 9, "an empty bin is finite"


def test_new_categories_stuck_values_and_another_type_are_seen() -> None:
    codes = of([0, 1, 2] * 100)
    ring = ring_of(codes, 1000)
    ring.push(of([0] * 150 + [7] * 30 + [1.5] * 20)[None, :])
    found = measure(Grid(codes), ring.counts(0), ring.values(0))
    assert (found.new_share, found.new_values, found.out_of_range) == (0.25, (1.5, 7.0), 0.15)
    assert (found.constant_share, found.reference_constant_share) == (0.75, 1 / 3)
    assert found.type_changed
    assert found.chi_square_p is not None
    assert found.chi_square_p < 1e-9


def test_of_infinite_values_only_there_is_no_distance_in_the_features_unit() -> None:
    never = np.full(5, np.inf)
    ring = ring_of(never, 10)
    ring.push(never[None, :])
    assert measure(Grid(never), ring.counts(0), ring.values(0)).wasserstein is None
