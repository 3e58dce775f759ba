"""Why a model drifts, in sentences: when it was trained and when it is served, and where the values of its features went.

It measures nothing of its own: the words repeat what the last check found, and when the rows of the training data were.
"""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from datetime import datetime, timedelta

from mlbox.records import DatasetVersion, DriftResult
from mlbox.records.distances import distance

NAMED = 3
"""Features that are told of, those that drift most."""
YEAR = timedelta(days=365)


def explain(results: Sequence[DriftResult], dataset: DatasetVersion | None) -> list[str]:
    """Of the last check of a model, and the data that its version learned from, where these are known; nothing without drift."""
    drifting = [result for result in results if result.verdict in ("alert", "investigate")]
    drifting.sort(key=lambda result: (result.verdict != "alert", -(result.statistic or 0)))
    if not drifting:
        return []
    return [*_season(drifting[0], dataset), *(words for one in drifting[:NAMED] if (words := moved(one)))]


def _season(result: DriftResult, dataset: DatasetVersion | None) -> list[str]:
    """How the time of what is served lies to that of what was learned from."""
    if dataset is None or dataset.event_from is None or dataset.event_to is None or result.start is None:
        return []
    trained = f"{dataset.ref} has rows of {_day(dataset.event_from)} to {_day(dataset.event_to)}"
    served = f"what is served is of {_day(result.start)} to {_day(result.at)}"
    found = [f"{trained}; {served}."]
    known = _months(dataset.event_from, dataset.event_to)
    unseen = [month for month in _months(result.start, result.at) if month not in known]
    if unseen:
        names = [calendar.month_name[month] for month in unseen]
        found.append(f"It never saw {_listed(names)}: where the values go by the season, these are new to it.")
    return found


def _months(first: datetime, last: datetime) -> list[int]:
    """The months of the year from one moment to before another, in their order."""
    if last - first >= YEAR:
        return list(range(1, 13))
    start = first.year * 12 + first.month - 1
    end = last - timedelta(microseconds=1)
    return [at % 12 + 1 for at in range(start, max(start, end.year * 12 + end.month - 1) + 1)]


def moved(result: DriftResult) -> str:
    """Where a feature's values went, in a sentence; empty where that is not known."""
    found = result.measures
    if found is None or found.median is None or found.reference_median is None:
        return ""
    before, now = found.reference_median, found.median
    where = "is higher" if now > before else "is lower" if now < before else "is spread otherwise"
    middle = f"half of its values are above {now:.4g}" + (f", {before:.4g} in training" if now != before else "")
    outside = f"; {found.out_of_range:.0%} are beyond all of training" if found.out_of_range >= 0.01 else ""
    return f"{result.feature} {where}: {middle}{outside} (D = {distance(result.statistic or 0, 2)})."


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
