"""What a new version has in common with an earlier one of the same definition, told without building it.

An earlier version says how much of everything there was when it was built: rows of the source, batches of the views, labels. What
has come since has a first event; what is before that is what it was, where each row depends on nothing but

- one row of a source, whose event time it keeps: a SELECT that looks at each row alone, by DuckDB's own tree of it; or an item
  that is labelled;
- the rows of views that could be known at its time, of views that take new rows alone too: then no older row is another one;
- the label of its item, as knowable at the cut-off.

Of any other SELECT (a window, an aggregate, a join) a new row may change every row that it yields, and a view that is computed as
a whole may have changed anywhere: such versions are built anew, and their files are found to be the same by their content.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mlbox.records import DatasetBasis, DatasetVersion, LabelSet
from mlbox.store.datasets.rows import DatasetSpec
from mlbox.store.features.features import FeatureStore
from mlbox.store.labels.views import Labels
from mlbox.store.offline.offline import Offline

if TYPE_CHECKING:
    from mlbox.store.offline.offline import Cursor

DAY = timedelta(days=1)
LOOKED_AT = 5
"""Earlier versions, the last ones."""


class Definition(NamedTuple):
    """What is to be built, with every name resolved."""

    spec: DatasetSpec
    features: tuple[str, ...]
    labels: LabelSet | None
    as_of: datetime
    software: dict[str, str]


class Reuse:
    """Finds out what has come since an earlier version."""

    def __init__(self, offline: Offline, features: FeatureStore, labels: Labels) -> None:
        self._offline = offline
        self._features = features
        self._labels = labels

    def basis(self, wanted: Definition) -> DatasetBasis | None:
        """How much of everything there is now; None for a definition whose rows depend on more than their own time."""
        source = ""
        if wanted.spec.spine:
            found = self._features.source_by_row(wanted.spec.spine)
            if found is None:
                return None
            source = found.name
        if wanted.features and self._features.uses_transforms(wanted.features):
            return None
        refs = dict.fromkeys(feature.partition(":")[0] for feature in wanted.features)
        rows, views = self._features.counts_of(source, list(refs))
        labels = self._labels.last(wanted.labels) if wanted.labels is not None else 0
        return DatasetBasis(features=wanted.features, source=source, rows=rows, views=views, labels=labels)

    def earlier(
        self, wanted: Definition, basis: DatasetBasis, versions: Sequence[DatasetVersion]
    ) -> DatasetVersion | None:
        """The last of the versions that the wanted one can go on from."""
        for version in versions:
            if _same_definition(version, wanted, basis) and self.holds(version, wanted):
                return version
        return None

    def holds(self, version: DatasetVersion, wanted: Definition) -> bool:
        """Whether nothing has come since that concerns rows before, or on the day on which, a version can be gone on from."""
        basis = version.basis
        assert basis is not None
        assert basis.resume is not None
        assert version.as_of is not None
        known = (version.as_of, wanted.as_of)

        def read(cursor: Cursor) -> list[datetime | None] | None:
            found = self._features.changed_from(cursor, basis.source, basis.rows, basis.views, known)
            if found is None or wanted.labels is None:
                return found
            return [*found, self._labels.changed_from(cursor, wanted.labels, basis.labels, known)]

        moments = self._offline.snapshot(read)
        ends = [*moments, version.event_to, wanted.spec.event_to] if moments is not None else []
        needed = max(basis.resume.begins.values()) + DAY
        return moments is not None and all(moment is None or needed <= moment for moment in ends)


def _same_definition(version: DatasetVersion, wanted: Definition, basis: DatasetBasis) -> bool:
    then, spec = version.basis, wanted.spec
    if then is None or then.resume is None or version.as_of is None or version.as_of > wanted.as_of:
        return False
    policy = wanted.labels.policy_ref if wanted.labels is not None else None
    return (then.features, then.source, version.query, version.label_set, version.label_policy, version.split) == (
        *(basis.features, basis.source, spec.spine, spec.label_set, policy, spec.split),
    ) and (version.event_from, version.software) == (spec.event_from, wanted.software)
