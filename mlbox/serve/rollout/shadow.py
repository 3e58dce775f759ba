"""A shadow beside the champion, in figures that a person reads: agreement, scores, failures, and time on the same requests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlbox.records import Paired, ShadowFigures

GROWTH = 1.05
"""A bucket of time is five percent wide."""
LEAST_MS = 1e-3


def time_bucket(milliseconds: float) -> int:
    """The bucket of a time, or of a difference of times without its sign."""
    return round(math.log(max(milliseconds, LEAST_MS)) / math.log(GROWTH))


def figures_of(paired: Paired, paired_in: Mapping[str, Paired]) -> tuple[ShadowFigures, ...]:
    """What pairs say of a shadow: over all requests, then by segment, the largest first."""
    ordered = sorted(paired_in.items(), key=lambda item: (-item[1].rows - item[1].failed, item[0]))
    return (_figures("", paired), *(_figures(name, found) for name, found in ordered))


def diverges(figures: tuple[float, float], limits: tuple[float | None, float | None]) -> bool:
    """Whether the share of rows decided otherwise, or the mean difference of scores, is beyond its limit."""
    return any(limit is not None and figure > limit for limit, figure in zip(limits, figures, strict=True))


def _figures(segment: str, paired: Paired) -> ShadowFigures:
    rows, compared, asked = paired.rows, paired.compared, paired.rows + paired.failed
    later = _signed(paired)
    return ShadowFigures(
        segment=segment,
        rows=rows,
        failed=paired.failed,
        failed_share=paired.failed / asked if asked else None,
        invalid=paired.invalid,
        agreed_share=paired.agreed_share,
        mean_difference=paired.mean if compared else None,
        leaning=paired.leaning / compared if compared else None,
        most=paired.most,
        bins=paired.bins,
        requests=sum(count for _, count in later),
        champion_p95_ms=_quantile(_times(paired.champion_ms), 0.95),
        shadow_p95_ms=_quantile(_times(paired.shadow_ms), 0.95),
        slower_p50_ms=_quantile(later, 0.5),
        slower_p95_ms=_quantile(later, 0.95),
        slower_p99_ms=_quantile(later, 0.99),
    )


def _times(buckets: Mapping[int, int]) -> list[tuple[float, int]]:
    return [(GROWTH**bucket, count) for bucket, count in sorted(buckets.items())]


def _signed(paired: Paired) -> list[tuple[float, int]]:
    """Differences of times in their order, those on which the shadow was faster first."""
    faster = [(-value, count) for value, count in reversed(_times(paired.faster))]
    return [*faster, *_times(paired.slower)]


def _quantile(counted: Sequence[tuple[float, int]], q: float) -> float | None:
    wanted = math.ceil(q * sum(count for _, count in counted))
    seen = 0
    for value, count in counted:
        seen += count
        if seen >= wanted:
            return value
    return None
