"""Label sets, claims, and what is held."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from mlbox.records.base import Record
from mlbox.records.features import Column

SourceKind = Literal["feedback", "annotation", "delayed", "suggestion"]
"""Who claims: users who say so, people asked to look, outcomes that come in later, a model. A suggestion never is the truth."""


LabelPolicy = Literal["latest", "priority", "majority", "weighted"]
"""Which claim counts: the last; of the most trusted source; what most say; what most say by weight. A tie is unresolved."""


class LabelSource(Record, frozen=True, kw_only=True):
    """Where labels come from."""

    name: str
    kind: SourceKind = "delayed"
    weight: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    """Of each of its votes, under the policy `weighted`."""
    fields: dict[str, str] = {}
    """Where a webhook's body has each column of a label: JSON pointers, such as `/customer/id`."""
    each: str = ""
    """The pointer to a list of events in the body, which `fields` are looked up in; none: the body itself."""


class LabelSet(Record, frozen=True, kw_only=True):
    """Outcomes by entity and time, as several sources claim them; every claim is kept."""

    name: str
    keys: tuple[Column, ...]
    value: Column
    classes: tuple[str | int | bool, ...] = ()
    """All that a value may be; empty for anything in range."""
    minimum: float | None = None
    maximum: float | None = None
    sources: tuple[LabelSource, ...] = ()
    """The most trusted first; none stands for one named `upload`."""
    policy: LabelPolicy = "latest"
    policy_version: int = 1
    """Counts the changes of policy and sources; the server's."""
    entities: str = ""
    """A source whose rows say which entities there are; a label of another is held back."""
    horizon_seconds: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    """How far after a prediction its event may be, where the prediction does not say which one it is about; None: any."""
    published: str = ""
    """The source that what counts is written to; the server's."""
    description: str = ""
    rows: int = 0
    created_at: datetime | None = None

    @property
    def policy_ref(self) -> str:
        """As a dataset names it: `majority@2`."""
        return f"{self.policy}@{self.policy_version}"


class Labelled(Record, frozen=True, kw_only=True):
    """What became of labels: how many are new, were there already, and are held back."""

    rows: int
    duplicates: int = 0
    quarantined: int = 0

    def __add__(self, other: Labelled) -> Labelled:
        return Labelled(
            rows=self.rows + other.rows,
            duplicates=self.duplicates + other.duplicates,
            quarantined=self.quarantined + other.quarantined,
        )


class HeldLabel(Record, frozen=True, kw_only=True):
    """A label that was held back, as it was sent, and why."""

    id: int
    source: str
    row: dict[str, Any]
    number: int | None = None
    """Which row of what was sent it was, counted from 1."""
    reasons: tuple[str, ...]
    by: str
    at: datetime


class Claim(Record, frozen=True, kw_only=True):
    """What a source says of an item: its last word, or that of one of its annotators."""

    source: str
    annotator: str | None = None
    value: str | int | float | bool
    claimed_at: datetime


class LabelItem(Record, frozen=True, kw_only=True):
    """Something that labels are about: an entity at a time; what is claimed of it, and what counts, if that is decided."""

    keys: dict[str, Any]
    event_time: datetime
    value: str | int | float | bool | None = None
    claims: tuple[Claim, ...] = ()
    """Those of the most trusted sources, where there are too many."""
    claim_count: int = 0


class SourceCounts(Record, frozen=True, kw_only=True):
    """The labels of one source that arrived on a day, and how long after their events they were known."""

    source: str
    day: str
    rows: int
    delay_seconds: float
    """The median."""
    late_seconds: float
    """The 95th percentile."""


class Agreement(Record, frozen=True, kw_only=True):
    """How far those who label agree, each item of two or more claims counted once; 1 is always, 0 as if by chance."""

    items: int
    raters: int
    krippendorff_alpha: float | None
    fleiss_kappa: float | None
    """None unless all items have the same number of claims."""
    cohen_kappa: dict[str, float | None]
    """For each pair `a | b` of raters that share items."""
    by_rater: dict[str, float]
    """Share of an annotator's claims that are what the others of the item say."""
    by_class: dict[str, float | None]
    """Krippendorff's alpha of each class against all others."""
    confusion: dict[str, dict[str, dict[str, int]]]
    """For each pair of sources `a | b`: what a says, then what b says, then how often."""
