"""The prediction log: every answer, with the features it was given from.

`put` never blocks: batches of rows wait in a bounded queue, and one thread writes them to Parquet, a file per model version and
flush (see `predfiles`). What is not yet flushed at a kill -9 is lost: at most one flush interval.

Two locks, and none is taken while the first is held: `_lock` guards the queue and the counts, for microseconds; `_writing`
guards the files, and is held while they are written or read.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import Unavailable
from mlbox.records import Prediction, ServeRole
from mlbox.serve.batches import NOTHING, Batch, Given, table_of
from mlbox.serve.predfiles import FEATURE, Files, LogFile, from_table
from mlbox.serve.routing import Traffic

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Role = tuple[str, int, ServeRole]
LATENCIES = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """The last served predictions, oldest first: a float64 array per feature, NaN for missing, the scores, who gave them."""

    features: dict[str, np.ndarray]
    scores: np.ndarray
    versions: np.ndarray
    ids: Sequence[str] = ()
    domain_us: np.ndarray | Sequence[int] = ()

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.scores)


Observer = Callable[[Batch], None]
ErrorObserver = Callable[[str, int, ServeRole, Given], None]


class Removed(NamedTuple):
    """What was removed from one file."""

    model: str
    ids: list[str]
    bytes: int


Going = Callable[[LogFile], "pa.BooleanArray | None"]
"""Which rows of a file are to go; None where none are, and it need not be looked at closer."""


@dataclass
class Count:
    """What one role of one version did since the server started."""

    rows: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))


class PredictionLog:
    """Rows in memory for at most a flush interval, then on disk."""

    def __init__(self, root: Path, *, queue_limit: int = 50_000, flush_seconds: float = 1.0) -> None:
        self._limit = queue_limit
        self._every = flush_seconds
        self._lock = threading.Lock()
        self._waiting: list[Batch] = []
        self._held = 0
        """How many rows wait."""
        self._counts: dict[Role, Count] = {}
        self.dropped = 0
        """Rows that are not in the log: they found the queue full, or could not be written as Parquet."""
        self._observers: list[Observer] = []
        self._error_observers: list[ErrorObserver] = []
        self._files = Files(root)
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mlbox-predlog", daemon=True)
        self._thread.start()

    # -- taking rows ------------------------------------------------------------------------------------------------

    def put(self, batches: Sequence[Batch]) -> None:
        """Take rows; past the queue's limit they are dropped and counted."""
        with self._lock:
            for batch in batches:
                count = self._count((batch.model, batch.version, batch.role))
                count.rows += len(batch.ids)
                count.latencies.extend(batch.latencies[:LATENCIES])
                self._hold(batch)
        for batch in batches:
            for observer in self._observers:
                observer(batch)

    def _count(self, role: Role) -> Count:
        count = self._counts.get(role)
        if count is None:
            count = self._counts[role] = Count()
        return count

    def _hold(self, batch: Batch) -> None:
        if self._held + len(batch.ids) > self._limit:
            self.dropped += len(batch.ids)
        else:
            self._held += len(batch.ids)
            self._waiting.append(batch)

    def record_error(self, model: str, version: int, role: ServeRole, *, rows: int = 1, given: Given = NOTHING) -> None:
        """A version failed on this many rows; they count like those that it answered, or large requests would hide."""
        with self._lock:
            self._count((model, version, role)).errors += rows
        for observer in self._error_observers:
            observer(model, version, role, given)

    def on_prediction(self, observer: Observer) -> None:
        """Have a function told of all rows, in the thread that put them; it must return at once."""
        self._observers.append(observer)

    def on_error(self, observer: ErrorObserver) -> None:
        """Have a function told of each run that failed: model, version, role and its rows; it must return at once."""
        self._error_observers.append(observer)

    # -- figures ----------------------------------------------------------------------------------------------------

    def traffic(self, model: str, version: int, role: ServeRole) -> Traffic:
        """What a role of a version did since the server started; p95 over its last 1,000."""
        with self._lock:
            count = self._counts.get((model, version, role))
            if count is None:
                return Traffic()
            rows, errors, latencies = count.rows, count.errors, list(count.latencies)
        return Traffic(count=rows, errors=errors, p95_ms=_p95(latencies))

    def counters(self) -> dict[Role, tuple[int, int]]:
        """Rows and errors of every role since the server started."""
        with self._lock:
            return {role: (count.rows, count.errors) for role, count in self._counts.items()}

    # -- writing ----------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping.wait(self._every):
            with self._writing:
                self._flush_safely()

    def flush(self) -> None:
        """Put everything that waits on disk; raises OSError, with the rows kept, when the disk refuses."""
        with self._writing:
            self._flush()

    def _flush_safely(self) -> None:
        """A disk that refuses must not end writing or reading: the rows wait on, and the next flush tries again."""
        try:
            self._flush()
        except OSError as err:
            _log.warning("The prediction log could not be written: %s", err)

    def _flush(self) -> None:
        with self._lock:
            batches, self._waiting, self._held = self._waiting, [], 0
        parts: dict[tuple[str, int], list[Batch]] = {}
        for batch in batches:
            parts.setdefault((batch.model, batch.version), []).append(batch)
        try:
            while parts:
                (model, version), part = next(iter(parts.items()))
                self._append(model, version, part)
                del parts[model, version]
        except OSError:
            self._keep([batch for part in parts.values() for batch in part])
            raise

    def _keep(self, batches: list[Batch]) -> None:
        """What the disk refused waits on, before what came since, as far as there is room."""
        with self._lock:
            found, self._waiting, self._held = [*batches, *self._waiting], [], 0
            for batch in found:
                self._hold(batch)

    def _append(self, model: str, version: int, batches: Sequence[Batch]) -> None:
        """One odd batch must not hold up the log for ever: what is not the disk's fault is dropped, counted and told."""
        try:
            self._files.append(model, version, table_of(batches))
        except OSError:
            raise
        except Exception:
            rows = sum(len(batch.ids) for batch in batches)
            _log.exception("%s predictions of %s/%s could not be written.", rows, model, version)
            with self._lock:
                self.dropped += rows

    # -- reading ----------------------------------------------------------------------------------------------------

    def flushed_upto(self, model: str) -> int:
        """The number of the last flush of a model."""
        with self._writing:
            return max((file.last for file in self._files.of(model)), default=0)

    def window(
        self,
        model: str,
        *,
        limit: int = 10_000,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
    ) -> Window:
        """The last predictions that users were given, of all the model's versions; no shadows.

        `since` and `until` are domain time. With `after`, of what was flushed after that number; a file that was merged
        meanwhile may hold rows from before it as well.
        """
        import numpy as np
        import pyarrow as pa

        parts = self._newest(
            model,
            limit,
            columns=("id", "version", "role", "domain_us", "score"),
            shadows=False,
            since_us=None if since is None else to_us(since),
            until_us=None if until is None else to_us(until),
            after=after,
        )
        if not parts:
            return Window({}, np.empty(0), np.empty(0, np.int64))
        rows = pa.concat_tables(parts, promote_options="default").sort_by("id")
        features = {
            name.removeprefix(FEATURE): rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in rows.column_names
            if name.startswith(FEATURE)
        }
        scores = rows.column("score").to_numpy(zero_copy_only=False).astype(np.float64)
        return Window(
            features,
            scores,
            rows.column("version").to_numpy(),
            rows.column("id").to_pylist(),
            rows.column("domain_us").to_numpy(),
        )

    def recent(self, model: str, limit: int = 100, *, after: str | None = None) -> list[Prediction]:
        """The last predictions of a model, newest first, from below the id `after`."""
        rows = [row for part in self._newest(model, limit, before=after) for row in from_table(part)]
        return sorted(rows, key=lambda row: row.id, reverse=True)

    def find(self, ids: Collection[str]) -> dict[str, tuple[dict[str, Any], datetime]]:
        """The entity and the moment of domain time of predictions, by id; those that the log does not have are left out."""
        rows = self._named(ids, ("id", "entity", "domain_us"))
        return {row["id"]: (msgspec.json.decode(row["entity"]), from_us(row["domain_us"])) for row in rows}

    def located(self, ids: Collection[str]) -> dict[str, tuple[str, int, datetime]]:
        """Model, version and moment of domain time of predictions, by id; those that the log does not have are left out."""
        rows = self._named(ids, ("id", "model", "version", "domain_us"))
        return {row["id"]: (row["model"], row["version"], from_us(row["domain_us"])) for row in rows}

    def _named(self, ids: Collection[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        import pyarrow.compute as pc

        found: list[dict[str, Any]] = []
        with self._writing:
            self._flush_safely()
            for file in self._files.all():
                bounds = file.bounds("id")
                wanted = [key for key in ids if bounds is None or bounds[0] <= key <= bounds[1]]
                if wanted:
                    found += file.read(columns, features=False).filter(pc.field("id").isin(wanted)).to_pylist()
        return found

    def spanning(self, model: str, *, columns: Sequence[str], since: datetime, until: datetime) -> Iterator[pa.Table]:
        """Columns of each of a model's files that may hold a row from `since` to before `until`, in domain time."""
        with self.reading(model) as files:
            for file in files:
                if file.spans(to_us(since), to_us(until)):
                    yield file.read(columns, features=False)

    @contextlib.contextmanager
    def reading(self, model: str) -> Iterator[list[LogFile]]:
        """A model's files as they are now, the newest first, for as long as it takes to read them: writing goes on beside it."""
        with self._writing:
            self._flush_safely()
            folder, files = self._files.link(self._files.of(model))
        try:
            yield files
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def flushed(self, model: str, *, after: int, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """What of a model was flushed after a number, oldest first: a file's rows, and its number to go on from.

        A file that was merged meanwhile may hold rows from before the number as well.
        """
        while True:
            with self._writing:
                self._flush_safely()
                file = next((one for one in reversed(self._files.of(model)) if one.last > after), None)
                table = file.read(columns, features=False) if file is not None else None
            if file is None or table is None:
                return
            after = file.last
            yield after, table

    def _newest(
        self,
        model: str,
        limit: int,
        *,
        columns: Sequence[str] | None = None,
        shadows: bool = True,
        before: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        after: int = 0,
    ) -> list[pa.Table]:
        """The last rows, a table for each file that has some of them.

        Files are read from the newest back, until none that is left can hold a row that is newer than those found: merged
        files of several versions overlap in time.
        """
        import pyarrow.compute as pc

        parts: list[pa.Table] = []
        newest: list[str] = []
        """The ids of the last `limit` rows so far."""
        with self._writing:
            self._flush_safely()
            for file in self._files.of(model):
                if file.last <= after:
                    break
                if since_us is not None and _is_older(file, "domain_us", since_us):
                    break
                if len(newest) == limit and _is_older(file, "id", newest[-1]):
                    break
                kept = _kept(file.read(columns), shadows, before, (since_us, until_us))
                if kept.num_rows:
                    parts.append(kept)
                    newest = heapq.nlargest(limit, [*newest, *kept.column("id").to_pylist()])
        return [part.filter(pc.field("id") >= newest[-1]) for part in parts]

    # -- removing ---------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """The models that the log has rows of on disk."""
        with self._writing:
            self._flush_safely()
            return self._files.models()

    def kept(self, model: str) -> tuple[int, int, datetime | None]:
        """Files and bytes of a model on disk, and when its oldest row was made, in real time."""
        with self._writing:
            files = self._files.of(model)
            firsts = [bounds[0] for file in _oldest_of_each(files) if (bounds := file.bounds("at_us"))]
        return len(files), sum(file.size for file in files), from_us(min(firsts)) if firsts else None

    def removing(
        self, model: str | None, going: Going, before: Callable[[str, list[str]], None] = lambda model, ids: None
    ) -> Iterator[Removed]:
        """Remove the rows that `going` points at, of all that was put before, a file at a time; writing goes on in between.

        `before` is told of a file's rows before they go, what is yielded after that. Raises OSError when the disk refuses what
        waits, and Unavailable for a damaged file.
        """
        with self._writing:
            self._flush()
            upto = self._files.number
        seen: set[Path] = set()
        while True:
            with self._writing:
                files = self._files.all() if model is None else self._files.of(model)
                file = next((one for one in files if one.first <= upto and one.path not in seen), None)
                if file is None:
                    return
                seen.add(file.path)  # if it is merged later, its rows are looked at again in another file
                removed = self._remove_from(file, going, before)
            if removed is not None:
                yield removed

    def _remove_from(self, file: LogFile, going: Going, before: Callable[[str, list[str]], None]) -> Removed | None:
        import pyarrow.compute as pc

        mask = going(file)
        if mask is None:
            return None
        ids = file.read(("id",), features=False).filter(mask).column("id").to_pylist()
        if not ids:
            if not len(mask) and file.last < self._files.number:
                self._files.replace(file, file.read())  # it was emptied while it was the newest
            return None
        before(file.model, ids)
        return Removed(file.model, ids, self._files.replace(file, file.read().filter(pc.invert(mask))))

    # -- the end ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The writer lives."""
        if not self._thread.is_alive():
            raise Unavailable("The prediction log's writer has ended.", hint="Restart the server.")

    def close(self) -> None:
        """Write what waits and stop."""
        self._stopping.set()
        self._thread.join()
        with self._writing:
            self._flush_safely()


def _kept(table: pa.Table, shadows: bool, before: str | None, span: tuple[int | None, int | None]) -> pa.Table:
    import pyarrow.compute as pc

    if not shadows:
        table = table.filter(pc.field("role") != "shadow")
    if before is not None:
        table = table.filter(pc.field("id") < before)
    since_us, until_us = span
    if since_us is not None:
        table = table.filter(pc.field("domain_us") >= since_us)
    if until_us is not None:
        table = table.filter(pc.field("domain_us") < until_us)
    return table


def _oldest_of_each(files: Sequence[LogFile]) -> list[LogFile]:
    """The first file of each version."""
    return list({file.path.parent: file for file in sorted(files, reverse=True)}.values())


def _is_older(file: LogFile, column: str, than: str | int) -> bool:
    """True when all of a file lies before a value, by its own statistics."""
    highest = file.highest(column)
    return highest is not None and highest < than


def _p95(latencies: Sequence[float]) -> float | None:
    if not latencies:
        return None
    return sorted(latencies)[min(len(latencies) - 1, int(0.95 * len(latencies)))]
