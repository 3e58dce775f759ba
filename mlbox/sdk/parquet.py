"""Parquet files of a dataset: opened with bounded buffers, read as batches, one file fetched while another is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlbox.errors import MlboxError
from mlbox.records import DataFile

BUFFER_BYTES = 1 << 16
"""Of each column that is read at a time."""
TRIES = 3


def opened(path: Path) -> pq.ParquetFile:
    """A file, of which no more than a part of a row group is in memory; raises MlboxError for one that is damaged."""
    try:
        return pq.ParquetFile(str(path), pre_buffer=False, buffer_size=BUFFER_BYTES)
    except pa.ArrowInvalid as err:
        raise MlboxError(f"{path} is no Parquet file: {err}.", hint="Remove it, and it is fetched again.") from err


def fetched(file: DataFile, locate: Callable[[DataFile], Path]) -> pq.ParquetFile:
    """A file, opened before another process that makes room in the cache can remove it for good."""
    for _ in range(TRIES - 1):
        try:
            return opened(locate(file))
        except FileNotFoundError:
            continue
    return opened(locate(file))


def in_turn(files: Sequence[DataFile], locate: Callable[[DataFile], Path]) -> Iterator[pq.ParquetFile]:
    """The files, each opened; the next one is fetched meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="mlbox-fetch")
    try:
        waiting = [pool.submit(fetched, file, locate) for file in files[:1]]
        for following in [*files[1:], None]:
            with waiting.pop().result() as file:
                if following is not None:
                    waiting.append(pool.submit(fetched, following, locate))
                yield file
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(
    files: Sequence[DataFile], locate: Callable[[DataFile], Path], columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The rows in their order, in batches of at most so many."""
    for file in in_turn(files, locate):
        yield from file.iter_batches(batch_size=batch_size, columns=list(columns))


def table(files: Sequence[DataFile], locate: Callable[[DataFile], Path], columns: Sequence[str]) -> pa.Table:
    """All rows."""
    return pa.concat_tables(file.read(columns=list(columns)) for file in in_turn(files, locate)).select(list(columns))
