"""How a dataset's rows become files, as they come: cut by time and size, written as Parquet, named by their content.

No more than a few files' rows are in memory, and where a file ends depends on the rows before its end alone, however they come in
batches. So the same rows are the same files, and a version that adds a day has the files of all days before:

- A file ends with a day once it has `DAY_ROWS`, and with a period of 32 days, counted from 1970, once it has `PERIOD_ROWS`. What
  is not in the order of its `event_time`, or has none, is cut by size alone from there on.
- A row group ends at `GROUP_ROWS` or `GROUP_BYTES`, and a file at `FILE_GROUPS`, or fewer where a split keeps several files open.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mlbox.records import DataFile, DatasetSplit
from mlbox.store.artifacts import Artifacts, ArtifactWriter
from mlbox.store.datasets.split import EVENT_TIME, divide

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DAY_ROWS = 20_000
PERIOD_ROWS = 10_000
PERIOD_DAYS = 32
GROUP_ROWS = 131_072
GROUP_BYTES = 32 << 20
FILE_GROUPS = 4
KEEP_SECONDS = 600.0
"""A collection takes what nothing names for an hour."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_NESTED_BYTES = 64
_LOOKED_AT = 8192
"""Rows of a file by which it is decided whether a column repeats itself."""


class FileWriter:
    """Keeps tables, one after the other, as files. Use `with`: what is not finished is dropped."""

    def __init__(
        self, artifacts: Artifacts, split: DatasetSplit | None, begins: Mapping[str, datetime] | None = None
    ) -> None:
        """With `begins`, files of each part are made of its rows from a day on, on which one begins; there are those before."""
        self._artifacts = artifacts
        self._split = split
        self._begins = {name: day_of(moment) for name, moment in (begins or {}).items()}
        names = [part.name for part in split.parts] if split else [""]
        self._parts = {name: _Part(name, max(1, FILE_GROUPS // len(names))) for name in names}
        workers = min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mlbox-parquet")
        self._free = threading.BoundedSemaphore(workers)
        self._written: list[Future[DataFile]] = []
        self._failed: BaseException | None = None
        self._kept_at = time.monotonic()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        for name, rows in divide(table, self._split):
            if name in self._begins:
                rows = _from_day(rows, self._begins[name])
            self._write(self._parts[name].add(rows))

    @property
    def begun(self) -> dict[str, list[int]]:
        """By part the days on which files began; those of a part that is in no order of time are none."""
        return {name: part.begun for name, part in self._parts.items()}

    def finish(self) -> tuple[DataFile, ...]:
        """All files, those of a part after each other."""
        for part in self._parts.values():
            self._write(part.end())
        files = [written.result() for written in self._written]
        places = list(self._parts)
        return tuple(sorted(files, key=lambda file: places.index(file.split)))

    def _write(self, pieces: Iterable[_Piece]) -> None:
        for piece in pieces:
            self._free.acquire()  # so that no more than a few wait in memory
            self._keep()
            if self._failed is not None:
                raise self._failed
            written = self._pool.submit(_write, self._artifacts, piece)
            written.add_done_callback(self._done)
            self._written.append(written)

    def _keep(self) -> None:
        """Have a collection leave alone what is there already: nothing names it before all of it is."""
        if time.monotonic() - self._kept_at > KEEP_SECONDS:
            self._artifacts.keep(one.result().sha256 for one in self._written if one.done() and not one.exception())
            self._kept_at = time.monotonic()

    def _done(self, written: Future[DataFile]) -> None:
        if not written.cancelled():
            self._failed = self._failed or written.exception()
        self._free.release()


class _Piece(NamedTuple):
    """A file to be: its row groups, each of some tables."""

    path: str
    split: str
    groups: list[list[pa.Table]]


# -- by time ------------------------------------------------------------------------------------------------------------------


class _Runs:
    """Cuts rows into runs of whole days, each named by its first day; `part` is the run of what is in no order of time."""

    def __init__(self) -> None:
        self._stem = ""
        self._rows = 0
        self._last: int | None = None
        self.begun: list[int] = []

    def cut(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """The rows in pieces, each with its run's name."""
        days = None if self._stem == "part" else days_of(rows)
        ordered = 0 if days is None else self._ordered(days)
        if days is not None and ordered:
            yield from self._by_days(rows.slice(0, ordered), days[:ordered])
        if ordered < rows.num_rows:
            self._stem, self.begun = "part", []
            yield self._stem, rows.slice(ordered)

    def _ordered(self, days: np.ndarray) -> int:
        """How many of the next days come in their order."""
        import numpy as np

        if self._last is not None and len(days) and days[0] < self._last:
            return 0
        back = np.flatnonzero(np.diff(days) < 0)
        return int(back[0]) + 1 if len(back) else len(days)

    def _by_days(self, rows: pa.Table, days: np.ndarray) -> Iterator[tuple[str, pa.Table]]:
        import numpy as np

        last = int(days[0]) if self._last is None else self._last
        if not self._stem:
            self._begin(last)
        begin = 0
        for at in np.flatnonzero(np.diff(days, prepend=last)).tolist():
            day, held = int(days[at]), self._rows + at - begin
            turned = day // PERIOD_DAYS != last // PERIOD_DAYS
            if held >= DAY_ROWS or (turned and held >= PERIOD_ROWS):
                yield self._stem, rows.slice(begin, at - begin)
                self._begin(day)
                self._rows, begin = 0, at
            last = day
        yield self._stem, rows.slice(begin)
        self._rows += rows.num_rows - begin
        self._last = last

    def _begin(self, day: int) -> None:
        self._stem = _name(day)
        self.begun.append(day)


def day_of(moment: datetime) -> int:
    """The day of a moment, counted from 1970."""
    return (moment - _EPOCH).days


def moment_of(day: int) -> datetime:
    """When a day begins."""
    return _EPOCH + timedelta(days=day)


def day_named(path: str) -> datetime | None:
    """The first day of a file of days, by its name; None for another."""
    name = path.rpartition("/")[2].rpartition("-")[0]
    try:
        return datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None


def starts_of(rows: pa.Table, wanted: Iterable[int]) -> list[tuple[int, int]]:
    """Days, of those wanted, and at which of the rows each begins; the rows are in the order of their time."""
    import numpy as np

    days = days_of(rows)
    return [] if days is None else [(day, int(np.searchsorted(days, day))) for day in sorted(wanted)]


def _from_day(rows: pa.Table, day: int) -> pa.Table:
    ((_, at),) = starts_of(rows, [day]) or [(day, 0)]
    return rows.slice(at)


def days_of(rows: pa.Table) -> np.ndarray | None:
    """The day of each row, up to the first that has none; None where there is no time at all."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if EVENT_TIME not in rows.column_names:
        return None
    times = rows.column(EVENT_TIME)
    if not (pa.types.is_timestamp(times.type) or pa.types.is_date(times.type)):
        return None
    known = pc.index(times.is_null(), True).as_py() if times.null_count else len(times)
    found: np.ndarray = np.asarray(times.slice(0, known).cast(pa.timestamp("us")).cast(pa.int64())) // _DAY_US
    return found


def _name(day: int) -> str:
    return f"{moment_of(day):%Y-%m-%d}"


# -- by size ------------------------------------------------------------------------------------------------------------------


class _Part:
    """The rows of one part of a split on their way into files."""

    def __init__(self, split: str, groups: int) -> None:
        self._split = split
        self._most_groups = groups
        self._runs = _Runs()
        self._stem = ""
        self._number = 0
        self._groups: list[list[pa.Table]] = [[]]
        self._rows = self._bytes = 0
        """Of the last group."""

    @property
    def begun(self) -> list[int]:
        """The days on which its files began, a file of each."""
        return self._runs.begun

    def add(self, rows: pa.Table) -> Iterator[_Piece]:
        """Take rows; the files that they fill."""
        for stem, run in self._runs.cut(rows):
            # Files of a run that turns out to be in no order keep their names; the open one goes on under another.
            if stem != self._stem and stem != "part":
                yield from self.end()
            if stem != self._stem:
                self._stem, self._number = stem, 0
            yield from self._fill(run)

    def end(self) -> Iterator[_Piece]:
        """The file of what is left."""
        groups = [group for group in self._groups if group]
        if groups:
            name = f"{self._stem}-{self._number:05}.parquet"
            yield _Piece(f"{self._split}/{name}" if self._split else name, self._split, groups)
            self._number += 1
        self._groups, self._rows, self._bytes = [[]], 0, 0

    def _fill(self, rows: pa.Table) -> Iterator[_Piece]:
        import numpy as np

        ends = np.cumsum(_sizes(rows))
        at = 0
        while at < rows.num_rows:
            before = int(ends[at - 1]) if at else 0
            fits = int(np.searchsorted(ends, before + GROUP_BYTES - self._bytes, side="right"))
            stop = min(fits, at + GROUP_ROWS - self._rows, rows.num_rows)
            if stop <= at and not self._rows:
                stop = at + 1  # a row that is larger than a group is one
            if stop > at:
                self._groups[-1].append(rows.slice(at, stop - at))
                self._rows += stop - at
                self._bytes += int(ends[stop - 1]) - before
            if stop < rows.num_rows:
                yield from self._next_group()
            at = max(at, stop)

    def _next_group(self) -> Iterator[_Piece]:
        if len(self._groups) == self._most_groups:
            yield from self.end()
        else:
            self._groups.append([])
            self._rows = self._bytes = 0


def _sizes(rows: pa.Table) -> np.ndarray:
    """The bytes of each row, whatever buffers it lies in."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    fixed = 0
    varying = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
            varying += np.asarray(pc.fill_null(pc.binary_length(column), 0))
        elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            width = _width(kind.value_type)
            varying += np.asarray(pc.fill_null(pc.list_value_length(column), 0)) * width
        else:
            fixed += _width(kind)
    return varying + fixed


def _width(kind: pa.DataType) -> int:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:  # of no fixed width
        return _NESTED_BYTES


# -- Parquet ------------------------------------------------------------------------------------------------------------------


class _Sink:
    """What a Parquet writer writes into: the store, by way of a hash of our own."""

    closed = False

    def __init__(self, writer: ArtifactWriter) -> None:
        self._writer = writer
        self._at = 0
        self.md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        """Add bytes."""
        self.md5.update(data)
        self._writer.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._at

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is held here."""


def _write(artifacts: Artifacts, piece: _Piece) -> DataFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = artifacts.writer()
    sink = _Sink(writer)
    rows = 0
    try:
        table = pa.concat_tables(piece.groups.pop(0)).combine_chunks()
        with pq.ParquetWriter(
            pa.PythonFile(sink, "w"), table.schema, compression="zstd", use_dictionary=_repeating(table)
        ) as file:
            while True:
                file.write_table(table, row_group_size=GROUP_ROWS)
                rows += table.num_rows
                if not piece.groups:
                    break
                table = pa.concat_tables(piece.groups.pop(0)).combine_chunks()  # the one before is not needed any more
        sha256, size = writer.commit()
    except BaseException:
        writer.abort()
        raise
    return DataFile(path=piece.path, sha256=sha256, size=size, rows=rows, md5=sink.md5.hexdigest(), split=piece.split)


def _repeating(table: pa.Table) -> list[str]:
    """Columns worth a dictionary: to try it on what hardly repeats costs three times the writing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    few = table.slice(0, _LOOKED_AT)
    return [
        name
        for name, column in zip(few.column_names, few.columns, strict=True)
        if not pa.types.is_nested(column.type)
        and pc.count_distinct(column, mode="all").as_py() * 2 <= max(2, few.num_rows)
    ]
