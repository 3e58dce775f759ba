"""The prediction log on disk: Parquet files, a folder for each model version, written whole and merged as they grow many.

Invariants
- A file's name is the range of flush numbers in it. Numbers rise over the life of the log, ranges of one folder are disjoint.
- A file is written under a temporary name, fsynced and renamed: under its own name it is whole.
- Only neighbours are merged. A file whose range lies within another's is what a crash in a merge left, and is removed.
- Rows are removed by writing their file anew under its own name: whenever that ends, there is the old file or the new one. A file
  without rows is removed, but not the one with the highest number, which numbers go on from, and none whose parts may be left.
- What is being read lies, as hard links, in a folder of its own, so that nothing need wait for a slow reader.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import from_us
from mlbox.errors import Unavailable
from mlbox.records import Prediction
from mlbox.store.datadir import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

MERGE_AT = 32
TIERS = (64 * 1024, 8 * 1024**2)
"""Bytes: as many neighbours below one of these become one file, which keeps both the files few and the rewriting little."""
MERGE_BYTES = 64 * 1024**2
"""More than this is not merged into one: it is read into memory for it."""
LOOKED_AT = 1_000
"""Rows by which it is told how a column is written."""
FEATURE = "f:"
"""Before the name of each feature's column."""
MODEL = "model"
READING = ".reading"
"""The folder with what is being read."""
_NAME = re.compile(r"(\d{10})-(\d{10})\.parquet")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class LogFile:
    """One file and the flush numbers in it."""

    last: int
    first: int
    path: Path
    size: int

    @property
    def model(self) -> str:
        """Whose rows are in it."""
        return self.path.parent.parent.name.removeprefix("model=")

    def spans(self, since_us: int | None, until_us: int | None) -> bool:
        """Whether it may hold a row from one moment of domain time to before another."""
        bounds = self.bounds("domain_us")
        if bounds is None:
            return True
        return (since_us is None or bounds[1] >= since_us) and (until_us is None or bounds[0] < until_us)

    def read(self, columns: Sequence[str] | None = None, *, features: bool = True) -> pa.Table:
        """Its rows, with all columns or with those and, if wanted, the features'; raises Unavailable for a damaged file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                wanted = [n for n in names if columns is None or n in columns or (features and n.startswith(FEATURE))]
                found = file.read(wanted)
        except (OSError, pa.ArrowException) as err:
            raise self._damaged(err) from err
        if MODEL in wanted:  # it may have been called otherwise when they were written
            found = found.set_column(wanted.index(MODEL), MODEL, pa.repeat(self.model, found.num_rows))
        return found

    def names(self) -> list[str]:
        """Of its columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            names: list[str] = pq.read_schema(self.path).names
        except (OSError, pa.ArrowException) as err:
            raise self._damaged(err) from err
        return names

    def highest(self, column: str) -> Any:
        """The greatest value of a column, by the file's own statistics; None where it has none."""
        bounds = self.bounds(column)
        return bounds[1] if bounds else None

    def bounds(self, column: str) -> tuple[Any, Any] | None:
        """The least and the greatest value of a column, by the file's own statistics; None where it has none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                at = file.schema_arrow.names.index(column)
                groups = [file.metadata.row_group(n).column(at) for n in range(file.metadata.num_row_groups)]
        except (OSError, ValueError, pa.ArrowException) as err:
            raise self._damaged(err) from err
        found = [group.statistics for group in groups if group.statistics and group.statistics.has_min_max]
        return (min(one.min for one in found), max(one.max for one in found)) if found else None

    def _damaged(self, err: Exception) -> Unavailable:
        name = "/".join(self.path.parts[-3:])
        return Unavailable(
            f"The prediction log's file {name} cannot be read: {str(err).splitlines()[0][:200]}",
            hint="Restore it from a backup, or move it away: what it holds is then missing from the log.",
        )


class Files:
    """All files of the log, listed once and then kept in mind; one thread at a time may use it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root / READING, ignore_errors=True)
        self._folders = {folder: _sweep(folder) for folder in sorted(root.glob("model=*/version=*"))}
        self._unmergeable: set[Path] = set()
        self.number = max((file.last for files in self._folders.values() for file in files), default=0)
        """The highest one that a file has."""

    def append(self, model: str, version: int, rows: pa.Table) -> None:
        """Write rows as the next file of a version, on disk when this returns."""
        folder = self._root / f"model={model}" / f"version={version}"
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            for made in (folder.parent, self._root):
                sync_folder(made)
            self._folders[folder] = []
        self.number += 1
        self._folders[folder].append(_write(folder, self.number, self.number, rows))
        self._merge_safely(folder)

    def of(self, model: str) -> list[LogFile]:
        """A model's files, of all its versions, the newest first."""
        parent = self._root / f"model={model}"
        return sorted((f for folder, files in self._folders.items() if folder.parent == parent for f in files))[::-1]

    def all(self) -> list[LogFile]:
        """The files of all models."""
        return [file for files in self._folders.values() for file in files]

    def models(self) -> list[str]:
        """The models that have files, by name."""
        return sorted({folder.parent.name.removeprefix("model=") for folder, files in self._folders.items() if files})

    def replace(self, file: LogFile, rows: pa.Table) -> int:
        """Put rows in the place of those of a file, on disk when this returns; the bytes that were freed."""
        folder = file.path.parent
        files = self._folders[folder]
        at = files.index(file)
        if not rows.num_rows and file.last < self.number and folder not in self._unmergeable:
            file.path.unlink()
            sync_folder(folder)
            del files[at]
            return file.size
        files[at] = _write(folder, file.first, file.last, rows)
        return file.size - files[at].size

    def move(self, former: str, name: str) -> None:
        """Put the files of one model among those of another, or of none; what a crash leaves is moved when it is done again."""
        source, target = (self._root / f"model={one}" for one in (former, name))
        for folder in [folder for folder in self._folders if folder.parent == source]:
            to, files = target / folder.name, self._folders[folder]
            if to in self._folders:  # numbers of both may overlap, so that their files cannot lie side by side
                for file in files:
                    self.number += 1
                    self._folders[to].append(_write(to, self.number, self.number, file.read()))
                    file.path.unlink()
            else:
                target.mkdir(parents=True, exist_ok=True)
                folder.rename(to)
                self._folders[to] = [LogFile(file.last, file.first, to / file.path.name, file.size) for file in files]
                if folder in self._unmergeable:
                    self._unmergeable.add(to)
            del self._folders[folder]
            for changed in (source, target, self._root):
                sync_folder(changed)

    def link(self, files: Sequence[LogFile]) -> tuple[Path, list[LogFile]]:
        """A folder to be removed after reading, with these files in it."""
        folder = self._root / READING / str(time.monotonic_ns())
        found = []
        for file in files:
            path = folder / file.path.relative_to(self._root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(file.path)
            found.append(LogFile(file.last, file.first, path, file.size))
        return folder, found

    def _merge_safely(self, folder: Path) -> None:
        """The rows are on disk already: a merge that fails must not look as if they were not."""
        if folder in self._unmergeable:
            return
        try:
            self._merge(folder)
        except (OSError, Unavailable) as err:
            self._unmergeable.add(folder)
            _log.warning("The files of %s are not merged until the next start: %s", folder, err)

    def _merge(self, folder: Path) -> None:
        for tier in TIERS:
            files = self._folders[folder]
            small = _tail_below(files, tier)
            if len(small) < MERGE_AT or sum(file.size for file in small) > MERGE_BYTES:
                continue
            import pyarrow as pa

            merged = pa.concat_tables([file.read() for file in small], promote_options="default")
            files[-len(small) :] = [_write(folder, small[0].first, small[-1].last, merged)]
            for file in small:
                file.path.unlink()


def _tail_below(files: Sequence[LogFile], size: int) -> list[LogFile]:
    """The newest files, as far back as they are smaller than a size."""
    start = len(files)
    while start and files[start - 1].size < size:
        start -= 1
    return list(files[start:])


def _write(folder: Path, first: int, last: int, table: pa.Table) -> LogFile:
    import pyarrow.parquet as pq

    temporary = folder / f".{first}-{time.monotonic_ns()}.tmp"
    path = folder / f"{first:010}-{last:010}.parquet"
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=repeating(table))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.rename(path)
        sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return LogFile(last, first, path, size)


def repeating(table: pa.Table) -> list[str]:
    """The columns whose values come again, by the first of them: only these take less time and room with a dictionary."""
    import pyarrow.compute as pc

    some = table.slice(0, LOOKED_AT)
    return [name for name in some.column_names if 2 * pc.count_distinct(some.column(name)).as_py() <= some.num_rows]


def _sweep(folder: Path) -> list[LogFile]:
    """Remove what a crash left behind; the files that count, oldest first."""
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink()
    found = [
        LogFile(int(match[2]), int(match[1]), path, path.stat().st_size)
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name))
    ]
    kept: list[LogFile] = []
    for file in sorted(found, key=lambda f: (f.first, -f.last)):
        if kept and file.last <= kept[-1].last:
            file.path.unlink()
        else:
            kept.append(file)
    return kept


# -- rows and tables ----------------------------------------------------------------------------------------------------


def from_table(table: pa.Table) -> Iterator[Prediction]:
    """The predictions of a file's table, which are of one version and so have the same features."""
    features = [(name, name.removeprefix(FEATURE)) for name in table.column_names if name.startswith(FEATURE)]
    for row in table.to_pylist():
        yield Prediction(
            **{name: row[name] for name in ("id", "model", "version", "role", "caller", "score", "latency_ms")},
            at=from_us(row["at_us"]),
            domain_at=from_us(row["domain_us"]),
            entity=msgspec.json.decode(row["entity"]),
            features={feature: row[column] for column, feature in features},
        )
