"""Datasets: immutable tables of training rows that can be named, rebuilt and proven.

A version is a spine (entities and times, by SQL over sources), features as they were known at each row's time, and the label
that was known at the cut-off. The same definition over the same data yields the same bytes, the same hash, the same version.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import InvalidInput, TooMany
from mlbox.ids import new_id
from mlbox.records import DatasetVersion, check_name
from mlbox.store.artifacts import Artifacts
from mlbox.store.catalog import split_ref
from mlbox.store.dataset_build import Built, build
from mlbox.store.dataset_files import GROUP_ROWS
from mlbox.store.dataset_rows import BUILD_SECONDS, DatasetRows, no_rows
from mlbox.store.dataset_rows import DatasetFrom as DatasetFrom
from mlbox.store.dataset_rows import DatasetSpec as DatasetSpec
from mlbox.store.dataset_versions import DatasetVersions, hash_of
from mlbox.store.db import Database
from mlbox.store.features import FeatureStore
from mlbox.store.label_views import Labels
from mlbox.store.offline import Offline

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 2
"""Versions that are built at a time: each takes some hundred megabytes."""
WAIT_SECONDS = 60.0


class Datasets(DatasetVersions):
    """All dataset versions, and how they are built."""

    def __init__(
        self,
        db: Database,
        offline: Offline,
        features: FeatureStore,
        labels: Labels,
        artifacts: Artifacts,
        clock: Clock,
        *,
        seconds: float = BUILD_SECONDS,
    ) -> None:
        super().__init__(db, artifacts, clock)
        self._rows = DatasetRows(offline, features, labels, seconds)
        self._features = features
        self._labels = labels
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    # -- building ---------------------------------------------------------------------------------------------------

    def create(self, spec: DatasetSpec, *, actor: str, job_id: str | None = None) -> DatasetVersion:
        """Build a version; one whose bytes are those of an earlier version is that version."""
        check_name(spec.name)
        if not spec.spine and not spec.label_set:
            raise InvalidInput("There are no rows to begin with.", hint="Give a spine or a label_set.", field="spine")
        as_of = spec.as_of or self._clock.now()
        if as_of > self._clock.now():
            raise InvalidInput("as_of is in the future.", hint="Leave it out for now.", field="as_of")
        features = self._features.resolve(spec.features) if spec.features else ()
        labels = self._labels.declared(spec.label_set) if spec.label_set else None
        parts = [("view", split_ref(ref.partition(":")[0])[0]) for ref in features]
        self._db.privacy.shelter("dataset", spec.name, [*parts, *([("label", labels.name)] if labels else [])])
        given = self._known(spec)
        asked = self._rows.asked(spec, features, labels, as_of)
        with self._slot():
            built, unlabelled = self._rows.read(
                asked, lambda schema, batches: build(self._artifacts, schema, batches, spec.split)
            )
        if not built.rows:
            raise no_rows(unlabelled)
        bundled = [name for name in spec.features if ":" not in name]
        return self.keep(
            msgspec.structs.replace(
                self._record(spec.name, given, built, actor=actor, job_id=job_id),
                query=spec.spine,
                label_set=spec.label_set,
                label_policy=labels.policy_ref if labels is not None else None,
                backfilled=labels is not None and self._labels.has_backfill(labels, as_of),
                event_from=spec.event_from,
                event_to=spec.event_to,
                parameters={"features": list(spec.features), "rows_without_label": unlabelled},
                feature_service=self._features.service(bundled[0]).ref if bundled else None,
                views=tuple(dict.fromkeys(feature.partition(":")[0] for feature in features)),
                as_of=as_of,
            )
        )

    def keep_rows(
        self,
        name: str,
        rows: pa.Table | pa.RecordBatchReader,
        given: DatasetFrom,
        *,
        actor: str,
        job_id: str | None = None,
    ) -> DatasetVersion:
        """Keep rows that somebody brings as a version, in their order; of a reader, a few are in memory at a time."""
        check_name(name)
        self._db.privacy.shelter("dataset", name, [("dataset", split_ref(ref)[0]) for ref in given.parents])
        given = self._known(given)
        with self._slot():
            built = build(self._artifacts, rows.schema, _batches(rows), given.split)
        if not built.rows:
            raise InvalidInput("The dataset has no rows.", hint="Send some.", field="body")
        return self.keep(self._record(name, given, built, actor=actor, job_id=job_id))

    def _known(self, given: DatasetFrom) -> DatasetFrom:
        """With its parents by number; raises NotFound."""
        return msgspec.structs.replace(given, parents=tuple(self.version(ref).ref for ref in given.parents))

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=WAIT_SECONDS):
            raise TooMany("Other datasets are still being built.", hint="Try again in a few minutes.")
        try:
            yield
        finally:
            self._slots.release()

    def _record(self, name: str, given: DatasetFrom, built: Built, *, actor: str, job_id: str | None) -> DatasetVersion:
        """What is known of rows that are kept."""
        import duckdb
        import pyarrow as pa

        return DatasetVersion(
            id=new_id(),
            name=name,
            version=0,
            hash=hash_of(built.files),
            files=built.files,
            columns=built.columns,
            rows=built.rows,
            query="",
            split=given.split,
            parents=given.parents,
            run_id=given.run_id,
            job_id=job_id,
            git_commit=given.git_commit,
            git_dirty=given.git_dirty,
            description=given.description,
            tags=given.tags,
            statistics=built.statistics,
            software={"mlbox": __version__, "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
            created_by=actor,
            created_at=self._clock.real(),
        )


def _batches(rows: pa.Table | pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        rows = rows.to_reader(GROUP_ROWS)
    yield from rows
