"""What is said of a feature beside D: how far, in which direction, and by what odd values. None of it decides a verdict.

Population stability index and Jensen-Shannon distance are over the same bins: tenths of the reference, or its values where they
are few. Sources: J. Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991); Y. Benjamini,
Y. Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57 (1995); S. S. Vallender, "Calculation of the
Wasserstein distance", Theory Probab. Appl. 18 (1974).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlbox.records import DriftMeasures, DriftShape

if TYPE_CHECKING:
    import numpy as np

    from mlbox.serve.monitoring.cells import Grid

BINS = 10
FEW = 20
"""A reference with at most so many values, all whole numbers, is one of categories."""
SHOWN = 5
"""New categories that are named."""
PICTURE = 20
"""Bins of a picture."""
TAIL = 0.01
"""The share on either end that a picture does not stretch for."""
BLOCKS = " ▁▂▃▄▅▆▇█"
FLOOR = 1e-4
"""The share that an empty bin counts as in the stability index, which is infinite for 0."""


def measure(grid: Grid, counts: np.ndarray, values: np.ndarray) -> DriftMeasures:
    """Of one feature: its reference, how many current values are in each of its cells, and these values [M], none missing.

    Neither side may be empty.
    """
    import numpy as np

    current = np.sort(values)
    categories = is_categorical(grid.points)
    before, now = binned(grid, counts, categories)
    beside = counts[0::2] if categories else np.zeros(1)
    return DriftMeasures(
        psi=stability(before, now),
        jensen_shannon=jensen_shannon(before, now),
        wasserstein=wasserstein(grid, current),
        chi_square_p=chi_square(before, now) if categories else None,
        new_share=float(beside.sum() / len(values)),
        new_values=tuple(np.setdiff1d(values, grid.points)[:SHOWN].tolist()) if beside.any() else (),
        out_of_range=float((counts[0] + counts[-1]) / len(values)),
        constant_share=commonest(current),
        reference_constant_share=float(grid.counts.max() / grid.values),
        median=float(current[len(current) // 2]),
        reference_median=float(np.repeat(grid.points, grid.counts)[grid.values // 2]),
        type_changed=bool(_whole(grid.points) and not _whole(current)),
        shape=shape(grid, current),
    )


def is_categorical(points: np.ndarray) -> bool:
    """Whether a reference of these distinct values is one of categories, as codes of classes and booleans are."""
    return len(points) <= FEW and _whole(points)


def _whole(values: np.ndarray) -> bool:
    import numpy as np

    return bool((values == np.floor(values)).all())


def binned(grid: Grid, counts: np.ndarray, categories: bool) -> tuple[np.ndarray, np.ndarray]:
    """Counts of both sides in the same bins: each category and all others, or tenths of the reference."""
    import numpy as np

    if categories:
        return np.append(grid.counts, 0), np.append(counts[1::2], counts[0::2].sum())
    ends = np.searchsorted(grid.below, grid.values * np.arange(1, BINS) / BINS)
    edges = np.unique(np.append(ends, grid.width - 1))
    return (
        np.diff(grid.below[edges], prepend=0),
        np.diff(np.cumsum(counts)[edges], prepend=0),
    )


def stability(before: np.ndarray, now: np.ndarray) -> float:
    """Population stability index of counts in the same bins."""
    import numpy as np

    p, q = (np.maximum(side / side.sum(), FLOOR) for side in (before, now))
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(before: np.ndarray, now: np.ndarray) -> float:
    """Jensen-Shannon distance, 0 to 1: the root of the divergence in bits."""
    import numpy as np
    from scipy.special import rel_entr

    p, q = before / before.sum(), now / now.sum()
    middle = (p + q) / 2
    bits = (rel_entr(p, middle) + rel_entr(q, middle)).sum() / (2 * np.log(2))
    return float(np.sqrt(max(0.0, bits)))


def wasserstein(grid: Grid, current: np.ndarray) -> float | None:
    """The first Wasserstein distance to sorted values, in the feature's own unit; of the finite values, None without any."""
    import numpy as np

    known = np.isfinite(grid.points)
    points, weights = grid.points[known], grid.counts[known]
    current = current[np.isfinite(current)]
    if not len(points) or not len(current):
        return None
    every = np.sort(np.concatenate((points, current)), kind="stable")  # two runs that are sorted: merged, not sorted
    heights = np.append(0, np.cumsum(weights))
    before = heights[np.searchsorted(points, every[:-1], "right")] / heights[-1]
    now = np.searchsorted(current, every[:-1], "right") / len(current)
    with np.errstate(over="ignore"):  # the distance of 1e308 and -1e308 is infinite
        total = float((np.abs(before - now) * np.diff(every)).sum())
    return total if np.isfinite(total) else None


def chi_square(before: np.ndarray, now: np.ndarray) -> float | None:
    """The p-value that both rows of counts are of one distribution; None where there is only one category."""
    import numpy as np
    from scipy.special import chdtrc

    table = np.array([before, now], float)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return None
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def commonest(current: np.ndarray) -> float:
    """The share of the value that is most frequent among sorted values: 1 where a sensor is stuck or a default is sent."""
    import numpy as np

    starts = np.flatnonzero(np.append(True, current[1:] != current[:-1]))
    return float(np.diff(np.append(starts, len(current))).max() / len(current))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini's and Hochberg's: to call all at or below q different is wrong for a share q of them, in the long run."""
    import numpy as np

    if not p_values:
        return []
    order = np.argsort(p_values)[::-1]
    ranks = np.arange(len(p_values), 0, -1)
    found = np.empty(len(p_values))
    found[order] = np.minimum.accumulate(np.asarray(p_values)[order] * len(p_values) / ranks)
    return [float(p) for p in np.minimum(found, 1)]


def shape(grid: Grid, current: np.ndarray) -> DriftShape | None:
    """Both sides in equal bins over where nearly all values are; of sorted values, None where no side has a finite one."""
    import numpy as np

    known = np.isfinite(grid.points)
    points, weights = grid.points[known], grid.counts[known]
    current = current[np.isfinite(current)]
    if not len(points) or not len(current):
        return None
    heights = np.cumsum(weights)
    ends = [points[np.searchsorted(heights, share * heights[-1])] for share in (TAIL, 1 - TAIL)]
    ends += [current[int(share * (len(current) - 1))] for share in (TAIL, 1 - TAIL)]
    low, high = float(min(ends)), float(max(ends))
    if not low < high or not np.isfinite(high - low):
        return None
    edges = np.linspace(low, high, PICTURE + 1)
    before = np.histogram(np.clip(points, low, high), bins=edges, weights=weights)[0]
    now = np.histogram(np.clip(current, low, high), bins=edges)[0]
    return DriftShape(low=low, high=high, before=tuple(map(int, before)), now=tuple(map(int, now)))


def picture(found: DriftShape) -> str:
    """Both sides in one line of text, which every channel can show."""
    sides = [("training", found.before), ("served", found.now)]
    drawn = [f"{name} {_blocks(counts)}" for name, counts in sides]
    return f"{', '.join(drawn)} from {found.low:.4g} to {found.high:.4g}"


def _blocks(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for count in counts)
