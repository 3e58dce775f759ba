"""A domain classifier: can what was served be told from what was learned from, by all features together?

Drift of single features cannot see that two of them no longer go together. A classifier that is asked which side a row is of
can: its AUC on rows that it did not learn from is 0.5 where nothing has changed. Source: D. Lopez-Paz, M. Oquab, "Revisiting
classifier two-sample tests", ICLR 2017; the interval is J. Hanley's and B. McNeil's, Radiology 143 (1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import DomainFeature, DomainResult, ModelVersion
from mlbox.serve.predictions.window import Window

if TYPE_CHECKING:
    import numpy as np

ROWS = 5000
"""Of either side, at most."""
FOLDS = 3
TREES = 40
APART = 0.55
NAMED = 10
LARGEST = 1e300
"""What is infinite counts as this: a tree takes no infinities."""


def tell_apart(
    version: ModelVersion,
    reference: Mapping[str, np.ndarray],
    found: Window,
    *,
    since: datetime | None,
    at: datetime,
    minimum: int,
    seed: int = 0,
) -> DomainResult:
    """Compare a reference [N] by feature with rows of the log; raises InvalidInput for too few rows on a side."""
    import numpy as np

    names = tuple(reference)
    before = np.stack([reference[name] for name in names], axis=1) if names else np.empty((0, 0))
    empty = np.full(found.rows, np.nan)
    now = np.stack([found.features.get(name, empty) for name in names], axis=1) if names else np.empty((0, 0))
    if min(len(before), len(now)) < minimum:
        raise InvalidInput(
            f"{len(before):,} rows of training and {len(now):,} that were served are too few.",
            hint=f"At least {minimum} are needed on either side; choose a longer window.",
            field="window_seconds",
        )
    random = np.random.default_rng(seed)
    rows = min(len(before), len(now), ROWS)
    sides = [side[random.choice(len(side), rows, replace=False)] for side in (before, now)]
    values = np.clip(np.concatenate(sides), -LARGEST, LARGEST)
    truth = np.repeat([0, 1], rows)
    auc, importance = _judged(values, truth, random)
    half = 1.96 * _deviation(auc, rows)
    most = np.argsort(-importance, kind="stable")[:NAMED]
    return DomainResult(
        model=version.model,
        version=version.version,
        rows=rows,
        auc=auc,
        low=max(0.0, auc - half),
        high=min(1.0, auc + half),
        verdict="apart" if auc - half > APART else "same",
        features=tuple(
            DomainFeature(feature=names[place], importance=float(importance[place]))
            for place in most
            if importance[place] > 0
        ),
        since=since,
        at=at,
    )


def _judged(values: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> tuple[float, np.ndarray]:
    """AUC over all folds, and by how much that of the last one falls where each feature is shuffled."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    there = np.flatnonzero(~np.isnan(values).all(axis=0))  # trees take no column without a value
    fall = np.zeros(values.shape[1])
    if not len(there):
        return 0.5, fall
    values = values[:, there]
    scores = np.empty(len(truth))
    model: Any = None
    held = np.empty(0, int)
    for learned, held in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(values, truth):
        model = HistGradientBoostingClassifier(max_iter=TREES, max_leaf_nodes=15, early_stopping=False, random_state=0)
        model.fit(values[learned], truth[learned])
        scores[held] = model.predict_proba(values[held])[:, 1]
    rows, base = values[held], float(roc_auc_score(truth[held], scores[held]))
    for place, column in enumerate(there):
        kept = rows[:, place].copy()
        rows[:, place] = random.permutation(kept)
        fall[column] = base - roc_auc_score(truth[held], model.predict_proba(rows)[:, 1])
        rows[:, place] = kept
    return float(roc_auc_score(truth, scores)), fall


def _deviation(auc: float, rows: int) -> float:
    """Of an AUC over so many rows of either class."""
    both, twice = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    return math.sqrt(max(0.0, auc * (1 - auc) + (rows - 1) * (both + twice - 2 * auc * auc)) / rows / rows)
