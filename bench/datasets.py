"""Datasets and labels: building a version, adding a day, reading it to train, registering files, comparing, labelling.

The raw limit of a build is DuckDB alone writing the same rows, in the same order, as Parquet, under the same memory limit; of a
reading, pyarrow decoding the same columns; of label ingest, `executemany` of the same rows into the same table, and into SQLite
with an index where DuckDB has none. Each is measured in the same run. What is measured for its memory runs in a process of its
own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench.harness import Report, median, options
from bench.memory import apart, most_memory, watched
from mlbox.client import Client
from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.records import Column, DatasetVersion, LabelSet, LabelSource
from mlbox.sdk import cache
from mlbox.sdk.datasets import Dataset
from mlbox.store import migrations
from mlbox.store.artifacts import CHUNK_BYTES, Artifacts
from mlbox.store.dataset_diff import diff
from mlbox.store.datasets import DatasetFrom, Datasets, DatasetSpec
from mlbox.store.db import Database
from mlbox.store.features import FeatureStore
from mlbox.store.ingest import Uploads
from mlbox.store.label_views import Labels
from mlbox.store.offline import Offline, quote
from mlbox.store.online import Online

START = parse_time("2026-01-01T00:00Z")
MEMORY = "2GB"
DAYS = 20
FLOATS, COUNTS = [f"f{n}" for n in range(20)], [f"n{n}" for n in range(6)]
KINDS = {
    "who": "STRING",
    "moment": "TIMESTAMP",
    **dict.fromkeys(FLOATS, "FP64"),
    **dict.fromkeys(COUNTS, "INT64"),
    "ok": "BOOL",
    "city": "STRING",
}
COLUMNS = tuple(Column(name=name, dtype=dtype) for name, dtype in KINDS.items())  # type: ignore[arg-type]
BLOCK = 250_000


class Sizes(NamedTuple):
    """How much of everything."""

    rows: int
    repeats: int
    file_bytes: int
    labels: int


QUICK, FULL = Sizes(1_000_000, 2, 800_000_000, 200_000), Sizes(10_000_000, 2, 5_000_000_000, 1_000_000)


class House:
    """The stores of a box in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(START + timedelta(days=DAYS + 1))
        bus = EventBus()
        self.dbs = [
            Database(folder / f"{name}.sqlite", getattr(migrations, name), self.clock, bus)
            for name in ("features", "datasets")
        ]
        self.offline = Offline(folder / "offline.duckdb", memory=MEMORY)
        self.online = Online(folder / "online")
        self.artifacts = Artifacts(folder / "artifacts")
        self.features = FeatureStore(self.dbs[0], self.offline, self.online, self.clock)
        self.labels = Labels(self.dbs[1], self.offline, self.clock)
        self.datasets = Datasets(self.dbs[1], self.offline, self.features, self.labels, self.artifacts, self.clock)
        self.uploads = Uploads(folder / "uploads", most_bytes=1 << 40)

    def close(self) -> None:
        self.online.close()
        self.offline.close()
        for db in self.dbs:
            db.close()

    def kept_bytes(self) -> int:
        """What all files take."""
        return sum(file.stat().st_size for file in (self.folder / "artifacts").glob("??/*"))


def facts(first: int, count: int, total: int) -> pa.Table:
    """Some of `total` rows that are spread over all days, in the order of their time."""
    random = np.random.default_rng(first)
    moments = int(START.timestamp() * 1e6) + np.arange(first, first + count) * (DAYS * 86_400_000_000 // total)
    columns: dict[str, Any] = {"moment": pa.array(moments, pa.timestamp("us"))}
    columns["who"] = pa.array(random.integers(0, 100_000, count)).cast(pa.string())
    columns |= {name: random.random(count) for name in FLOATS}
    columns |= {name: random.integers(0, 100, count) for name in COUNTS}
    columns |= {"ok": random.random(count) < 0.5, "city": pa.array(random.integers(0, 50, count)).cast(pa.string())}
    return pa.table(columns).select(list(KINDS))


def blocks(total: int) -> Iterator[pa.Table]:
    """All of `total` rows."""
    for first in range(0, total, BLOCK):
        yield facts(first, min(BLOCK, total - first), total)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    sizes = QUICK if chosen.quick else FULL
    shown = {
        "rows": f"{sizes.rows:,} x {len(COLUMNS)}",
        "repeats": str(sizes.repeats),
        "file": f"{sizes.file_bytes / 1e9:g} GB",
        "labels": f"{sizes.labels:,}",
        "memory of DuckDB": MEMORY,
    }
    report = Report("datasets and labels", conditions=shown)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder))) as house:
        _labels(report, house, sizes.labels)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder))) as house:
        _registering(report, house, sizes.file_bytes)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(House(Path(folder))) as house:
        house.features.add_source("facts", COLUMNS, "moment", None, actor="bench")
        for block in blocks(sizes.rows):
            house.features.append("facts", block, actor="bench")
        built = _building(report, house, sizes.repeats)
        _another_day(report, house)
        _reading(report, house, built, sizes.repeats)
        _comparing(report, house, built)
    return report.finish()


# -- versions -----------------------------------------------------------------------------------------------------------------


def spine(number: int, source: str = "facts", *, changed: str = "false") -> str:
    """All rows, with values that only this number has; where `changed` holds, another one has changed too."""
    others = ", ".join(name for name in KINDS if name not in ("moment", "f0", "f1"))
    f1 = f"CASE WHEN {changed} THEN f1 + 1 ELSE f1 END AS f1"
    return f"SELECT moment AS event_time, f0 + {number} AS f0, {f1}, {others} FROM {source}"


def _building(report: Report, house: House, repeats: int) -> DatasetVersion:
    ours, theirs, plain, peaks, cpu = [], [], [], [], []
    built = None
    for number in range(repeats):
        with watched() as watch:
            begin, busy = time.perf_counter(), time.process_time()
            built = house.datasets.create(DatasetSpec(name="d", spine=spine(number)), actor="bench")
            ours.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - busy)
        peaks.append(watch.peak)
        house.offline.close()  # one process has a file open once
        theirs.append(_by_duckdb(house, spine(number, quote("source:facts")), ordered=True))
        plain.append(_by_duckdb(house, spine(number, quote("source:facts")), ordered=False))
    assert built is not None
    size = f"{built.rows:,} x {len(built.columns)}"
    theirs_cpu = [one[1] for one in theirs]
    report.tell(f"a version of {size}, hashed and counted", median(ours), "s")
    report.tell("DuckDB alone, the same rows in the same order as Parquet", median([one[0] for one in theirs]), "s")
    report.at_most("a version / DuckDB alone", median(ours) / median([one[0] for one in theirs]), 2.5, "times")
    report.tell("the same, CPU", median(cpu) / median(theirs_cpu), "times")
    report.tell("a version / DuckDB alone in no order", median(ours) / median([one[0] for one in plain]), "times")
    report.tell("memory above that of DuckDB's own limit", max(peaks) / 1e6 - 2000, "MB")
    return built


def _by_duckdb(house: House, sql: str, *, ordered: bool) -> tuple[float, float]:
    target = house.folder / "raw.parquet"
    with duckdb.connect(house.folder / "offline.duckdb", config={"memory_limit": MEMORY}) as bare:
        names = [column[0] for column in bare.execute(f"SELECT * FROM ({sql}) LIMIT 0").description or ()]
        order = f" ORDER BY {', '.join(names)}" if ordered else ""
        begin, busy = time.perf_counter(), time.process_time()
        bare.execute(f"COPY ({sql}{order}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        took = time.perf_counter() - begin, time.process_time() - busy
    target.unlink()
    return took


def _another_day(report: Report, house: House) -> None:
    spec = DatasetSpec(name="daily", spine=spine(100), event_to=START + timedelta(days=DAYS - 1))
    at = [house.kept_bytes()]
    took = []
    for one in (spec, msgspec.structs.replace(spec, event_to=None)):
        took.append(_timed(lambda one=one: house.datasets.create(one, actor="bench")))
        at.append(house.kept_bytes())
    first, second = at[1] - at[0], at[2] - at[1]
    report.at_most("bytes kept for a day more / a day's part", second / (first / (DAYS - 1)), 1.1, "times")
    report.tell(
        f"time to build {DAYS} days, all but one kept before / {DAYS - 1} days anew", took[1] / took[0], "times"
    )


def _comparing(report: Report, house: House, built: DatasetVersion) -> None:
    sql = spine(1000, changed="n0 = 7") + " WHERE n1 <> 8"
    other = house.datasets.create(DatasetSpec(name="d", spine=sql), actor="bench")
    (took, found), memory = apart(_diff, house.folder / "artifacts", built.to_json(), other.to_json())
    assert found[1] > 0
    assert found[2] > 0
    report.at_most(f"diff of two versions of {built.rows:,} rows, all files different", took, 60, "s")
    report.at_most("its memory", memory / 1e6, 2000, "MB")


def _diff(artifacts: Path, before: bytes, after: bytes) -> tuple[float, tuple[int, int, int]]:
    versions = [msgspec.json.decode(one, type=DatasetVersion) for one in (before, after)]
    begin = time.perf_counter()
    found = diff(Artifacts(artifacts), *versions, keys=("event_time",))
    return time.perf_counter() - begin, (found.added, found.removed, found.changed)


# -- reading ------------------------------------------------------------------------------------------------------------------


def _reading(report: Report, house: House, built: DatasetVersion, repeats: int) -> None:
    home = house.folder / "cache"
    (ours, direct, arrays), memory = apart(_epochs, home, house.folder / "artifacts", built.to_json(), repeats)
    report.tell("reading the Parquet directly", direct, "s")
    report.at_most("to_torch from the cache, shuffled / reading the Parquet directly", ours / direct, 1.1, "times")
    report.tell("the same / reading it directly into float32 arrays", ours / arrays, "times")
    report.at_most("memory of the process that trains", memory / 1e6, 500, "MB")


def _epochs(home: Path, artifacts: Path, record: bytes, repeats: int) -> tuple[float, float, float]:
    """Seconds of an epoch as batches, of decoding the same columns, and of the latter with the values as arrays."""
    os.environ["XDG_CACHE_HOME"] = str(home)
    info = msgspec.json.decode(record, type=DatasetVersion)
    kept = cache.Cache(cache.folder(), cache.limit_bytes())
    for file in info.files:
        target = kept.path(file.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(artifacts / file.sha256[:2] / file.sha256[2:], target)
    paths = [kept.path(file.sha256) for file in info.files]
    batches = Dataset(Client("http://127.0.0.1:1", ""), info).to_torch(batch_size=4096, columns=FLOATS, label="n0")

    def epoch() -> int:
        return sum(len(y) for _, y in batches)

    def decode(take: Callable[[pa.RecordBatch], Any]) -> int:
        rows = 0
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(columns=[*FLOATS, "n0"]):
                take(batch)
                rows += batch.num_rows
        return rows

    def as_array(batch: pa.RecordBatch) -> np.ndarray:
        return np.stack([batch.column(name).to_numpy().astype(np.float32) for name in FLOATS], axis=1)

    assert epoch() == decode(lambda batch: None) == info.rows
    rounds = [
        (_timed(epoch), _timed(lambda: decode(lambda batch: None)), _timed(lambda: decode(as_array)))
        for _ in range(repeats)
    ]
    ours, direct, arrays = (median(times) for times in zip(*rounds, strict=True))
    return ours, direct, arrays


# -- registering --------------------------------------------------------------------------------------------------------------


def _registering(report: Report, house: House, most_bytes: int) -> None:
    found = []
    for size in (most_bytes // 2, most_bytes):
        path = house.folder / f"{size}.parquet"
        _write_file(path, size)
        (took, child), memory = apart(_register, house.folder / str(size), path)
        found.append((path.stat().st_size, took, memory, child))
        path.unlink()
        shutil.rmtree(house.folder / str(size))
    (small, quick, *little), (large, slow, *much) = found
    report.tell(f"registering a Parquet file of {large / 1e9:.2g} GB", large / slow / 1e6, "MB/s")
    report.at_most("time a byte / that of half the size", (slow / large) / (quick / small), 1.25, "times")
    report.tell("memory of the server's process", much[0] / 1e6, "MB")
    report.at_most("the same / that of half the size", much[0] / little[0], 1.2, "times")
    report.tell("memory of the process that parses", much[1] / 1e6, "MB")
    report.at_most("the same, parsing / that of half the size", much[1] / little[1], 1.2, "times")


def _write_file(path: Path, size: int) -> None:
    """A Parquet file of about this size; the same numbers over and over, which is all the same to who reads them."""
    total = size // 190
    block = facts(0, BLOCK, total)
    with pq.ParquetWriter(path, block.schema, use_dictionary=["who", "city"], compression="zstd") as file:
        for first in range(0, total, BLOCK):
            rows = block.slice(0, min(BLOCK, total - first))
            numbers = pa.array(np.arange(first, first + rows.num_rows))
            moments = pa.array(np.asarray(numbers) * 1000, pa.timestamp("us"))
            file.write_table(rows.set_column(1, "moment", moments).set_column(22, "n0", numbers))


def _register(folder: Path, path: Path) -> tuple[float, int]:
    folder.mkdir()
    with contextlib.closing(House(folder)) as house, path.open("rb") as content, house.uploads.begin() as upload:
        begin = time.perf_counter()
        for chunk in iter(lambda: content.read(CHUNK_BYTES), b""):
            upload.write(chunk)
        with house.uploads.stream(upload, "parquet") as rows:
            (worker,) = psutil.Process().children()
            parsing = 0

            def seen() -> Iterator[pa.RecordBatch]:
                nonlocal parsing
                for number, batch in enumerate(rows):
                    if number % 16 == 0:
                        parsing = most_memory(Path(f"/proc/{worker.pid}/status"))
                    yield batch

            reader = pa.RecordBatchReader.from_batches(rows.schema, seen())
            made = house.datasets.keep_rows("d", reader, DatasetFrom(), actor="bench")
        took = time.perf_counter() - begin
        assert made.rows == pq.ParquetFile(path).metadata.num_rows
    return took, parsing


# -- labels -------------------------------------------------------------------------------------------------------------------


def _labels(report: Report, house: House, count: int) -> None:
    sources = tuple(LabelSource(name=name, kind="delayed", weight=1.0 + at) for at, name in enumerate("abc"))
    declared = LabelSet(
        name="late", keys=(Column(name="who", dtype="INT64"),), value=Column(name="y", dtype="INT64"), sources=sources
    )
    house.labels.apply(declared, actor="bench")
    batch = 10_000
    ours = []
    for first in range(0, count, batch):
        rows = _claims(first, batch, count)
        source = "abc"[first // batch % 3]
        ours.append(
            _timed(lambda rows=rows, source=source: house.labels.append("late", rows, source=source, actor="b"))
        )
    assert house.labels.label_set("late").rows == count
    rate = batch / median(ours)
    report.tell(f"labels in batches of {batch:,}", rate, "rows/s")
    report.tell("the last batches / the first ones, time", median(ours[-5:]) / median(ours[:5]), "times")
    again = _timed(lambda: house.labels.append("late", _claims(0, batch, count), source="a", actor="b"))
    report.tell("a batch that is there already", batch / again, "rows/s")
    for policy in ("latest", "majority"):
        house.labels.apply(msgspec.structs.replace(declared, policy=policy), actor="bench")
        took = [_timed(lambda: house.labels.known("late", at=house.clock.now())) for _ in range(3)]
        report.at_most(f"resolving {count:,} labels, {policy}", median(took), 5, "s")
    raw = _executemany(house)
    report.tell("executemany into the same table", raw, "rows/s")
    report.at_least("labels in batches / executemany into the same table", rate / raw, 0.4, "times")
    raw = _executemany_sqlite(house, batch)
    report.tell("executemany into SQLite, a commit for each batch", raw, "rows/s")
    report.at_least("labels in batches / executemany into SQLite, with an index", rate / raw, 0.4, "times")


def _claims(first: int, count: int, total: int) -> pa.Table:
    """Claims of an id of their own; three are about the same item."""
    numbers = np.arange(first, first + count)
    moments = int(START.timestamp() * 1e6) + numbers % (total // 3 + 1) * 1000
    return pa.table(
        {
            "who": numbers % (total // 3 + 1),
            "event_time": pa.array(moments, pa.timestamp("us", "UTC")),
            "y": numbers % 2,
            "id": pa.array(numbers).cast(pa.string()),
        }
    )


def _executemany(house: House) -> float:
    """Rows a second of what is in the table already, one by one into another of the same columns."""
    table, count = quote("label:late"), 2000

    def insert(cursor: Any) -> float:
        rows = cursor.execute(f"SELECT * FROM {table} LIMIT {count}").fetchall()
        cursor.execute(f"CREATE TABLE raw AS SELECT * FROM {table} LIMIT 0")
        marks = ", ".join("?" * len(rows[0]))
        took = _timed(lambda: cursor.executemany(f"INSERT INTO raw VALUES ({marks})", rows))
        cursor.execute("DROP TABLE raw")
        return count / took

    return house.offline.write(insert)


def _executemany_sqlite(house: House, batch: int) -> float:
    rows = house.offline.rows(
        f"SELECT * REPLACE ((_digest >> 1)::BIGINT AS _digest) FROM {quote('label:late')} LIMIT {5 * batch}"
    )
    rows = [tuple(str(value) if hasattr(value, "year") else value for value in row) for row in rows]
    names = [f"c{at}" for at in range(len(rows[0]))]
    with contextlib.closing(sqlite3.connect(house.folder / "raw.sqlite", isolation_level=None)) as bare:
        bare.executescript(
            f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE raw ({', '.join(names)});"
            f"CREATE UNIQUE INDEX by_id ON raw ({names[5]}, {names[6]}, {names[10]})"
        )
        sql = f"INSERT INTO raw VALUES ({', '.join('?' * len(names))})"
        took = []
        for first in range(0, len(rows), batch):
            begin = time.perf_counter()
            bare.execute("BEGIN")
            bare.executemany(sql, rows[first : first + batch])
            bare.execute("COMMIT")
            took.append(time.perf_counter() - begin)
    return batch / median(took)


# -- measuring ----------------------------------------------------------------------------------------------------------------


def _timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
