"""Datasets: immutable tables of training rows that can be named, rebuilt and proven.

A version is a spine (entities and times, by SQL over sources), features as they were known at each row's time, and the label
that was known at the cut-off. The same definition over the same data yields the same bytes, the same hash, the same version.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import InvalidInput
from mlbox.ids import new_id
from mlbox.records import Column, DatasetSplit, DatasetVersion, LabelSet, Record, check_name
from mlbox.store.artifacts import Artifacts
from mlbox.store.catalog import split_ref, suggest
from mlbox.store.dataset_facts import Facts
from mlbox.store.dataset_files import EVENT_TIME, ROWS_PER_FILE, check_split, write_files
from mlbox.store.dataset_versions import DatasetVersions, hash_of
from mlbox.store.db import Database
from mlbox.store.features import FeatureStore
from mlbox.store.label_views import Labels
from mlbox.store.offline import Offline, quote
from mlbox.store.tables import arrow_utc, dtype_of
from mlbox.store.usersql import explaining
from mlbox.store.views import literal
from mlbox.store.views import names as names_of

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor


class DatasetFrom(Record, frozen=True, kw_only=True):
    """What is said of a version besides its rows."""

    split: DatasetSplit | None = None
    parents: tuple[str, ...] = ()
    """Dataset versions that it is made from."""
    run_id: str | None = None
    git_commit: str | None = None
    git_dirty: bool = False
    description: str = ""
    tags: dict[str, str] = {}


class DatasetSpec(DatasetFrom, frozen=True, kw_only=True):
    """What a dataset version is to hold."""

    name: str
    spine: str = ""
    """One SELECT over sources that yields the entities' keys and `event_time`; none: what is labelled."""
    features: tuple[str, ...] = ()
    """Feature references, or services; none: the spine's own columns."""
    label_set: str | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    """Rows from the first moment to before the second."""
    as_of: datetime | None = None
    """Cut-off: nothing that became known later is in it; by default domain time."""


class Datasets(DatasetVersions):
    """All dataset versions, and how they are built."""

    def __init__(
        self, db: Database, offline: Offline, features: FeatureStore, labels: Labels, artifacts: Artifacts, clock: Clock
    ) -> None:
        super().__init__(db, artifacts, clock)
        self._offline = offline
        self._features = features
        self._labels = labels

    # -- building ---------------------------------------------------------------------------------------------------

    def create(self, spec: DatasetSpec, *, actor: str, job_id: str | None = None) -> DatasetVersion:
        """Build a version; one whose bytes are those of an earlier version is that version."""
        check_name(spec.name)
        if not spec.spine and not spec.label_set:
            raise InvalidInput("There are no rows to begin with.", hint="Give a spine or a label_set.", field="spine")
        as_of = spec.as_of or self._clock.now()
        if as_of > self._clock.now():
            raise InvalidInput("as_of is in the future.", hint="Leave it out for now.", field="as_of")
        features = self._features.resolve(spec.features)
        labels = self._labels.declared(spec.label_set) if spec.label_set else None
        parts = [("view", split_ref(ref.partition(":")[0])[0]) for ref in features]
        self._db.privacy.shelter("dataset", spec.name, [*parts, *([("label", labels.name)] if labels else [])])
        spine = self._offline.write(lambda cursor: self._spine(cursor, spec, labels, as_of))
        kept = spine.filter(spine.column("_labelled")).drop_columns(["_labelled"])
        if kept.num_rows == 0:
            raise InvalidInput(
                f"The dataset has no rows: the spine yields {spine.num_rows}, of which 0 have a known label."
                if spine.num_rows
                else "The dataset has no rows: the spine yields none in the time range.",
                hint="Check event_from, event_to and as_of.",
                field="spine",
            )
        table = self._features.historical(features, kept, event_time=EVENT_TIME) if features else kept
        if labels is not None:  # the label comes last, after the features
            order = [name for name in table.column_names if name != labels.value.name]
            table = table.select([*order, labels.value.name])
        bundled = [name for name in spec.features if ":" not in name]
        return self.keep(
            msgspec.structs.replace(
                self._record(spec.name, spec, table, actor=actor, job_id=job_id),
                query=spec.spine,
                label_set=spec.label_set,
                label_policy=labels.policy_ref if labels is not None else None,
                backfilled=labels is not None and self._labels.has_backfill(labels, as_of),
                event_from=spec.event_from,
                event_to=spec.event_to,
                parameters={"features": list(spec.features), "rows_without_label": spine.num_rows - kept.num_rows},
                feature_service=self._features.service(bundled[0]).ref if bundled else None,
                views=tuple(dict.fromkeys(feature.partition(":")[0] for feature in features)),
                as_of=as_of,
            )
        )

    def keep_rows(
        self, name: str, table: pa.Table, given: DatasetFrom, *, actor: str, job_id: str | None = None
    ) -> DatasetVersion:
        """Keep a table that somebody brings as a version, in its order."""
        check_name(name)
        if not table.num_rows:
            raise InvalidInput("The dataset has no rows.", hint="Send some.", field="body")
        self._db.privacy.shelter("dataset", name, [("dataset", split_ref(ref)[0]) for ref in given.parents])
        return self.keep(self._record(name, given, arrow_utc(table), actor=actor, job_id=job_id))

    def _spine(self, cursor: Cursor, spec: DatasetSpec, labels: LabelSet | None, as_of: datetime) -> pa.Table:
        """The spine in a fixed order, with the label, and `_labelled` where there is one."""
        if spec.spine:
            inner = self._features.query_sources(cursor, spec.spine, known=as_of, dataset=spec.name)
        else:
            assert labels is not None
            items = f"SELECT {names_of(labels.keys)}, event_time"
            inner = f"({items} FROM ({self._labels.known_sql(cursor, labels, as_of)}))"
        with explaining("spine"):
            names = [column[0] for column in cursor.execute(f"SELECT * FROM {inner} LIMIT 0").description or ()]
            timeless = not spec.features and labels is None and not (spec.event_from or spec.event_to)
            if EVENT_TIME not in names and not timeless:
                raise InvalidInput(
                    "The spine yields no column 'event_time'.", hint=f"It yields {', '.join(names)}.", field="spine"
                )
            bounds = [f"event_time >= {literal(spec.event_from)}"] if spec.event_from else []
            bounds += [f"event_time < {literal(spec.event_to)}"] if spec.event_to else []
            rows = f"SELECT * FROM {inner} WHERE {' AND '.join(bounds) or 'true'}"
            return arrow_utc(cursor.sql(self._labelled(cursor, rows, names, labels, as_of)).to_arrow_table())

    def _labelled(self, cursor: Cursor, rows: str, names: list[str], labels: LabelSet | None, as_of: datetime) -> str:
        # A total order: rows that are equal in all columns are the same row.
        order = sorted(names, key=lambda name: name != EVENT_TIME)
        if labels is None:
            return f"SELECT *, true AS _labelled FROM ({rows}) ORDER BY {', '.join(quote(name) for name in order)}"
        missing = [key.name for key in labels.keys if key.name not in names]
        if missing:
            raise InvalidInput(
                f"The spine has no column {missing[0]!r}, which labels of {labels.name} are found by.",
                hint=suggest(missing[0], names),
                field="spine",
            )
        value = quote(labels.value.name)
        if labels.value.name in names:
            raise InvalidInput(
                f"The spine has a column {labels.value.name!r}, which is the label's name.",
                hint="Leave it out.",
                field="spine",
            )
        on = " AND ".join(f"spine.{quote(key.name)} = known.{quote(key.name)}" for key in labels.keys)
        return (
            f"SELECT spine.*, known.{value}, known.{value} IS NOT NULL AS _labelled FROM ({rows}) spine"
            f" LEFT JOIN ({self._labels.known_sql(cursor, labels, as_of)}) known"
            f" ON {on} AND spine.event_time = known.event_time ORDER BY {', '.join('spine.' + quote(n) for n in order)}"
        )

    def _record(
        self, name: str, given: DatasetFrom, table: pa.Table, *, actor: str, job_id: str | None
    ) -> DatasetVersion:
        """Write a table's files, and say what is known of them."""
        import duckdb
        import pyarrow as pa

        if given.split is not None:
            check_split(given.split, table.column_names)
        parents = tuple(self.version(ref).ref for ref in given.parents)
        columns = tuple(Column(name=field.name, dtype=dtype_of(field.type)) for field in table.schema)
        files = write_files(self._artifacts, table, given.split)
        facts = Facts(columns, table.num_rows)
        for start in range(0, table.num_rows, ROWS_PER_FILE):
            facts.add(table.slice(start, ROWS_PER_FILE))
        return DatasetVersion(
            id=new_id(),
            name=name,
            version=0,
            hash=hash_of(files),
            files=files,
            columns=columns,
            rows=table.num_rows,
            query="",
            split=given.split,
            parents=parents,
            run_id=given.run_id,
            job_id=job_id,
            git_commit=given.git_commit,
            git_dirty=given.git_dirty,
            description=given.description,
            tags=given.tags,
            statistics=facts.found(),
            software={"mlbox": __version__, "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
            created_by=actor,
            created_at=self._clock.real(),
        )
