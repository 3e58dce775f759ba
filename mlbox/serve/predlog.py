"""The prediction log: every answer, with the features it was given from.

`put` never blocks: rows wait in a bounded queue, and one thread writes them to Parquet, a file per model version and flush,
fsynced under a temporary name and renamed. Small files are merged. What is not yet flushed at a kill -9 is lost: at most one
flush interval.

Invariants
- A file's name is the range of flush numbers in it, which rise over the life of the log, so names sort by time.
- A file whose range lies within another's is a merge's left-over, and is removed.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import Unavailable
from mlbox.records import Prediction, ServeRole
from mlbox.serve.routing import Traffic
from mlbox.store.datadir import sync_folder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Observer = Callable[[Sequence[Prediction]], None]
Role = tuple[str, int, ServeRole]
LATENCIES = 1000
MERGE_AT = 32
_NAME = re.compile(r"(\d{10})-(\d{10})\.parquet")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """The last served predictions of a model: a float64 array per feature, NaN for missing, the scores, who gave them."""

    features: dict[str, np.ndarray]
    scores: np.ndarray
    versions: np.ndarray

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.scores)


@dataclass
class Count:
    """What one role of one version did since the server started."""

    rows: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))


class PredictionLog:
    """Rows in memory for at most a flush interval, then on disk."""

    def __init__(self, root: Path, *, queue_limit: int = 50_000, flush_seconds: float = 1.0) -> None:
        self._root = root
        self._limit = queue_limit
        self._every = flush_seconds
        self._lock = threading.Lock()
        self._waiting: list[Prediction] = []
        self._counts: dict[Role, Count] = {}
        self.dropped = 0
        """Rows that found the queue full."""
        self._observers: list[Observer] = []
        self._sequence = _sweep(root)
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mlbox-predlog", daemon=True)
        self._thread.start()

    # -- taking rows ------------------------------------------------------------------------------------------------

    def put(self, rows: Sequence[Prediction]) -> None:
        """Take rows; past the queue's limit they are dropped and counted."""
        with self._lock:
            for row in rows:
                count = self._counts.setdefault((row.model, row.version, row.role), Count())
                count.rows += 1
                count.latencies.append(row.latency_ms)
            room = max(0, self._limit - len(self._waiting))
            self._waiting.extend(rows[:room])
            self.dropped += len(rows) - min(room, len(rows))
        for observer in self._observers:
            observer(rows)

    def record_error(self, model: str, version: int, role: ServeRole) -> None:
        """A prediction failed."""
        with self._lock:
            self._counts.setdefault((model, version, role), Count()).errors += 1

    def on_prediction(self, observer: Observer) -> None:
        """Have a function told of all rows, in the thread that put them; it must return at once."""
        self._observers.append(observer)

    # -- figures ----------------------------------------------------------------------------------------------------

    def traffic(self, model: str, version: int, role: ServeRole) -> Traffic:
        """What a role of a version did since the server started; p95 over its last 1,000."""
        with self._lock:
            count = self._counts.get((model, version, role))
            if count is None:
                return Traffic()
            return Traffic(count=count.rows, errors=count.errors, p95_ms=_p95(count.latencies))

    def counters(self) -> dict[Role, tuple[int, int]]:
        """Rows and errors of every role since the server started."""
        with self._lock:
            return {role: (count.rows, count.errors) for role, count in self._counts.items()}

    # -- writing ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                self.flush()
            except OSError as err:  # the rows wait on, and the next flush tries again
                _log.warning("The prediction log could not be written: %s", err)

    def flush(self) -> None:
        """Put everything that waits on disk."""
        with self._writing:
            with self._lock:
                rows, self._waiting = self._waiting, []
            if not rows:
                return
            try:
                self._write(rows)
            except OSError:
                with self._lock:
                    self._waiting = (rows + self._waiting)[: self._limit]
                raise

    def _write(self, rows: Sequence[Prediction]) -> None:
        parts: dict[tuple[str, int], list[Prediction]] = {}
        for row in rows:
            parts.setdefault((row.model, row.version), []).append(row)
        for (model, version), part in parts.items():
            folder = self._root / f"model={model}" / f"version={version}"
            folder.mkdir(parents=True, exist_ok=True)
            self._sequence += 1
            _write_file(folder, self._sequence, self._sequence, _to_table(part))
            self._merge(folder)

    def _merge(self, folder: Path) -> None:
        """Join many small files into one, so that reading stays quick."""
        small = [(path, span) for path, span in _files(folder) if span[0] == span[1]]
        if len(small) < MERGE_AT:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        merged = pa.concat_tables([pq.read_table(path) for path, _ in small], promote_options="default")
        _write_file(folder, small[0][1][0], small[-1][1][1], merged)
        for path, _ in small:
            path.unlink()

    # -- reading ----------------------------------------------------------------------------------------------------

    def window(self, model: str, *, limit: int = 10_000, since: datetime | None = None) -> Window:
        """The last predictions that users were given, of all the model's versions; no shadows."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        parts: list[pa.Table] = []
        for table in self._newest_first(model):
            kept = table.filter(pc.field("role") != "shadow")
            if since is not None:
                kept = kept.filter(pc.field("domain_us") >= to_us(since))
            parts.insert(0, kept)
            if sum(part.num_rows for part in parts) >= limit:
                break
        if not parts:
            return Window({}, np.empty(0), np.empty(0, np.int64))
        rows = pa.concat_tables(parts, promote_options="default")
        rows = rows.slice(max(0, rows.num_rows - limit))
        features = {
            name[2:]: rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in rows.column_names
            if name.startswith("f:")
        }
        return Window(
            features,
            rows.column("score").to_numpy(zero_copy_only=False).astype(np.float64),
            rows.column("version").to_numpy(),
        )

    def recent(self, model: str, limit: int = 100) -> list[Prediction]:
        """The last predictions of a model, newest first."""
        found: list[Prediction] = []
        for table in self._newest_first(model):
            found.extend(reversed(_from_table(table)))
            if len(found) >= limit:
                break
        return found[:limit]

    def _newest_first(self, model: str) -> Iterator[pa.Table]:
        self.flush()
        import pyarrow.parquet as pq

        paths = [entry for folder in (self._root / f"model={model}").glob("version=*") for entry in _files(folder)]
        for path, _ in sorted(paths, key=lambda entry: entry[1], reverse=True):
            yield pq.ParquetFile(path).read()

    # -- the end ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The writer lives."""
        if not self._thread.is_alive():
            raise Unavailable("The prediction log's writer has ended.", hint="Restart the server.")

    def close(self) -> None:
        """Write what waits and stop."""
        self._stopping.set()
        self._thread.join()
        self.flush()


def _p95(latencies: Sequence[float]) -> float | None:
    if not latencies:
        return None
    return sorted(latencies)[min(len(latencies) - 1, int(0.95 * len(latencies)))]


def _to_table(rows: Sequence[Prediction]) -> pa.Table:
    import pyarrow as pa

    features = dict.fromkeys(name for row in rows for name in row.features)
    columns: dict[str, Any] = {
        "id": [row.id for row in rows],
        "model": [row.model for row in rows],
        "version": pa.array([row.version for row in rows], pa.int64()),
        "role": [row.role for row in rows],
        "at_us": pa.array([to_us(row.at) for row in rows], pa.int64()),
        "domain_us": pa.array([to_us(row.domain_at) for row in rows], pa.int64()),
        "caller": [row.caller for row in rows],
        "entity": [msgspec.json.encode(row.entity).decode() for row in rows],
        "score": pa.array([row.score for row in rows], pa.float64()),
        "latency_ms": pa.array([row.latency_ms for row in rows], pa.float64()),
    }
    columns |= {f"f:{name}": pa.array([row.features.get(name) for row in rows], pa.float64()) for name in features}
    return pa.table(columns)


def _from_table(table: pa.Table) -> list[Prediction]:
    return [
        Prediction(
            **{name: row[name] for name in ("id", "model", "version", "role", "caller", "score", "latency_ms")},
            at=from_us(row["at_us"]),
            domain_at=from_us(row["domain_us"]),
            entity=msgspec.json.decode(row["entity"]),
            features={name[2:]: value for name, value in row.items() if name.startswith("f:")},
        )
        for row in table.to_pylist()
    ]


def _write_file(folder: Path, first: int, last: int, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    temporary = folder / f".{first}-{time.monotonic_ns()}.tmp"
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"{first:010}-{last:010}.parquet")
        sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    """A folder's files with their ranges, oldest first."""
    found = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(((path, (int(m[1]), int(m[2]))) for path, m in found), key=lambda entry: entry[1])


def _sweep(root: Path) -> int:
    """Remove what a crash left behind; the last flush number."""
    last = 0
    root.mkdir(parents=True, exist_ok=True)
    for folder in root.glob("model=*/version=*"):
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()
        files = _files(folder)
        for path, (first, end) in files:
            last = max(last, end)
            if any(a <= first and end <= b and (a, b) != (first, end) for _, (a, b) in files):
                path.unlink()
    return last
