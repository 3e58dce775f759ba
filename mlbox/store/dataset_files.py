"""How a dataset's rows become files: split, cut by time, written as Parquet, named by their content.

Files end where a period ends that is counted from 1970: a day, 32 days, or none, by how many rows there are a day. So a version
that adds a day has new files for that day's period alone, and all others are the files that are kept already.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mlbox.errors import InvalidInput
from mlbox.records import DataFile, DatasetSplit
from mlbox.store.artifacts import CHUNK_BYTES, Artifacts
from mlbox.store.catalog import suggest

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_FILE = 1_000_000
EVENT_TIME = "event_time"
_PERIODS = ((20_000, 1), (700, 32))
"""From so many rows a day on, a file holds so many days."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_SHARES = 1_000_000


def write_files(artifacts: Artifacts, table: pa.Table, split: DatasetSplit | None) -> tuple[DataFile, ...]:
    """Keep a table, in the order of its rows, as Parquet files; the same rows are the same files."""
    parts = [(name, rows) for name, rows in _split(table, split) if rows.num_rows]
    days = _days(table)
    pieces = [
        (f"{name}/{path}" if name else path, name, piece) for name, rows in parts for path, piece in _cut(rows, days)
    ]
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="mlbox-parquet") as pool:
        return tuple(pool.map(lambda piece: _write(artifacts, *piece), pieces))


def _write(artifacts: Artifacts, path: str, split: str, rows: pa.Table) -> DataFile:
    import pyarrow.parquet as pq

    md5 = hashlib.md5(usedforsecurity=False)

    def chunks(file: Path) -> Iterator[bytes]:
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                md5.update(chunk)
                yield chunk

    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        pq.write_table(rows, file.name, compression="zstd")
        sha256, size = artifacts.put(chunks(Path(file.name)))
    return DataFile(path=path, sha256=sha256, size=size, rows=rows.num_rows, md5=md5.hexdigest(), split=split)


# -- splits -------------------------------------------------------------------------------------------------------------------


def check_split(split: DatasetSplit, columns: list[str]) -> None:
    """Raise InvalidInput where a split cannot be made of these columns."""
    names = [part.name for part in split.parts]
    if len(names) < 2 or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise InvalidInput(
            "A split has two parts or more, each with a name of its own.", hint="train, test", field="split.parts"
        )
    needed = split.keys if split.by == "hash" else (EVENT_TIME,)
    missing = [name for name in needed if name not in columns]
    if missing or not needed:
        raise InvalidInput(
            f"The split needs the column {missing[0]!r}." if missing else "Which columns are hashed is not said.",
            hint=(suggest(missing[0], columns) if missing else "") or "Name the entity's keys.",
            field="split.keys",
        )
    if split.by == "hash" and (
        any(part.share is None for part in split.parts) or abs(sum(part.share or 0 for part in split.parts) - 1) > 1e-9
    ):
        raise InvalidInput("The shares of the parts are not 1 together.", hint="0.8 and 0.2", field="split.parts")
    ends = [part.until for part in split.parts[:-1]]
    if split.by == "time" and (None in ends or ends != sorted(ends, key=str) or split.parts[-1].until is not None):
        raise InvalidInput(
            "The parts are not one after the other in time.",
            hint="Give all but the last an `until`, rising; the last one takes the rest.",
            field="split.parts",
        )


def _split(table: pa.Table, split: DatasetSplit | None) -> Iterator[tuple[str, pa.Table]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if split is None:
        yield "", table
    elif split.by == "time":
        rest = table
        for part in split.parts:
            if part.until is None:
                yield part.name, rest
                return
            before = pc.less(rest.column(EVENT_TIME), pa.scalar(_naive(part.until), pa.timestamp("us")))
            yield part.name, rest.filter(before)
            rest = rest.filter(pc.invert(before))
    else:
        place = _places(table, split.keys)
        low = 0.0
        for part in split.parts:
            high = low + (part.share or 0) * _SHARES
            last = part is split.parts[-1]
            yield part.name, table.filter(pa.array(np.logical_and(place >= low, (place < high) | last)))
            low = high


def _places(table: pa.Table, keys: tuple[str, ...]) -> np.ndarray:  # type: ignore[name-defined]  # noqa: F821
    """Where each row's entity falls among `_SHARES` places: by an MD5 of its keys, the same on every machine."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [pc.fill_null(table.column(name).cast(pa.string()), "\0") for name in keys]
    joined = pc.binary_join_element_wise(*texts, "\x1f").combine_chunks().dictionary_encode()
    known = [
        int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "little") % _SHARES
        for text in joined.dictionary.to_pylist()
    ]
    return np.asarray(known, dtype=np.int64)[joined.indices.to_numpy()]


# -- files --------------------------------------------------------------------------------------------------------------------


def _days(table: pa.Table) -> int | None:
    """How many days a file holds; None for files that do not end with a period."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if EVENT_TIME not in table.column_names or not pa.types.is_timestamp(table.schema.field(EVENT_TIME).type):
        return None
    bounds = pc.min_max(table.column(EVENT_TIME)).as_py()
    if bounds["min"] is None or table.column(EVENT_TIME).null_count:
        return None
    days = (bounds["max"] - bounds["min"]).days + 1
    return next((length for rows, length in _PERIODS if table.num_rows / days >= rows), None)


def _cut(rows: pa.Table, days: int | None) -> Iterator[tuple[str, pa.Table]]:
    """The files of a part, in the order of its rows; what is not in the order of its times is cut by rows alone."""
    import numpy as np
    import pyarrow as pa

    if days is None:
        yield from _by_rows("part", rows)
        return
    period = rows.column(EVENT_TIME).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() // (days * _DAY_US)
    if (np.diff(period) < 0).any():
        yield from _by_rows("part", rows)
        return
    starts = [0, *(np.flatnonzero(np.diff(period)) + 1).tolist(), len(period)]
    for start, end in itertools.pairwise(starts):
        first = _EPOCH + timedelta(days=int(period[start]) * days)
        yield from _by_rows(f"{first:%Y-%m-%d}", rows.slice(start, end - start))


def _by_rows(stem: str, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for number, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
        yield f"{stem}-{number:05}.parquet", rows.slice(start, ROWS_PER_FILE)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
