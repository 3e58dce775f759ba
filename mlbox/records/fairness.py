"""Records of fairness: what is judged, by which columns, and what was found."""

from __future__ import annotations

from mlbox.records.base import Record


class FairnessSpec(Record, frozen=True, kw_only=True):
    """By which columns a version's answers are compared between groups, on which rows, and what may not be exceeded."""

    dataset: str
    """`NAME@vN`: rows that the version was not trained on."""
    hash: str = ""
    """Its content hash, which the rows must have; filled in when the policy is set."""
    label: str
    """The column with the truth, 0 and 1."""
    sensitive: tuple[str, ...]
    """Columns whose values are groups of people."""
    threshold: float = 0.5
    """From this score on a row is selected."""
    min_parity_ratio: float | None = 0.8
    """Of the lowest to the highest selection rate: the four-fifths rule. None asks for nothing, here and below."""
    max_parity_difference: float | None = None
    max_equalized_odds_difference: float | None = None
    max_equal_opportunity_difference: float | None = None


class Rate(Record, frozen=True, kw_only=True):
    """A figure of one group and its interval of 95 %."""

    value: float
    low: float
    high: float


class FairnessGroup(Record, frozen=True, kw_only=True):
    """What a version does with one group. None is what cannot be said, such as the precision where nobody is selected."""

    group: str
    rows: int
    positives: int
    judged: bool
    """False for a group that is too small: it is counted, and compared with nothing."""
    selection_rate: Rate | None = None
    true_positive_rate: Rate | None = None
    false_positive_rate: Rate | None = None
    precision: Rate | None = None
    auc: Rate | None = None


class FairnessColumn(Record, frozen=True, kw_only=True):
    """One sensitive column: its groups, largest first, and how far those that are judged lie apart."""

    column: str
    groups: tuple[FairnessGroup, ...]
    parity_difference: float | None = None
    parity_ratio: float | None = None
    equalized_odds_difference: float | None = None
    equal_opportunity_difference: float | None = None
    note: str = ""
    """Why a figure is missing."""


class Fairness(Record, frozen=True, kw_only=True):
    """A version's fairness on frozen rows."""

    model: str
    version: int
    spec: FairnessSpec
    columns: tuple[FairnessColumn, ...]
    breaches: tuple[str, ...] = ()
    """What exceeds its threshold or could not be measured, in words."""
    notes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The finding, as one would say it."""
        if self.breaches:
            return "; ".join(self.breaches)
        return "; ".join(
            f"{one.column}: selection rates within a ratio of {one.parity_ratio:.2f}"
            if one.parity_ratio is not None
            else f"{one.column}: {one.note}"
            for one in self.columns
        )
