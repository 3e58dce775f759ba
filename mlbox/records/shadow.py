"""What a shadow and the champion answered to the same rows."""

from __future__ import annotations

from mlbox.records.base import Record

DIFFERENCES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)
"""Ends of the bins of absolute differences, the last of which is open."""


class Paired(Record, frozen=True, kw_only=True):
    """Rows that both answered, and how far apart."""

    rows: int = 0
    agreed: int = 0
    """Rows on which both scores lie on the same side of 0.5, or both are none."""
    total: float = 0.0
    """Sum of the absolute differences of scores, where both are finite."""
    compared: int = 0
    """Rows where both are."""
    most: float = 0.0
    bins: tuple[int, ...] = (0,) * (len(DIFFERENCES) + 1)
    """Rows by absolute difference, up to each of `DIFFERENCES` and above the last."""

    @property
    def mean(self) -> float:
        """The mean absolute difference."""
        return self.total / self.compared if self.compared else 0.0

    @property
    def disagreed(self) -> int:
        """Rows on which the two would decide otherwise."""
        return self.rows - self.agreed

    @property
    def words(self) -> str:
        """As one would say it."""
        share = self.agreed / self.rows if self.rows else 0.0
        return f"agrees on {share:.1%} of {self.rows:,} rows, scores {self.mean:.3g} apart in the mean, {self.most:.3g} at most"
