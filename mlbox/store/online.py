"""The online store: the latest row of each entity and view, one read away.

diskcache holds it behind a Disk of ours: keys are strings, values are bytes, and nothing is ever pickled. Its own eviction is
off, because by default it drops rows in silence past 1 GiB.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.errors import Unavailable
from mlbox.ids import new_id

if TYPE_CHECKING:
    from diskcache import Cache

_ID_KEY = "store-id"


class Online:
    """Packed rows by key, in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: Cache | None = None

    @property
    def _cache(self) -> Cache:
        if self._opened is None:
            self._opened = _open(self._root)
        return self._opened

    @property
    def id(self) -> str:
        """Changes when the folder was made anew: what was written to another one has to be written again."""
        found = self._cache.get(_ID_KEY)
        if found is None:
            self._cache.set(_ID_KEY, new_id().encode())
            found = self._cache.get(_ID_KEY)
        return bytes(found).decode()

    def put(self, rows: Iterable[tuple[str, bytes]]) -> int:
        """Write rows in one transaction; how many."""
        count = 0
        try:
            with self._cache.transact(retry=True):
                for key, value in rows:
                    self._cache.set(key, value, retry=True)
                    count += 1
        except sqlite3.Error as err:
            raise Unavailable(f"The online store could not write: {err}.", hint="Check the disk.") from err
        return count

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Each key's row, or None."""
        try:
            return [self._cache.get(key) for key in keys]
        except sqlite3.Error as err:
            raise Unavailable(f"The online store could not be read: {err}.", hint="Check the disk.") from err

    def __len__(self) -> int:
        return max(0, len(self._cache) - 1)

    def check(self) -> None:
        """A real read; raises Unavailable. A store that was never used is not opened for it."""
        if self._opened is not None or self._root.exists():
            self.get([_ID_KEY])

    def close(self) -> None:
        """Close the folder's files."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


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

    try:
        return diskcache.Cache(
            str(root), disk=PlainDisk, eviction_policy="none", cull_limit=0, size_limit=2**62, statistics=0
        )
    except sqlite3.Error as err:
        raise Unavailable(
            f"The online store cannot be opened: {err}.", hint="Restore it, or remove its folder."
        ) from err
