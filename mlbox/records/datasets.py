"""Dataset versions, and what differs between two."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from mlbox.records.base import Record
from mlbox.records.features import Column


class DataFile(Record, frozen=True, kw_only=True):
    """One file of a dataset version."""

    path: str
    sha256: str
    size: int
    rows: int
    """0 where it is no table."""
    md5: str = ""
    """As DVC names it."""
    split: str = ""
    """Which part of the version it belongs to, such as train."""


class SplitPart(Record, frozen=True, kw_only=True):
    """One part of a split: so large a share of the entities, or the rows before a moment."""

    name: str
    share: Annotated[float, Meta(gt=0, le=1)] | None = None
    until: datetime | None = None


class DatasetSplit(Record, frozen=True, kw_only=True):
    """How rows are divided: by a hash of an entity's keys, so that all its rows are together, or by their event time."""

    by: Literal["hash", "time"]
    parts: tuple[SplitPart, ...]
    keys: tuple[str, ...] = ()


class VerifiedFile(Record, frozen=True, kw_only=True):
    """A file of a dataset version that was read again; what is wrong with it, if anything."""

    path: str
    error: str = ""


class ResumePoint(Record, frozen=True, kw_only=True):
    """Where a later version can go on from the files of this one: before a day, all of a part's files are whole."""

    day: datetime
    begins: dict[str, datetime]
    """By part, the first day of the files that are made anew."""
    rows: int
    """Before `day`."""
    unlabelled: int = 0
    facts: str
    """What was counted of those rows, as an artifact."""


class DatasetBasis(Record, frozen=True, kw_only=True):
    """How much of everything that a version was made from there was, so that a later one knows what has come since."""

    features: tuple[str, ...] = ()
    """By full reference."""
    source: str = ""
    """The spine's, of which each row is looked at alone; none where the rows are what is labelled."""
    rows: int = 0
    views: dict[str, int] = {}
    """How often each had been computed."""
    labels: int = 0
    resume: ResumePoint | None = None


class DatasetVersion(Record, frozen=True, kw_only=True):
    """An immutable, named, hashed table of training rows."""

    id: str
    name: str
    version: int
    hash: str
    """SHA-256 over the sorted manifest of the files' hashes."""
    files: tuple[DataFile, ...]
    columns: tuple[Column, ...]
    rows: int
    query: str
    parameters: dict[str, Any] = {}
    feature_service: str | None = None
    views: tuple[str, ...] = ()
    label_set: str | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    as_of: datetime | None = None
    """Arrival cut-off: nothing that became known later is in it."""
    label_policy: str | None = None
    """Which labels counted, such as `majority@2`."""
    backfilled: bool = False
    """Whether labels are in it whose times nobody but a declared backfill vouches for."""
    split: DatasetSplit | None = None
    parents: tuple[str, ...] = ()
    """Dataset versions that it was made from."""
    run_id: str | None = None
    job_id: str | None = None
    git_commit: str | None = None
    git_dirty: bool = False
    """Whether the code that made it had changes that are in no commit."""
    description: str = ""
    tags: dict[str, str] = {}
    """May change; all else may not."""
    statistics: dict[str, dict[str, Any]] = {}
    """Per column: nulls, min, max, mean, quantiles, histogram; of text the most frequent values."""
    software: dict[str, str] = {}
    basis: DatasetBasis | None = None
    """None where it cannot be told what of it would be the same."""
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> str:
        """`name@vN`."""
        return f"{self.name}@v{self.version}"


class ChangedRow(Record, frozen=True, kw_only=True):
    """A row that two dataset versions have, and its values that are not the same: before and after."""

    key: dict[str, Any]
    values: dict[str, tuple[Any, Any]]


class DatasetDiff(Record, frozen=True, kw_only=True):
    """What two dataset versions have different. Pairs are before and after."""

    before: str
    after: str
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    columns_changed: dict[str, tuple[str, str]] = {}
    statistics: dict[str, dict[str, tuple[Any, Any]]] = {}
    """Of columns of both, what moved."""
    keys: tuple[str, ...] = ()
    """What names a row; none where rows were compared as a whole."""
    rows: tuple[int, int] = (0, 0)
    added: int = 0
    removed: int = 0
    changed: int = 0
    changed_by_column: dict[str, int] = {}
    """Of the changed rows, at most the first 100,000."""
    examples_added: tuple[dict[str, Any], ...] = ()
    examples_removed: tuple[dict[str, Any], ...] = ()
    examples_changed: tuple[ChangedRow, ...] = ()
