"""Drift over any span of domain time, on demand: the same comparison as a check's, of other rows, and nothing is kept of it.

By the segments of one feature it is a comparison of each segment with the same segment of training. The p-value is exact where it
is asked for: scipy counts the lattice paths, which takes 20 to 60 ms a feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from mlbox.clock import Clock
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import DomainResult, DriftResult, ModelVersion
from mlbox.serve.monitoring import domain, drift, judge
from mlbox.serve.monitoring.live_window import LiveWindow
from mlbox.serve.monitoring.measures import adjusted
from mlbox.serve.monitoring.monitor import Monitor
from mlbox.serve.monitoring.reference import SCORE
from mlbox.serve.predictions.cuts import cut_of
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.window import Window
from mlbox.store.registry.registry import Registry

if TYPE_CHECKING:
    import numpy as np

MOST_VALUES = 10_000_000
"""Rows times features that are looked at: the newest of a span."""
EXACT_ROWS = 10_000
"""Rows whose p-value is exact."""


class Spans:
    """Comparisons that nobody waits for every minute."""

    def __init__(
        self,
        registry: Registry,
        monitor: Monitor,
        predictions: PredictionLog,
        clock: Clock,
        *,
        minimum: int = drift.MINIMUM,
    ) -> None:
        self._registry = registry
        self._monitor = monitor
        self._predictions = predictions
        self._clock = clock
        self._minimum = minimum

    def drift(
        self,
        model: str,
        *,
        hold: timedelta,
        until: datetime | None = None,
        feature: str | None = None,
        segment: str | None = None,
        exact: bool = False,
    ) -> list[DriftResult]:
        """Of every feature over the span of a length that ends at `until`, by default now; the largest statistic first.

        `feature` leaves out all others. `segment` names a feature: each of its segments by itself (see `cuts`). Raises
        NotFound for what the version in Production does not have, InvalidInput for a span of no length.
        """
        if hold <= timedelta(0):
            raise InvalidInput("A window has a length.", hint="Such as 7d.", field="window_seconds")
        version = self._registry.serving(model)
        reference = self._monitor.reference(version)
        for field, name in (("feature", feature), ("segment", segment)):
            if name is not None and name not in reference:
                raise NotFound(
                    f"{version.ref} has no training values of {name[:120]!r}.",
                    hint=f"`mlbox monitor show {model}` lists its features.",
                    field=field,
                )
        end = until or self._clock.now()
        limit = EXACT_ROWS if exact else max(EXACT_ROWS, MOST_VALUES // max(1, len(reference)))
        # `until` is left out where it is now: what was logged in this very moment belongs to the window.
        found = self._predictions.window(model, limit=limit, since=end - hold, until=until)
        results: list[DriftResult] = []
        for words, before, now in _segments(reference, found, segment):
            chosen = before if feature is None else {feature: before[feature]}
            results += self._compared(version, chosen, now, end, words, exact)
        if feature is not None:
            results = [one for one in results if one.feature == feature]
        return sorted(results, key=lambda result: (result.segment, -(result.statistic or 0), result.feature))

    def _compared(
        self,
        version: ModelVersion,
        reference: dict[str, np.ndarray],
        found: Window,
        at: datetime,
        segment: str,
        exact: bool,
    ) -> list[DriftResult]:
        window = LiveWindow(version, reference, max(1, found.rows))
        window.take(found)
        results = judge.results(window, at, self._minimum, lambda _: None)
        if exact:
            results = _exactly(results, window)
        return [msgspec.structs.replace(one, segment=segment) for one in results]

    def domain(self, model: str, *, hold: timedelta) -> DomainResult:
        """Have a classifier tell training and a span apart; raises NotFound, or InvalidInput for too few rows."""
        version = self._registry.serving(model)
        reference = {name: values for name, values in self._monitor.reference(version).items() if name != SCORE}
        since = self._clock.now() - hold
        found = self._predictions.window(model, limit=domain.ROWS, since=since)
        return domain.tell_apart(version, reference, found, since=since, at=self._clock.now(), minimum=self._minimum)


def _segments(
    reference: dict[str, np.ndarray], found: Window, segment: str | None
) -> Iterator[tuple[str, dict[str, np.ndarray], Window]]:
    """Both sides of each segment, the most frequent first; of all rows where none is named."""
    import numpy as np

    if segment is None:
        yield "", reference, found
        return
    now = found.scores if segment == SCORE else found.features.get(segment, np.full(found.rows, np.nan))
    cut = cut_of(now, reference[segment])
    before, after = cut.places(reference[segment]), cut.places(now)
    counts = np.bincount(after[after >= 0], minlength=len(cut.labels))
    for place in np.argsort(-counts, kind="stable"):
        words = f"{segment}={cut.labels[place]}"
        yield words, {name: side[before == place] for name, side in reference.items()}, _only(found, after == place)


def _only(found: Window, rows: np.ndarray) -> Window:
    import numpy as np

    kept: list[int] = np.flatnonzero(rows).tolist()
    return Window(
        {name: values[kept] for name, values in found.features.items()},
        found.scores[kept],
        found.versions[kept],
        [found.ids[place] for place in kept],
        np.asarray(found.domain_us)[kept],
        np.asarray(found.shares)[kept] if len(found.shares) else (),
    )


def _exactly(results: Sequence[DriftResult], window: LiveWindow) -> list[DriftResult]:
    """With exact p-values, corrected anew."""
    exact: Mapping[str, float] = {
        one.feature: _exact_p(window, window.names.index(one.feature)) for one in results if one.p_value is not None
    }
    corrected = dict(zip(exact, adjusted(list(exact.values())), strict=True))
    return [
        msgspec.structs.replace(one, p_value=exact.get(one.feature), p_adjusted=corrected.get(one.feature))
        for one in results
    ]


def _exact_p(window: LiveWindow, number: int) -> float:
    import numpy as np
    from scipy import stats

    grid = window.grids[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where counting overflows scipy takes the limit, as we do
        found = stats.ks_2samp(np.repeat(grid.points, grid.counts), window.ring.values(number), method="exact")
    return float(found.pvalue)
