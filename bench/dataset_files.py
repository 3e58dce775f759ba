"""Registering files of any size, by streaming, in bounded memory."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from bench.dataset_house import BLOCK, House, facts
from bench.harness import Report
from bench.memory import apart, most_memory
from mlbox.store.artifacts import CHUNK_BYTES
from mlbox.store.datasets.datasets import DatasetFrom


def registering(report: Report, house: House, sizes: Sequence[int]) -> None:
    """Files of several sizes: neither time a byte nor memory is to grow with them."""
    found = []
    for size in sizes:
        path = house.folder / f"{size}.parquet"
        _write_file(path, size)
        (took, child), memory = apart(_register, house.folder / str(size), path)
        found.append((path.stat().st_size, took, memory, child))
        report.tell(f"registering a Parquet file of {found[-1][0] / 1e9:.2g} GB", found[-1][0] / took / 1e6, "MB/s")
        path.unlink()
        shutil.rmtree(house.folder / str(size))
    # Of the smallest, part of what is written is still in the kernel's memory at the end.
    (small, quick, *little), (large, slow, *much) = found[-2], found[-1]
    times = f"{large / small:.3g} times the size"
    report.at_most(f"time a byte, of {times} / of the one before", (slow / large) / (quick / small), 1.25, "times")
    for whose, most, least in zip(("server's process", "process that parses"), much, little, strict=True):
        report.tell(f"memory of the {whose}", most / 1e6, "MB")
        report.at_most(f"memory of the {whose}, of {times} / of the one before", most / least, 1.2, "times")


def _write_file(path: Path, size: int) -> None:
    """A Parquet file of about this size; the same numbers over and over, which is all the same to who reads them."""
    total = size // 163
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
