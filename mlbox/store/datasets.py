"""Datasets: immutable tables of training rows that can be named, rebuilt and proven.

A version is a spine (entities and times, by SQL over sources), features as they were known at each row's time, and the label
that was known at the cut-off. The same definition over the same data yields the same bytes, the same hash, the same version.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import InvalidInput, NotFound
from mlbox.ids import new_id
from mlbox.records import Column, DataFile, DatasetVersion, LabelSet, Record, check_name
from mlbox.store.artifacts import Artifacts
from mlbox.store.catalog import split_ref, suggest
from mlbox.store.db import Database, Row, Tx
from mlbox.store.features import FeatureStore
from mlbox.store.label_views import Labels
from mlbox.store.offline import Offline, quote
from mlbox.store.tables import arrow_utc, dtype_of
from mlbox.store.usersql import explaining
from mlbox.store.views import literal

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

ROWS_PER_FILE = 1_000_000
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class DatasetSpec(Record, frozen=True, kw_only=True):
    """What a dataset version is to hold."""

    name: str
    spine: str
    """One SELECT over sources that yields the entities' keys and `event_time`."""
    features: tuple[str, ...]
    """Feature references, or one service."""
    label_set: str | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    """Rows from the first moment to before the second."""
    as_of: datetime | None = None
    """Cut-off: nothing that became known later is in it; by default domain time."""


class Datasets:
    """All dataset versions."""

    def __init__(
        self, db: Database, offline: Offline, features: FeatureStore, labels: Labels, artifacts: Artifacts, clock: Clock
    ) -> None:
        self._db = db
        self._offline = offline
        self._features = features
        self._labels = labels
        self._artifacts = artifacts
        self._clock = clock

    # -- building ---------------------------------------------------------------------------------------------------

    def create(self, spec: DatasetSpec, *, actor: str) -> DatasetVersion:
        """Build a version; one whose bytes are those of an earlier version is that version."""
        check_name(spec.name)
        as_of = spec.as_of or self._clock.now()
        if as_of > self._clock.now():
            raise InvalidInput("as_of is in the future.", hint="Leave it out for now.", field="as_of")
        features = self._features.resolve(spec.features)
        labels = self._labels.label_set(spec.label_set) if spec.label_set else None
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
        table = self._features.historical(features, kept, event_time="event_time")
        if labels is not None:  # the label comes last, after the features
            order = [name for name in table.column_names if name != labels.value.name]
            table = table.select([*order, labels.value.name])
        files = tuple(self._write_files(table))
        record = self._record(spec, actor, table, files)
        dropped = spine.num_rows - kept.num_rows
        return self._save(
            msgspec.structs.replace(
                record,
                parameters={"features": list(spec.features), "rows_without_label": dropped},
                feature_service=self._features.service(spec.features[0]).ref if ":" not in spec.features[0] else None,
                views=tuple(dict.fromkeys(feature.partition(":")[0] for feature in features)),
                as_of=as_of,
            )
        )

    def _spine(self, cursor: Cursor, spec: DatasetSpec, labels: LabelSet | None, as_of: datetime) -> pa.Table:
        """The spine in a fixed order, with the label, and `_labelled` where there is one."""
        inner = self._features.query_sources(cursor, spec.spine, known=as_of, dataset=spec.name)
        with explaining("spine"):
            names = [column[0] for column in cursor.execute(f"SELECT * FROM {inner} LIMIT 0").description or ()]
            if "event_time" not in names:
                raise InvalidInput(
                    "The spine yields no column 'event_time'.", hint=f"It yields {', '.join(names)}.", field="spine"
                )
            bounds = [f"event_time >= {literal(spec.event_from)}"] if spec.event_from else []
            bounds += [f"event_time < {literal(spec.event_to)}"] if spec.event_to else []
            rows = f"SELECT * FROM {inner} WHERE {' AND '.join(bounds) or 'true'}"
            return arrow_utc(cursor.sql(self._labelled(cursor, rows, names, labels, as_of)).to_arrow_table())

    def _labelled(self, cursor: Cursor, rows: str, names: list[str], labels: LabelSet | None, as_of: datetime) -> str:
        order = ", ".join(["event_time", *(quote(name) for name in names if name != "event_time")])
        if labels is None:
            return f"SELECT *, true AS _labelled FROM ({rows}) ORDER BY {order}"
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
            f" ON {on} AND spine.event_time = known.event_time ORDER BY {', '.join('spine.' + quote(n) for n in names)}"
        )

    def _write_files(self, table: pa.Table) -> Iterator[DataFile]:
        import pyarrow.parquet as pq

        for number, start in enumerate(range(0, table.num_rows, ROWS_PER_FILE)):
            part = table.slice(start, ROWS_PER_FILE)
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                pq.write_table(part, file.name, compression="zstd")
                sha256, size = self._artifacts.put_file(Path(file.name))
            yield DataFile(path=f"part-{number:05}.parquet", sha256=sha256, size=size, rows=part.num_rows)

    def _record(self, spec: DatasetSpec, actor: str, table: pa.Table, files: tuple[DataFile, ...]) -> DatasetVersion:
        import duckdb
        import pyarrow as pa

        manifest = "".join(sorted(f"{file.sha256}  {file.path}\n" for file in files))
        columns = tuple(Column(name=field.name, dtype=dtype_of(field.type)) for field in table.schema)
        return DatasetVersion(
            id=new_id(),
            name=spec.name,
            version=0,
            hash=hashlib.sha256(manifest.encode()).hexdigest(),
            files=files,
            columns=columns,
            rows=table.num_rows,
            query=spec.spine,
            label_set=spec.label_set,
            event_from=spec.event_from,
            event_to=spec.event_to,
            statistics=self._offline.read(lambda cursor: statistics(cursor, table, columns)),
            software={"mlbox": __version__, "duckdb": duckdb.__version__, "pyarrow": pa.__version__},
            created_by=actor,
            created_at=self._clock.real(),
        )

    def _save(self, built: DatasetVersion) -> DatasetVersion:
        def write(tx: Tx) -> int:
            same = tx.one("SELECT version FROM dataset WHERE name = ? AND hash = ?", (built.name, built.hash))
            if same is not None:
                known: int = same["version"]
                return known
            last = tx.one("SELECT coalesce(max(version), 0) AS n FROM dataset WHERE name = ?", (built.name,))
            assert last is not None
            made = msgspec.structs.replace(built, version=last["n"] + 1)
            tx.run(
                "INSERT INTO dataset VALUES (?,?,?,?,?,?)",
                (made.id, made.name, made.version, made.hash, made.to_json().decode(), tx.now_us),
            )
            tx.emit("dataset.created", f"dataset:{made.ref}", made.created_by, rows=made.rows, hash=made.hash)
            return made.version

        return self.version(f"{built.name}@v{self._db.write(write)}")

    # -- reading ----------------------------------------------------------------------------------------------------

    def version(self, ref: str) -> DatasetVersion:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        name, number = split_ref(ref)
        row = self._db.one(
            "SELECT record FROM dataset WHERE name = :name AND visible('dataset', name)"
            " AND (:version IS NULL OR version = :version)"
            " ORDER BY version DESC LIMIT 1",
            {"name": name, "version": number},
        )
        if row is None:
            known = [
                row["name"] for row in self._db.all("SELECT DISTINCT name FROM dataset WHERE visible('dataset', name)")
            ]
            raise NotFound(f"There is no dataset {ref[:200]!r}.", hint=suggest(name, known), field="dataset")
        return _dataset(row)

    def versions(self, name: str | None = None, *, limit: int = 100, after: str | None = None) -> list[DatasetVersion]:
        """All versions, or a dataset's, newest first, from below the id `after`."""
        rows = self._db.all(
            "SELECT record FROM dataset WHERE id < :after AND (:name IS NULL OR name = :name) AND visible('dataset', name)"
            " ORDER BY id DESC LIMIT :limit",
            {"after": after or "~", "name": name, "limit": limit},
        )
        return [_dataset(row) for row in rows]

    def file_of(self, ref: str, file: str) -> DataFile:
        """One of a version's files; raises NotFound."""
        version = self.version(ref)
        for known in version.files:
            if known.path == file:
                return known
        raise NotFound(
            f"{version.ref} has no file {file[:200]!r}.",
            hint=suggest(file, [f.path for f in version.files]),
            field="file",
        )

    def open_table(self, ref: str) -> pa.Table:
        """A version's rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        version = self.version(ref)
        return pa.concat_tables(pq.read_table(self._artifacts.verified(file.sha256)) for file in version.files)


def statistics(cursor: Cursor, table: pa.Table, columns: tuple[Column, ...]) -> dict[str, dict[str, Any]]:
    """Per column: nulls, and of numbers also minimum, maximum, mean and quantiles (without NaN), of text the distinct."""
    cursor.register("rows", table)
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        name = quote(column.name)
        if column.dtype in ("INT64", "FP64", "BOOL"):
            value = f"CAST({name} AS DOUBLE)"
            parts = f"min({value}), max({value}), avg({value}), quantile_cont({value}, {list(QUANTILES)})"
            low, high, mean, quantiles = _row(
                cursor, f"SELECT {parts} FROM rows WHERE {name} IS NOT NULL AND NOT isnan({value})"
            )
            words = [f"q{round(q * 100):02}" for q in QUANTILES]
            found[column.name] = {"min": low, "max": high, "mean": mean}
            found[column.name] |= dict(zip(words, quantiles or [None] * len(words), strict=True))
        else:
            (distinct,) = _row(cursor, f"SELECT approx_count_distinct({name}) FROM rows")
            found[column.name] = {"distinct_about": distinct}
        (nulls,) = _row(cursor, f"SELECT count(*) FROM rows WHERE {name} IS NULL")
        found[column.name]["nulls"] = nulls
    return found


def _row(cursor: Cursor, sql: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.execute(sql).fetchone()
    assert row is not None
    return row


def _dataset(row: Row) -> DatasetVersion:
    return msgspec.json.decode(row["record"], type=DatasetVersion)
