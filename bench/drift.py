"""The drift statistic: our integer Kolmogorov-Smirnov against scipy's `ks_2samp`, on 10,000 x 10,000 values.

The peer is called both as it comes (which here finds an exact p-value) and with its large-sample p-value; ours is timed with its
p-value too. The raw limit is numpy's sort of both samples, which no method can do without. Both are compared on samples with
ties, constants, infinities and of all sizes: scipy's D, times n·m, must round to our integer.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import scipy
from scipy import stats

from bench.harness import Report, interleave, median, options
from mlbox.serve.monitoring.drift import compare, verdict

ROWS = 10_000
CALLS = 5
"""Calls per measured value, so that the clock's own grain does not count."""
BOUND = 1e-12
"""How far scipy's floating-point D may lie from the exact fraction."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    repeats, pairs = (20, 300) if chosen.quick else (100, 3000)
    report = Report(
        "drift",
        conditions={
            "rows": f"{ROWS:,} x {ROWS:,}",
            "repeats": str(repeats),
            "pairs of samples compared": f"{pairs:,}",
            "scipy": scipy.__version__,
            "numpy": np.__version__,
        },
    )
    _speed(report, repeats)
    _equality(report, pairs)
    return report.finish()


def _speed(report: Report, repeats: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=ROWS), rng.normal(loc=0.05, size=ROWS)
    ours, asymptotic, default, sorting = (
        median(values) * 1000
        for values in interleave(
            repeats,
            lambda: _cpu(lambda: compare(a, b).p_value),
            lambda: _cpu(lambda: stats.ks_2samp(a, b, method="asymp")),
            lambda: _cpu(lambda: stats.ks_2samp(a, b)),
            lambda: _cpu(lambda: (np.sort(a), np.sort(b))),
        )
    )
    report.tell("sorting both samples (raw limit)", sorting, "ms")
    report.tell("ours, with p-value", ours, "ms")
    report.tell("scipy ks_2samp, as it comes", default, "ms")
    report.tell("scipy ks_2samp, large-sample p-value", asymptotic, "ms")
    report.at_least("scipy as it comes / ours", default / ours, 1, "times")
    report.at_least("scipy large-sample / ours", asymptotic / ours, 1, "times")
    report.tell("ours / sorting", ours / sorting, "times")


def _cpu(call: Callable[[], object]) -> float:
    """CPU seconds of one call: on a busy machine the wall clock would measure the others."""
    began = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - began) / CALLS


def _equality(report: Report, pairs: int) -> None:
    integers = verdicts = 0
    furthest = 0.0
    for a, b in _samples(pairs):
        ours = compare(a, b)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's p-value of tiny samples, which nothing is asked of here
            theirs = float(stats.ks_2samp(a, b, method="asymp").statistic)
        assert ours.distance is not None
        both = len(a) * len(b)
        integers += round(theirs * both) != ours.distance * both
        furthest = max(furthest, abs(theirs - float(ours.distance)))
        verdicts += verdict(ours, minimum=1) != _by_float(theirs)
    report.at_most("pairs whose integer differs from scipy's", integers, 0, "pairs")
    report.at_most("largest difference of D", furthest, BOUND, "")
    report.tell("pairs on which scipy's float falls on the other side of a threshold", verdicts, "pairs")


def _by_float(statistic: float) -> str:
    return "alert" if statistic > 0.2 else "investigate" if statistic > 0.1 else "ok"


def _samples(pairs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    for number in range(pairs):
        n, m = (int(size) for size in rng.integers(1, 2000, 2))
        kind = number % 4
        if kind == 0:
            yield rng.normal(size=n), rng.normal(loc=rng.uniform(0, 1), size=m)
        elif kind == 1:  # many ties
            yield rng.poisson(2, n).astype(float), rng.poisson(rng.uniform(1, 3), m).astype(float)
        elif kind == 2:  # constants and infinities
            odd = np.array([-np.inf, 0.0, 1.0, np.inf])
            yield rng.choice(odd, n), rng.choice(odd[: rng.integers(1, 5)], m)
        else:  # exactly on a threshold: of one side a tenth or two more is at 0
            more = 1 + number // 4 % 2
            tenths, scale = int(rng.integers(0, 11 - more)), int(rng.integers(1, 200))
            yield _zeros(tenths + more, scale), _zeros(tenths, scale)


def _zeros(tenths: int, scale: int) -> np.ndarray:
    return np.repeat([0.0, 1.0], [tenths * scale, (10 - tenths) * scale])


if __name__ == "__main__":
    sys.exit(main())
