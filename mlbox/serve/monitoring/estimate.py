"""How well a classifier does before its labels are there, by how sure it is of itself: confidence-based performance estimation.

Where a score is the probability that a row is positive, the expected counts of right and wrong answers follow from the scores
alone, and so do accuracy, AUC, log loss and Brier score. It holds under any shift of the inputs, as long as the scores stay
probabilities; it cannot see that what the inputs mean has changed. The interval is of the chance of the labels: 95 % of
labels drawn from the scores give a figure within it. Source: the method CBPE of NannyML's documentation; the expected ROC is
T. Fawcett's, "An introduction to ROC analysis", Pattern Recogn. Lett. 27 (2006), with counts that are expected instead of
observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlbox.records import EstimatedMetric

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200
MINIMUM = 100
"""Fewer scores say too little."""


def estimate(scores: np.ndarray, *, seed: int = 0) -> dict[str, EstimatedMetric]:
    """Metrics of scores [N], each a probability from 0 to 1; none of them where there are too few."""
    import numpy as np

    if len(scores) < MINIMUM:
        return {}
    p = np.sort(scores.astype(np.float64))
    labels = (np.random.default_rng(seed).random((DRAWS, len(p))) < p).astype(np.float64)
    right, wrong = _contributions(p)
    expected = {name: float((p @ right[name] + (1 - p) @ wrong[name]) / len(p)) for name in right}
    drawn = {name: (labels @ (right[name] - wrong[name]) + wrong[name].sum()) / len(p) for name in right}
    expected["auc"], drawn["auc"] = expected_auc(p, p), auc_of_labels(p, labels)
    return {
        name: EstimatedMetric(
            value=value, low=float(np.nanquantile(drawn[name], 0.025)), high=float(np.nanquantile(drawn[name], 0.975))
        )
        for name, value in expected.items()
        if np.isfinite(value)
    }


def _contributions(p: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What each row adds to each metric, where it is positive and where it is not."""
    import numpy as np

    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    guess = (p >= 0.5).astype(np.float64)
    positive = {"accuracy": guess, "log_loss": -np.log(clipped), "brier": (1 - p) ** 2}
    return positive, {"accuracy": 1 - guess, "log_loss": -np.log1p(-clipped), "brier": p**2}


def expected_auc(p: np.ndarray, positive: np.ndarray) -> float:
    """Area under the curve of sorted scores [N], each positive with a probability [N]; ties are a line. NaN for one class."""
    import numpy as np

    ends = np.flatnonzero(np.append(p[1:] != p[:-1], True))
    ones, zeros = np.cumsum(positive)[ends], np.cumsum(1 - positive)[ends]
    before = np.append(0.0, ones[:-1])
    total = float(ones[-1] * zeros[-1])
    area = float(((ones[-1] - (before + ones) / 2) * np.diff(zeros, prepend=0.0)).sum())
    return area / total if total > 0 else float("nan")


def auc_of_labels(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same of sorted scores [N] with labels 0 or 1 [D, N], each by its ranks (Mann and Whitney); NaN for one class."""
    import numpy as np

    starts = np.flatnonzero(np.append(True, p[1:] != p[:-1]))
    sizes = np.diff(np.append(starts, len(p)))
    ranks = np.repeat(starts + (sizes + 1) / 2, sizes)
    ones = labels.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (labels @ ranks - ones * (ones + 1) / 2) / (ones * (len(p) - ones))
    return found
