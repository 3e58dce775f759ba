"""Datasets and labels: building a version, adding a day, reading it to train, registering files, comparing, labelling.

The raw limit of a build is DuckDB alone writing the same rows, in the same order, as Parquet, under the same memory limit; of a
reading, pyarrow decoding the same columns; of label ingest, `executemany` of the same rows into the same table, and into SQLite
with an index where DuckDB has none. Each is measured in the same run. What is measured for its memory runs in a process of its
own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.dataset_files import registering
from bench.dataset_house import COLUMNS, DAYS, FLOATS, KINDS, MEMORY, START, House, blocks, timed
from bench.dataset_labels import duplicates, ingesting, resolving
from bench.harness import Report, interleave, median, options
from bench.memory import apart, watched
from mlbox.client import Client
from mlbox.errors import NotFound
from mlbox.records import DatasetVersion
from mlbox.sdk import cache
from mlbox.sdk.datasets import Dataset
from mlbox.store.artifacts import Artifacts
from mlbox.store.datasets.datasets import DatasetSpec
from mlbox.store.datasets.diff import diff
from mlbox.store.offline.offline import quote


class Sizes(NamedTuple):
    """How much of everything."""

    rows: int
    repeats: int
    files: tuple[int, ...]
    """Bytes of the files that are registered, from the smallest to the largest."""
    labels: int


QUICK = Sizes(1_000_000, 2, (400_000_000, 800_000_000), 200_000)
FULL = Sizes(10_000_000, 1, (1_000_000_000, 2_500_000_000, 5_000_000_000), 1_000_000)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments, add=_more_options)
    if chosen.setup:
        return 0
    sizes = QUICK if chosen.quick else FULL
    shown = {
        "rows": f"{sizes.rows:,} x {len(COLUMNS)}",
        "repeats": str(sizes.repeats),
        "files": ", ".join(f"{size / 1e9:g}" for size in sizes.files) + " GB",
        "labels": f"{sizes.labels:,}",
        "memory of DuckDB": MEMORY,
    }
    report = Report("datasets and labels", conditions=shown)
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in PARTS.items():
            if chosen.part and name not in chosen.part:
                report.skip(name, "another part was asked for")
            elif part in OF_VERSIONS:
                with contextlib.closing(House((chosen.folder or Path(scratch)) / "versions")) as house:
                    _fill(house, sizes.rows)
                    part(report, house, sizes)
            else:
                with tempfile.TemporaryDirectory() as own, contextlib.closing(House(Path(own))) as house:
                    part(report, house, sizes)
    return report.finish()


def _more_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this, once for each")
    parser.add_argument("--folder", type=Path, help="keep the versions there, and begin with what a former call kept")


def _fill(house: House, rows: int) -> None:
    """Have the source, of so many rows."""
    with contextlib.suppress(NotFound):
        assert house.features.source("facts").rows == rows, "the folder was made for other sizes"
        return
    house.features.add_source("facts", COLUMNS, "moment", None, actor="bench")
    for block in blocks(rows):
        house.features.append("facts", block, actor="bench")


def _built(house: House) -> DatasetVersion:
    """A version of all rows, of a former part's if there is one."""
    with contextlib.suppress(NotFound):
        return house.datasets.version("d@v1")
    return house.datasets.create(DatasetSpec(name="d", spine=spine(0)), actor="bench")


# -- versions -----------------------------------------------------------------------------------------------------------------


def spine(number: int, source: str = "facts", *, changed: str = "false") -> str:
    """All rows, with values that only this number has; where `changed` holds, another one has changed too."""
    others = ", ".join(name for name in KINDS if name not in ("moment", "f0", "f1"))
    f1 = f"CASE WHEN {changed} THEN f1 + 1 ELSE f1 END AS f1"
    return f"SELECT moment AS event_time, f0 + {number} AS f0, {f1}, {others} FROM {source}"


def _building(report: Report, house: House, sizes: Sizes) -> None:
    ours, theirs, plain, peaks, cpu = [], [], [], [], []
    built = None
    for number in range(sizes.repeats):
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


def _another_day(report: Report, house: House, sizes: Sizes) -> None:
    spec = DatasetSpec(name="daily", spine=spine(100), event_to=START + timedelta(days=DAYS - 1))
    at = [house.kept_bytes()]
    took, aside = [], house.aside_bytes()
    for one in (spec, msgspec.structs.replace(spec, event_to=None)):
        took.append(timed(lambda one=one: house.datasets.create(one, actor="bench")))
        at.append(house.kept_bytes())
    first, second = at[1] - at[0], at[2] - at[1]
    report.at_most("bytes kept for a day more / a day's part", second / (first / (DAYS - 1)), 1.1, "times")
    report.tell("kept besides, once a dataset, to go on from", (house.aside_bytes() - aside) / 2e6, "MB")
    name = f"time to build {DAYS} days, all but one kept before / {DAYS - 1} days anew"
    report.at_most(name, took[1] / took[0], 0.4, "times")


def _comparing(report: Report, house: House, sizes: Sizes) -> None:
    built = _built(house)
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


def _reading(report: Report, house: House, sizes: Sizes) -> None:
    """An epoch against reading the same columns directly, into the arrays that training wants, and not even that."""
    built = _built(house)
    arguments = (house.folder / "cache", house.folder / "artifacts", built.to_json())
    (epoch, arrays, columns), _ = apart(_epochs, *arguments)
    report.tell("reading the Parquet directly, into float32 arrays", arrays, "s")
    report.at_most("to_torch from the cache, shuffled / reading directly into arrays", epoch / arrays, 1.1, "times")
    report.tell("the same / reading directly into columns, which nothing trains on", epoch / columns, "times")
    _, alone = apart(_one_epoch, *arguments)
    report.at_most("memory of the process that trains", alone / 1e6, 500, "MB")


def _one_epoch(home: Path, artifacts: Path, record: bytes) -> int:
    batches, _, rows = _cached(home, artifacts, record)
    assert _count(batches) == rows
    return rows


def _count(batches: Any) -> int:
    return sum(len(y) for _, y in batches)


def _cached(home: Path, artifacts: Path, record: bytes) -> tuple[Any, list[Path], int]:
    """Batches of a version that is in the cache, its files there, and its rows."""
    os.environ["XDG_CACHE_HOME"] = str(home)
    info = msgspec.json.decode(record, type=DatasetVersion)
    kept = cache.Cache(cache.folder(), cache.limit_bytes())
    for file in info.files:
        target = kept.path(file.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(artifacts / file.sha256[:2] / file.sha256[2:], target)
    batches = Dataset(Client("http://127.0.0.1:1", ""), info).to_torch(batch_size=4096, columns=FLOATS, label="n0")
    return batches, [kept.path(file.sha256) for file in info.files], info.rows


def _epochs(home: Path, artifacts: Path, record: bytes) -> tuple[float, float, float]:
    """Seconds of an epoch as batches, of decoding the same columns into arrays, and of decoding them alone."""
    batches, paths, rows = _cached(home, artifacts, record)

    def decode(take: Callable[[pa.RecordBatch], Any]) -> None:
        seen = 0
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(columns=[*FLOATS, "n0"]):
                take(batch)
                seen += batch.num_rows
        assert seen == rows

    def as_array(batch: pa.RecordBatch) -> np.ndarray:
        return np.stack([batch.column(name).to_numpy().astype(np.float32) for name in FLOATS], axis=1)

    epoch, arrays, columns = interleave(
        5,
        lambda: timed(lambda: _count(batches)),
        lambda: timed(lambda: decode(as_array)),
        lambda: timed(lambda: decode(lambda batch: None)),
    )
    return median(epoch), median(arrays), median(columns)


Part = Callable[[Report, House, Sizes], None]
OF_VERSIONS: tuple[Part, ...] = (_building, _another_day, _reading, _comparing)
PARTS: dict[str, Part] = {
    "ingest": lambda report, house, sizes: ingesting(report, house, sizes.labels),
    "resolve": lambda report, house, sizes: resolving(report, house, sizes.labels),
    "again": lambda report, house, sizes: duplicates(report, house, sizes.labels),
    "register": lambda report, house, sizes: registering(report, house, sizes.files),
    "build": _building,
    "day": _another_day,
    "read": _reading,
    "diff": _comparing,
}


if __name__ == "__main__":
    sys.exit(main())
