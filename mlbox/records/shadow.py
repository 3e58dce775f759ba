"""What a shadow and the champion answered to the same rows."""

from __future__ import annotations

from mlbox.records.base import Record

DIFFERENCES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)
"""Ends of the bins of absolute differences, the last of which is open."""


class Paired(Record, frozen=True, kw_only=True):
    """Rows that both answered, and how far apart."""

    rows: int = 0
    agreed: int = 0
    """Rows on which both scores lie on the same side of 0.5."""
    scoreless: int = 0
    """Rows on which neither has a finite score: that both have none is no agreement."""
    total: float = 0.0
    """Sum of the absolute differences of scores, where both are finite."""
    compared: int = 0
    """Rows where both are."""
    most: float = 0.0
    bins: tuple[int, ...] = (0,) * (len(DIFFERENCES) + 1)
    """Rows by absolute difference, up to each of `DIFFERENCES` and above the last."""
    leaning: float = 0.0
    """Sum of the shadow's scores less the champion's, where both are finite."""
    invalid: int = 0
    """Rows with a finite score of the champion's, and of the shadow one that is null or not finite."""
    failed: int = 0
    """Rows that the champion answered and the shadow failed on; they are in no other count."""
    slower: dict[int, int] = {}
    """Requests on which the shadow took as long or longer, by bucket of by how much (see `serve.shadow`)."""
    faster: dict[int, int] = {}
    """Requests on which it took less time, likewise."""
    champion_ms: dict[int, int] = {}
    """Requests by bucket of the champion's time."""
    shadow_ms: dict[int, int] = {}

    @property
    def mean(self) -> float:
        """The mean absolute difference."""
        return self.total / self.compared if self.compared else 0.0

    @property
    def disagreed(self) -> int:
        """Rows on which the two would decide otherwise."""
        return self.judged - self.agreed

    @property
    def judged(self) -> int:
        """Rows on which one has a score at least."""
        return self.rows - self.scoreless

    @property
    def agreed_share(self) -> float | None:
        """Of the judged rows; None where there is none."""
        return self.agreed / self.judged if self.judged else None

    @property
    def words(self) -> str:
        """As one would say it."""
        return _words(self.agreed_share, self.rows, self.mean, self.most)


class ShadowFigures(Record, frozen=True, kw_only=True):
    """A shadow and the champion on the same requests: all of them, or a segment's. Figures that are not there yet are None."""

    segment: str = ""
    """`column=value`; empty for all requests."""
    rows: int
    failed: int
    """Rows that the champion answered and the shadow failed on."""
    failed_share: float | None
    invalid: int = 0
    """Rows on which the champion's score is finite and the shadow's is not."""
    agreed_share: float | None
    """Of the rows that both answered, and one with a score at least: on the same side of 0.5."""
    mean_difference: float | None
    """Of the scores, absolute."""
    leaning: float | None
    """The shadow's scores less the champion's, in the mean."""
    most: float
    bins: tuple[int, ...]
    """Rows by absolute difference of the scores, up to each of `DIFFERENCES` and above the last."""
    requests: int
    champion_p95_ms: float | None
    shadow_p95_ms: float | None
    slower_p50_ms: float | None
    """Quantiles of the shadow's time less the champion's on the same request."""
    slower_p95_ms: float | None
    slower_p99_ms: float | None

    @property
    def words(self) -> str:
        """As one would say it."""
        return _words(self.agreed_share, self.rows, self.mean_difference or 0.0, self.most)


def _words(share: float | None, rows: int, mean: float, most: float) -> str:
    if share is None:
        return f"neither gives a score to compare on {rows:,} rows"
    return f"agrees on {share:.1%} of {rows:,} rows, scores {mean:.3g} apart in the mean, {most:.3g} at most"
