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
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.clock import from_us, to_us
from mlbox.errors import Unavailable
from mlbox.records import Prediction
from mlbox.serve.predictions.batches import SHARE, Batch, table_of
from mlbox.serve.predictions.files import FEATURE, Files, LogFile, from_table
from mlbox.serve.predictions.intake import Intake
from mlbox.serve.predictions.window import Window, window_of

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
COLUMNS = ("id", "version", "role", "domain_us", "score", SHARE)
"""Of a window, beside the features'."""


class Removed(NamedTuple):
    """What was removed from one file."""

    model: str
    ids: list[str]
    bytes: int


Going = Callable[[LogFile], "pa.BooleanArray | None"]
"""Which rows of a file are to go; None where none are, and it need not be looked at closer."""


class PredictionLog(Intake):
    """Rows in memory for at most a flush interval, then on disk."""

    def __init__(
        self, root: Path, *, queue_limit: int = 50_000, flush_seconds: float = 1.0, remembered: int = 10_000
    ) -> None:
        super().__init__(queue_limit=queue_limit, remembered=remembered)
        self._every = flush_seconds
        self._files = Files(root)
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mlbox-predlog", daemon=True)
        self._thread.start()

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
        parts: dict[tuple[str, int], list[Batch]] = {}
        for batch in self._take():
            parts.setdefault((batch.model, batch.version), []).append(batch)
        try:
            while parts:
                (model, version), part = next(iter(parts.items()))
                self._append(model, version, part)
                del parts[model, version]
        except OSError:
            self._keep([batch for part in parts.values() for batch in part])
            raise

    def _append(self, model: str, version: int, batches: Sequence[Batch]) -> None:
        """One odd batch must not hold up the log for ever: what is not the disk's fault is dropped, counted and told."""
        try:
            self._files.append(model, version, table_of(batches))
        except OSError:
            raise
        except Exception:
            rows = sum(len(batch.ids) for batch in batches)
            _log.exception("%s predictions of %s/%s could not be written.", rows, model, version)
            self._drop(rows)

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
        parts = self._newest(
            model,
            limit,
            columns=COLUMNS,
            shadows=False,
            since_us=None if since is None else to_us(since),
            until_us=None if until is None else to_us(until),
            after=after,
        )
        return window_of(parts)

    def served(self, model: str, *, limit: int, since: datetime | None = None, after: int = 0) -> Window:
        """As `window`, with the rows that sampling left out meanwhile, as far as they are remembered."""
        since_us = None if since is None else to_us(since)
        parts = self._newest(model, limit, columns=COLUMNS, shadows=False, since_us=since_us, after=after)
        found = self._unkept.of(model)
        if found is None:
            return window_of(parts)
        whole_from, left = found
        wanted = [name for name in left.column_names if name in COLUMNS or name.startswith(FEATURE)]
        left = _kept(left.select(wanted), False, None, (since_us, None))
        return window_of([*parts, left], whole_from=whole_from)

    def answered(self, model: str, *, limit: int, since: datetime | None = None) -> Window:
        """As `window`, with each row's entity and its request's time."""
        since_us = None if since is None else to_us(since)
        columns = (*COLUMNS, "entity", "latency_ms")
        return window_of(self._newest(model, limit, columns=columns, shadows=False, since_us=since_us))

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

    # -- moving and removing ----------------------------------------------------------------------------------------

    def move(self, former: str, name: str) -> None:
        """Have the rows of a model, which is called otherwise now, follow to its name; raises Unavailable."""
        try:
            with self._writing:
                self._flush()
                self._files.move(former, name)
        except OSError as err:
            raise Unavailable(
                f"The predictions of {former} could not be moved: {err}.", hint="Make room, then try again."
            ) from err
        self.forget(former)

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
