"""Datasets: immutable tables of training rows that can be named, rebuilt and proven.

A version is a spine (entities and times, by SQL over sources), features as they were known at each row's time, and the label
that was known at the cut-off. The same definition over the same data yields the same bytes, the same hash, the same version.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import InvalidInput, MlboxError, NotFound, TooMany, Unavailable
from mlbox.ids import new_id
from mlbox.records import DatasetBasis, DatasetSplit, DatasetVersion, check_name
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.build import Before, Built, build
from mlbox.store.datasets.files import GROUP_ROWS, day_named
from mlbox.store.datasets.reuse import LOOKED_AT, Definition, Reuse
from mlbox.store.datasets.rows import BUILD_SECONDS, DatasetRows, Take, no_rows
from mlbox.store.datasets.rows import DatasetFrom as DatasetFrom
from mlbox.store.datasets.rows import DatasetSpec as DatasetSpec
from mlbox.store.datasets.versions import DatasetVersions, hash_of
from mlbox.store.db import Database
from mlbox.store.features.catalog import split_ref
from mlbox.store.features.features import FeatureStore
from mlbox.store.labels.views import Labels
from mlbox.store.offline.offline import Offline

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
        self._reuse = Reuse(offline, features, labels)
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
        wanted = Definition(spec, features, labels, as_of, software())
        try:
            basis = self._reuse.basis(wanted)
            with self._slot():
                built, unlabelled = self._going_on(wanted, basis) or self._anew(wanted, resumable=basis is not None)
            if not built.rows:
                raise no_rows(unlabelled)
        except MlboxError as err:
            self._note_failed(spec.name, err, actor=actor, job_id=job_id)
            raise
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
                basis=msgspec.structs.replace(basis, resume=built.resume) if basis is not None else None,
            )
        )

    def _note_failed(self, name: str, err: MlboxError, *, actor: str, job_id: str | None) -> None:
        given = {"error": err.message[:500], **({"job": job_id} if job_id else {})}
        self._db.write(lambda tx: tx.emit("dataset.failed", f"dataset:{name}", actor, **given))

    def _anew(self, wanted: Definition, *, resumable: bool) -> tuple[Built, int]:
        """All rows, and how many of the spine have no label."""
        asked = self._rows.asked(wanted.spec, wanted.features, wanted.labels, wanted.as_of)
        return self._rows.read(asked, self._taking(wanted.spec.split, None, resumable=resumable))

    def _taking(self, split: DatasetSplit | None, before: Before | None, *, resumable: bool) -> Take[Built]:
        def take(schema: pa.Schema, batches: Iterator[pa.RecordBatch], unlabelled: Callable[[datetime], int]) -> Built:
            built = build(self._artifacts, schema, batches, split, before, resumable=resumable)
            point = built.resume
            if point is None or (before is not None and point is before.point):
                return built
            count = unlabelled(point.day) + (before.point.unlabelled if before is not None else 0)
            return built._replace(resume=msgspec.structs.replace(point, unlabelled=count))

        return take

    def _going_on(self, wanted: Definition, basis: DatasetBasis | None) -> tuple[Built, int] | None:
        """As `_anew`, with the files of an earlier version up to where nothing has come since; None where there is none such."""
        if basis is None:
            return None
        earlier = self._reuse.earlier(wanted, basis, self.versions(wanted.spec.name, limit=LOOKED_AT))
        before = self._before(earlier) if earlier is not None else None
        if earlier is None or before is None:
            return None
        spec = msgspec.structs.replace(wanted.spec, event_from=before.point.day)
        try:
            asked = self._rows.asked(spec, wanted.features, wanted.labels, wanted.as_of, since=before.point.day)
            built, unlabelled = self._rows.read(asked, self._taking(spec.split, before, resumable=True))
        except InvalidInput:  # of all rows it may be right, or said in words that fit
            return None
        whole = built.rows == sum(file.rows for file in built.files)
        # What came in meanwhile may be about rows that are taken over.
        return (built, before.point.unlabelled + unlabelled) if whole and self._reuse.holds(earlier, wanted) else None

    def _before(self, version: DatasetVersion) -> Before | None:
        """What a version has of the rows before it can be gone on from; None where something of it is gone."""
        point = version.basis.resume if version.basis is not None else None
        assert point is not None
        files = tuple(
            file
            for file in version.files
            if (day := day_named(file.path)) is not None and day < point.begins[file.split]
        )
        try:
            self._artifacts.keep({point.facts, *(file.sha256 for file in files)})
            return Before(files, version.columns, self._artifacts.verified(point.facts).read_bytes(), point)
        except (NotFound, Unavailable):
            return None

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
            software=software(),
            created_by=actor,
            created_at=self._clock.real(),
        )


def software() -> dict[str, str]:
    """The versions of what makes the rows and the files."""
    import duckdb
    import pyarrow as pa

    return {"mlbox": __version__, "duckdb": duckdb.__version__, "pyarrow": pa.__version__}


def _batches(rows: pa.Table | pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        rows = rows.to_reader(GROUP_ROWS)
    yield from rows
