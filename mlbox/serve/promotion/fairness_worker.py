"""The arithmetic of fairness, in a process of its own: rates by group with intervals, and how far the groups lie apart.

The rates' differences and ratios are fairlearn's (https://fairlearn.org, MIT); intervals of rates are Wilson's, those of an AUC
DeLong's.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.records import FairnessColumn, FairnessGroup, Rate
from mlbox.serve.promotion import compare

if TYPE_CHECKING:
    import numpy as np

LEAST_ROWS = 30
"""A smaller group is counted and not judged."""


def column(
    name: str, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, values: list[str], threshold: float
) -> FairnessColumn:
    """One column: labels of 0 and 1, scores and the number of each row's group [N], and what the groups are called."""
    import numpy as np

    truth, selected = labels == 1, scores >= threshold
    order = np.argsort(-np.bincount(groups, minlength=len(values)), kind="stable")
    found = []
    for code in order:
        here = groups == code
        if here.any():
            found.append(_group(values[code], truth[here], selected[here], scores[here]))
    judged = {group.group: group for group in found if group.judged}
    names = np.array(values)[groups]
    rows = np.isin(names, list(judged))
    apart, note = _apart(truth[rows], selected[rows], names[rows], judged)
    return FairnessColumn(column=name, groups=tuple(found), note=note, **apart)


def _group(name: str, truth: np.ndarray, selected: np.ndarray, scores: np.ndarray) -> FairnessGroup:
    rows, positives = len(truth), int(truth.sum())
    counted = FairnessGroup(group=name, rows=rows, positives=positives, judged=rows >= LEAST_ROWS)
    if not counted.judged:
        return counted
    chosen, hits = int(selected.sum()), int((truth & selected).sum())
    return msgspec.structs.replace(
        counted,
        selection_rate=_rate(chosen, rows),
        true_positive_rate=_rate(hits, positives),
        false_positive_rate=_rate(chosen - hits, rows - positives),
        precision=_rate(hits, chosen),
        auc=_auc(truth, scores),
    )


def _rate(hits: int, of: int) -> Rate | None:
    from scipy import stats

    if not of:
        return None
    interval = stats.binomtest(hits, of).proportion_ci(compare.CONFIDENCE, method="wilson")
    return Rate(value=hits / of, low=float(interval.low), high=float(interval.high))


def _auc(truth: np.ndarray, scores: np.ndarray) -> Rate | None:
    found = compare.auc_interval(truth, scores)
    return Rate(value=found[0], low=found[1], high=found[2]) if all(map(math.isfinite, found)) else None


def _apart(
    truth: np.ndarray, selected: np.ndarray, names: np.ndarray, judged: dict[str, FairnessGroup]
) -> tuple[dict[str, Any], str]:
    """How far the judged groups lie apart, and why a figure is missing: what cannot be said of one group is said of none."""
    from fairlearn import metrics

    if len(judged) < 2:
        return {}, f"{len(judged) or 'no'} group has {LEAST_ROWS} rows or more, and it takes two to compare"
    notes, given = [], {"sensitive_features": names}
    found = {"parity_difference": float(metrics.demographic_parity_difference(truth, selected, **given))}
    if selected.any():
        found["parity_ratio"] = float(metrics.demographic_parity_ratio(truth, selected, **given))
    else:
        notes.append("nobody is selected")
    lacking = {
        "positives": [name for name, group in judged.items() if group.true_positive_rate is None],
        "negatives": [name for name, group in judged.items() if group.false_positive_rate is None],
    }
    if not lacking["positives"]:
        found["equal_opportunity_difference"] = float(metrics.equal_opportunity_difference(truth, selected, **given))
    if not any(lacking.values()):
        found["equalized_odds_difference"] = float(metrics.equalized_odds_difference(truth, selected, **given))
    notes += [f"{', '.join(groups)} has no {what}" for what, groups in lacking.items() if groups]
    return found, "; ".join(notes)


def main() -> None:
    """Judge what stdin describes; the columns go to stdout as JSON."""
    import numpy as np

    task = msgspec.json.decode(sys.stdin.buffer.read())
    with np.load(task["rows"], allow_pickle=False) as rows:
        found = [
            column(name, rows["labels"], rows["scores"], rows[f"groups{place}"], values, task["threshold"])
            for place, (name, values) in enumerate(task["columns"])
        ]
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
