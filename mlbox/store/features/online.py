"""The online store: the latest row of each entity and view, one read away.

diskcache holds it behind a Disk of ours: keys are strings, values are bytes, and nothing is ever pickled. Its own eviction is
off, because by default it drops rows in silence past 1 GiB, and its SQLite is told to sync, because the offline store remembers
what was written here. Many keys are read with one SELECT, and many rows written with one statement, over connections of ours to
the same table, as diskcache reads and writes one key at a time.

A row carries the time of its event, as the table's tag, and never gives way to a row of an older one: whatever the order in which
they arrive, the newer event is what is read.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import Unavailable
from mlbox.ids import new_id

if TYPE_CHECKING:
    from diskcache import Cache

_ID_KEY = "store-id"
_FILE = "cache.db"
_AT_ONCE = 500
"""Keys in one SELECT: SQLite bounds the number of parameters."""
_IN_ONE_TRANSACTION = 10_000
_UPSERT = """
INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value)
VALUES (?, 1, 0, NULL, 0, 0, ?, 0, 1, NULL, ?)
ON CONFLICT (key, raw) DO UPDATE SET value = excluded.value, tag = excluded.tag
WHERE Cache.tag IS NULL OR Cache.tag <= excluded.tag
"""
_DELETE = "DELETE FROM Cache WHERE key = ? AND raw = 1 AND (tag IS NULL OR tag <= ?)"
_RESTORE = "It is never recreated by itself: restore the folder, or remove online.made as well and materialize again."


class Written(NamedTuple):
    """A row as it is kept: its key, the time of its event in microseconds since 1970, and what is in it."""

    key: str
    event_us: int
    value: bytes


class Gone(NamedTuple):
    """A row that is to go, unless one of a newer event took its place."""

    key: str
    event_us: int


class Online:
    """Packed rows by key, in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = root.with_name(f"{root.name}.made")
        self._lock = threading.Lock()
        self._opened: Cache | None = None
        self._id: str | None = None
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        self._writer: sqlite3.Connection | None = None

    @property
    def used(self) -> bool:
        """Whether there is anything to open."""
        return self._opened is not None or self._made.exists() or self._root.exists()

    @property
    def is_open(self) -> bool:
        """Whether a read finds it open, and need not open it first."""
        return self._opened is not None

    @property
    def id(self) -> str:
        """Changes when the folder was made anew: what was written to another one has to be written again."""
        self._cache()
        assert self._id is not None
        return self._id

    def put(self, rows: Iterable[Written], *, gone: Iterable[Gone] = ()) -> int:
        """Remove rows that are gone, then write rows, 10,000 to a transaction; how many are new or took an older one's place."""
        count, todo, leaving = 0, iter(rows), iter(gone)
        while some_gone := list(islice(leaving, _IN_ONE_TRANSACTION)):
            self._change(_DELETE, some_gone)
        while some := list(islice(todo, _IN_ONE_TRANSACTION)):
            count += self._change(_UPSERT, some)
        return count

    def _change(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
        self._cache()
        with self._writing, _explained("could not write"):
            writer = self._writer or self._connect(writes=True)
            self._writer = writer
            with writer:  # a transaction: all of them, or none
                writer.execute("BEGIN IMMEDIATE")
                return writer.executemany(statement, rows).rowcount

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Each key's row, or None."""
        self._cache()
        found: dict[str, bytes] = {}
        with _explained("could not be read"):
            reader = self._reader()
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                found.update(reader.execute(f"SELECT key, value FROM Cache WHERE key IN ({marks}) AND raw = 1", some))
        return [found.get(key) for key in keys]

    def __len__(self) -> int:
        with _explained("could not be read"):
            return len(self._cache()) - 1

    def check(self) -> None:
        """A real read; raises Unavailable. A store that was never used is not opened for it."""
        if self.used and self.get([_ID_KEY]) == [None]:
            raise Unavailable("The online store has lost its own id.", hint=_RESTORE)

    def close(self) -> None:
        """Close the folder's files; no other call may run."""
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
            self._local = threading.local()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _cache(self) -> Cache:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._open()
        return self._opened

    def _open(self) -> None:
        file = self._root / _FILE
        if self._made.exists() and not (file.exists() and file.stat().st_size):
            raise Unavailable(f"The online store's file {self._root.name}/{_FILE} is gone.", hint=_RESTORE)
        with _explained("cannot be opened"):
            cache = _open(self._root)
            cache.add(_ID_KEY, new_id().encode())
            self._id = bytes(cache[_ID_KEY]).decode()
        self._made.touch()
        self._opened = cache

    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._connect(writes=False)
            self._local.reader = reader
            with self._lock:
                self._readers.append(reader)
        return reader

    def _connect(self, *, writes: bool) -> sqlite3.Connection:
        made = sqlite3.connect(self._root / _FILE, isolation_level=None, check_same_thread=False, timeout=10)
        made.execute("PRAGMA synchronous=FULL" if writes else "PRAGMA query_only=ON")
        made.execute("PRAGMA mmap_size=268435456")
        return made


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, KeyError) as err:
        raise Unavailable(f"The online store {what}: {err}.", hint="Check the disk, or restore the folder.") from err


def _open(root: Path) -> Cache:
    import diskcache

    class PlainDisk(diskcache.Disk):  # type: ignore[misc]
        """Strings as keys, bytes as values, in SQLite's own types; anything else is refused."""

        def put(self, key: str) -> tuple[str, bool]:
            if not isinstance(key, str):
                raise TypeError(f"An online key is a string, not {type(key).__name__}.")
            return key, True

        def get(self, key: str, raw: bool) -> str:
            return key

        def store(self, value: bytes, read: bool, key: Any = None) -> tuple[int, int, None, Any]:
            if not isinstance(value, bytes):
                raise TypeError(f"An online value is bytes, not {type(value).__name__}.")
            return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

        def fetch(self, mode: int, filename: str | None, value: bytes, read: bool) -> bytes:
            if mode != diskcache.core.MODE_RAW:
                raise TypeError(f"The online store holds a value of mode {mode}, which it never writes.")
            return bytes(value)

    return diskcache.Cache(
        str(root),
        disk=PlainDisk,
        eviction_policy="none",
        cull_limit=0,
        size_limit=2**62,
        statistics=0,
        sqlite_synchronous=2,
    )
