"""How much each parameter of a sweep says about a metric: permutation importance of a random forest, out of fold.

A random forest (Breiman 2001) learns the metric from the parameters of four fifths of the runs, five times over. Of the fifth
that it has not seen, one parameter after another is shuffled: what the forest then explains less of the metric's variance is
the parameter's importance (Breiman 2001, section 10; scikit-learn, "Permutation feature importance"). Out of fold, so that
what the forest learnt by heart counts for nothing. Beside it stands Spearman's rank correlation, which has a direction.

What it cannot tell: parameters that go together share their importance, and what was never varied has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlbox.records import Record

if TYPE_CHECKING:
    import numpy as np

LEAST_RUNS = 20
"""Below this a forest out of fold says nothing that could be told from chance."""
SOLID_RUNS = 50
"""From here on the order of the first few is not likely to change with a few runs more."""
MOST_PARAMS = 60
FOLDS, REPEATS, TREES = 5, 5, 100
WEAK = 0.1
"""A share of explained variance below which no importance is to be trusted."""


class ParamImportance(Record, frozen=True, kw_only=True):
    """One parameter: by how much the explained share of variance falls when it is shuffled, and how far that varies by fold."""

    name: str
    importance: float
    spread: float
    values: int
    """How many different ones there are."""
    correlation: float | None = None
    """Spearman's rank correlation with the metric, of a parameter that is a number."""


class Importance(Record, frozen=True, kw_only=True):
    """What the parameters of some runs say about a metric."""

    metric: str
    runs: int
    explained: float | None = None
    """The share of the metric's variance that the forest explains of runs that it has not seen: R²; it may be negative."""
    params: tuple[ParamImportance, ...] = ()
    left_out: int = 0
    """Parameters past the first MOST_PARAMS."""
    refused: str = ""
    """Why there is nothing to tell."""


def importance(metric: str, runs: Sequence[tuple[Mapping[str, str], float]]) -> Importance:
    """Of runs as parameters and value of the metric; those without a finite value are left out."""
    known = [(params, value) for params, value in runs if math.isfinite(value)]
    if len(known) < LEAST_RUNS:
        short = f"{len(known)} of these runs have a value of {metric}, and fewer than {LEAST_RUNS} cannot be told from chance."
        return Importance(metric=metric, runs=len(known), refused=short)
    varied = _varied([params for params, _ in known])
    if not varied:
        return Importance(metric=metric, runs=len(known), refused="No parameter differs between these runs.")
    values = [value for _, value in known]
    if min(values) == max(values):
        return Importance(metric=metric, runs=len(known), refused=f"{metric} is the same in all of these runs.")
    return _measure(metric, [params for params, _ in known], values, varied)


def _varied(params: Sequence[Mapping[str, str]]) -> list[str]:
    names = sorted({name for one in params for name in one})
    return [name for name in names if len({one.get(name) for one in params}) > 1]


def _measure(
    metric: str, params: Sequence[Mapping[str, str]], values: Sequence[float], varied: list[str]
) -> Importance:
    import numpy as np

    names = varied[:MOST_PARAMS]
    columns = [_column([one.get(name) for one in params]) for name in names]
    x, y = np.array([column for column, _ in columns], dtype=float).T, np.array(values, dtype=float)
    falls, explained = _out_of_fold(x, y)
    found = [
        ParamImportance(
            name=name,
            importance=float(falls[:, at].mean()),
            spread=float(falls[:, at].std()),
            values=len({one.get(name) for one in params}),
            correlation=_correlation(x[:, at], y) if columns[at][1] else None,
        )
        for at, name in enumerate(names)
    ]
    found.sort(key=lambda one: -one.importance)
    return Importance(
        metric=metric, runs=len(y), explained=explained, params=tuple(found), left_out=len(varied) - len(names)
    )


def _column(values: Sequence[str | None]) -> tuple[list[float], bool]:
    """Values as the forest takes them: numbers, or the places of texts in their order; what is missing is NaN."""
    try:
        return [math.nan if value is None else _finite(value) for value in values], True
    except ValueError:
        order = {value: place for place, value in enumerate(sorted({value for value in values if value is not None}))}
        return [math.nan if value is None else float(order[value]) for value in values], False


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e30:  # a forest counts in 32 bits
        raise ValueError(text)
    return value


def _out_of_fold(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """By fold and parameter how much less is explained, and what is explained in all."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    spread = float(((y - y.mean()) ** 2).mean())
    falls, errors = [], np.empty(len(y))
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0).fit(x[seen], y[seen])
        errors[unseen] = (forest.predict(x[unseen]) - y[unseen]) ** 2
        shuffled = np.concatenate([_shuffled(x[unseen], at, rng) for at in range(x.shape[1]) for _ in range(REPEATS)])
        wrong = (forest.predict(shuffled).reshape(x.shape[1], REPEATS, -1) - y[unseen]) ** 2
        falls.append((wrong.mean(axis=(1, 2)) - errors[unseen].mean()) / spread)
    return np.array(falls), float(1 - errors.mean() / spread)


def _shuffled(x: np.ndarray[Any, Any], at: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    copy = x.copy()
    copy[:, at] = rng.permutation(copy[:, at])
    return copy


def _correlation(column: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float | None:
    import numpy as np
    from scipy.stats import spearmanr

    known = np.isfinite(column)
    if known.sum() < 3 or column[known].min() == column[known].max():
        return None
    found = float(spearmanr(column[known], y[known]).statistic)
    return found if math.isfinite(found) else None
