"""What a check says of each feature of a version: D and its verdict, and beside it all that helps to see why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from mlbox.records import DriftResult
from mlbox.serve.monitoring import drift
from mlbox.serve.monitoring.live_window import LiveWindow
from mlbox.serve.monitoring.measures import adjusted, measure

LEVEL = 0.01
"""The false discovery rate at which a D to investigate is told to people."""
Since = Callable[[str], datetime | None]
"""Since which check a feature was never below the threshold; None where the last one was."""


def results(window: LiveWindow, at: datetime, minimum: int, suspected_since: Since) -> list[DriftResult]:
    """Of every feature of the reference, and of those that the version has and the reference does not."""
    found = [_result(window, number, at, minimum) for number in range(len(window.names))]
    found = _corrected(found, window.start, suspected_since)
    return found + [_absent(window, name, at) for name in window.version.features if name not in window.names]


def _result(window: LiveWindow, number: int, at: datetime, minimum: int) -> DriftResult:
    compared, grid = window.ring.compare(number), window.grids[number]
    verdict = drift.verdict(compared, minimum=minimum)
    enough = verdict != "not_enough_data"
    return DriftResult(
        model=window.version.model,
        version=window.version.version,
        feature=window.names[number],
        statistic=compared.statistic if enough else None,
        p_value=compared.p_value if enough else None,
        verdict=verdict,
        reference_rows=compared.reference_rows,
        current_rows=compared.current_rows,
        reference_missing=compared.reference_missing,
        current_missing=compared.current_missing,
        missing_risen=drift.missing_risen(compared, minimum=minimum),
        at=at,
        start=window.start,
        sample=window.sample,
        reference=grid.state,
        measures=measure(grid, window.ring.counts(number), window.ring.values(number)) if enough else None,
    )


def _absent(window: LiveWindow, name: str, at: datetime) -> DriftResult:
    """A feature that nothing is known of: no number, or no column of what was learned from."""
    return DriftResult(
        model=window.version.model,
        version=window.version.version,
        feature=name,
        statistic=None,
        p_value=None,
        verdict="not_enough_data",
        reference_rows=0,
        current_rows=0,
        reference_missing=0,
        current_missing=0,
        at=at,
        start=window.start,
        sample=window.sample,
        reference="absent",
    )


def _corrected(found: list[DriftResult], start: datetime | None, suspected_since: Since) -> list[DriftResult]:
    """With p-values that know how many features were looked at, and what of them is worth telling."""
    tested = [result for result in found if result.p_value is not None]
    corrected = dict(
        zip((r.feature for r in tested), adjusted([r.p_value or 0.0 for r in tested]), strict=True),
    )
    return [
        msgspec.structs.replace(
            result,
            p_adjusted=corrected.get(result.feature),
            confirmed=result.verdict == "investigate"
            and (corrected[result.feature] <= LEVEL or _lasts(suspected_since(result.feature), start)),
        )
        for result in found
    ]


def _lasts(since: datetime | None, start: datetime | None) -> bool:
    """Whether a check whose window has no row of this one's said so as well, and none since said otherwise."""
    return since is not None and start is not None and since < start
