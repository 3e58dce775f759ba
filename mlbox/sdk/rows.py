"""Rows of Parquet files as arrays, in blocks: which of them are whose, in which order, and a bounded buffer to shuffle them in.

An epoch is all rows, block by block, in an order drawn from the seed and the epoch; each of several processes takes an even part
of that. Blocks are read a few at a time, in turn, into a pool of rows, which is shuffled and handed out. Rows so meet others
of a few blocks of the epoch's, not of all: Xu et al., "In-Database Machine Learning with CorgiPile: Stochastic Gradient
Descent without Full Data Shuffle" (SIGMOD 2022) show that this trains as well as a full shuffle, for far less reading.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlbox.errors import InvalidInput
from mlbox.records import DType
from mlbox.sdk.parquet import opened

CHUNK_BYTES = 6_000_000
"""What is decoded at a time, at most: less costs time, because each change of threads does."""
AHEAD = 1
"""Chunks that are decoded before they are asked for, besides the one that is at hand."""
LANES = 3
"""Blocks that are read in turn where they are too large for a pool to hold as many; each open one takes some 15 MB."""
MOST_OPEN = 32
NUMPY = {"FP64": np.float32, "INT64": np.int64, "BOOL": np.bool_, "TIMESTAMP": np.int64}


class Source(NamedTuple):
    """A file and how many rows it has."""

    path: Path
    rows: int


class Block(NamedTuple):
    """Rows that are read together: a row group of a file, or with None the file."""

    file: int
    group: int | None
    rows: int


class Piece(NamedTuple):
    """Some rows of a block: from `start` to before `stop`."""

    block: Block
    start: int
    stop: int


class Layout:
    """Which columns are read, and what becomes of them: with a label one matrix and the label, else one array each."""

    def __init__(self, dtypes: Mapping[str, DType], features: tuple[str, ...], label: str | None) -> None:
        self.columns = list(dtypes)
        self.features = features
        self.label = label
        self.single = {name: np.dtype(NUMPY[dtype]) for name, dtype in dtypes.items() if name not in features}
        if label is not None:
            self.single = {label: self.single[label]}

    @property
    def row_bytes(self) -> int:
        """What a row takes in a pool."""
        return 4 * len(self.features) + sum(dtype.itemsize for dtype in self.single.values())


class Pool:
    """Room for rows: a matrix of the features [N, F] float32, and an array [N] for each other column."""

    def __init__(self, layout: Layout, size: int) -> None:
        self.layout = layout
        self.size = size
        self.rows = 0
        self.matrix = np.empty((size, len(layout.features)), np.float32)
        self.single = {name: np.empty(size, dtype) for name, dtype in layout.single.items()}

    def add(self, chunk: pa.RecordBatch) -> int:
        """Take as many rows as there is room for; how many."""
        taken: int = min(chunk.num_rows, self.size - self.rows)
        place, chunk = slice(self.rows, self.rows + taken), chunk.slice(0, taken)
        for at, name in enumerate(self.layout.features):
            self.matrix[place, at] = _numbers(chunk.column(name), np.dtype(np.float32), name)
        for name, dtype in self.layout.single.items():
            self.single[name][place] = _numbers(chunk.column(name), dtype, name)
        self.rows += taken
        return taken


def _numbers(column: pa.Array, dtype: np.dtype, name: str) -> np.ndarray:
    """A column as numpy has it, for a place of this type, where it is rounded once; NaN stands for missing.

    Without Arrow's functions where it can be, because the first use of one takes a second and 50 MB.
    """
    if column.null_count and dtype != np.float32:
        raise InvalidInput(
            f"The column {name} has missing values, which its tensor cannot hold.",
            hint="Take it into X with `label=`, where they are NaN, or fill them in the data.",
            field=name,
        )
    if pa.types.is_timestamp(column.type):
        column = column if column.type.unit == "us" else column.cast(pa.timestamp("us", column.type.tz))
        column = column.view(pa.int64())
    if column.null_count and pa.types.is_int64(column.type):
        return _holed(column)
    if column.null_count and not pa.types.is_floating(column.type):
        column = column.cast(pa.float32(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _holed(column: pa.Array) -> np.ndarray:
    """Whole numbers of which some are missing, as float32: Arrow would go over float64, and round twice."""
    validity, values = column.buffers()
    within = slice(column.offset, column.offset + len(column))
    found = np.frombuffer(values, np.int64)[within].astype(np.float32)
    found[np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[within] == 0] = np.nan
    return found


# -- whose rows, in which order -----------------------------------------------------------------------------------------------


def row_groups(sources: Sequence[Source]) -> list[Block]:
    """Every row group of these files."""
    found = []
    for at, source in enumerate(sources):
        about = pq.read_metadata(source.path)
        found += [Block(at, group, about.row_group(group).num_rows) for group in range(about.num_row_groups)]
    return found


def whole_files(sources: Sequence[Source]) -> list[Block]:
    """Each file as one block."""
    return [Block(at, None, source.rows) for at, source in enumerate(sources)]


def cut(blocks: Sequence[Block], start: int, stop: int) -> list[Piece]:
    """The rows from `start` to before `stop` of blocks one after the other."""
    found, before = [], 0
    for block in blocks:
        low, high = max(start - before, 0), min(stop - before, block.rows)
        if low < high:
            found.append(Piece(block, low, high))
        before += block.rows
    return found


def part_of(
    total: int, batch_size: int, share: tuple[int, int], *, drop_last: bool, worker: tuple[int, int] = (0, 1)
) -> range:
    """The rows, of an epoch of `total`, of one rank of several, and of one worker of several within it.

    Ranks differ by at most one row, and with `drop_last` have the same number of full batches. Workers share whole batches.
    """
    rank, ranks = share
    start, stop = total * rank // ranks, total * (rank + 1) // ranks
    if drop_last:
        stop = start + total // ranks // batch_size * batch_size
    batches = -(-(stop - start) // batch_size)
    own, workers = worker
    first, last = (start + batches * at // workers * batch_size for at in (own, own + 1))
    return range(first, max(first, min(last, stop)))


# -- reading ------------------------------------------------------------------------------------------------------------------


class Reader:
    """Pieces of files as chunks of columns; not for two threads at once."""

    def __init__(self, sources: Sequence[Source], columns: Sequence[str]) -> None:
        self._sources = sources
        self._columns = list(columns)
        self._open: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def chunks(self, pieces: Sequence[Piece], pool_rows: int, *, mixed: bool) -> Generator[pa.RecordBatch, None, None]:
        """All rows of the pieces, one after the other unless the rows of a pool are to be of several pieces."""
        lanes = LANES if mixed and any(piece.stop - piece.start > pool_rows // LANES for piece in pieces) else 1
        fitting = CHUNK_BYTES // (8 * len(self._columns))
        chunk_rows = max(1, min(fitting, pool_rows // lanes))
        waiting, reading = deque(pieces), deque[Iterator[pa.RecordBatch]]()
        while waiting or reading:
            while waiting and len(reading) < lanes:
                reading.append(self._read(waiting.popleft(), chunk_rows))
            chunk = next(reading[0], None)
            if chunk is None:
                reading.popleft()
                continue
            reading.rotate(-1)
            yield chunk

    def _read(self, piece: Piece, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        file = self._file(piece.block.file)
        groups, at = _spanned(file.metadata, piece) if piece.block.group is None else ([piece.block.group], 0)
        for chunk in file.iter_batches(batch_size=chunk_rows, row_groups=groups, columns=self._columns):
            low, high = max(piece.start - at, 0), min(piece.stop - at, chunk.num_rows)
            if low < high:
                yield chunk.slice(low, high - low)
            at += chunk.num_rows
            if at >= piece.stop:
                return

    def _file(self, at: int) -> pq.ParquetFile:
        if at not in self._open:
            self._open[at] = opened(self._sources[at].path)
            if len(self._open) > MOST_OPEN:  # those who still read it have it open for themselves
                self._open.popitem(last=False)
        self._open.move_to_end(at)
        return self._open[at]


def _spanned(about: pq.FileMetaData, piece: Piece) -> tuple[list[int], int]:
    """The row groups of a file that a piece of it reaches into, and how many rows are before them."""
    ends = np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])
    first, last = (int(at) for at in np.searchsorted(ends, [piece.start, piece.stop - 1], side="right"))
    return list(range(first, last + 1)), int(ends[first - 1]) if first else 0


def pools(chunks: Generator[pa.RecordBatch, None, None], layout: Layout, size: int) -> Iterator[Pool]:
    """Chunks in pools of `size` rows, the last one of what is left: one pool, filled again once the next one is asked for.

    Chunks are decoded in a thread meanwhile; what goes wrong there is raised here.
    """
    pool = Pool(layout, size)
    with contextlib.closing(_ahead(chunks)) as decoded:
        for chunk in decoded:
            left = chunk
            while left.num_rows:
                left = left.slice(pool.add(left))
                if pool.rows == size:
                    yield pool
                    pool.rows = 0
    if pool.rows:
        yield pool


def _ahead(chunks: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
    asked: queue.SimpleQueue[None] = queue.SimpleQueue()
    ready: queue.SimpleQueue[pa.RecordBatch | BaseException | None] = queue.SimpleQueue()
    ended = threading.Event()

    def decode() -> None:
        try:
            while asked.get() is None and not ended.is_set():
                ready.put(next(chunks, None))
        except BaseException as err:  # raised where the rows are wanted
            ready.put(err)
        finally:
            chunks.close()

    thread = threading.Thread(target=decode, name="mlbox-rows", daemon=True)
    thread.start()
    for _ in range(AHEAD):
        asked.put(None)
    try:
        while (chunk := ready.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            asked.put(None)
            yield chunk
    finally:
        ended.set()
        asked.put(None)
        thread.join()
