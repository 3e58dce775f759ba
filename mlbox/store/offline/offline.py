"""The offline store: one hardened DuckDB file, opened at first use.

Invariants
- No external access, no extensions, memory and temporary space limited, configuration locked. SQL that a user wrote does not
  run here at all, but in a process of its own (see `sandbox`).
- One writer at a time, each write a transaction; every reader has a cursor of its own.
- A fatal error of DuckDB closes the connection, and the next call opens the file anew.
- All times are UTC without a zone, because arithmetic with zones takes an extension.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mlbox.errors import InvalidInput, MlboxError, Unavailable

if TYPE_CHECKING:
    import duckdb

    Cursor = duckdb.DuckDBPyConnection

T = TypeVar("T")
QUERY_SECONDS = 300.0
"""A query is interrupted after this long."""
_RESTORE = "It is never recreated by itself: restore the file from a backup."


class Limits(NamedTuple):
    """What SQL may take, and where its files are."""

    folder: Path
    memory: str
    temp: str
    seconds: float
    threads: int


class Offline:
    """The DuckDB file of one box."""

    def __init__(
        self,
        path: Path,
        *,
        memory: str = "2GB",
        temp: str = "20GB",
        threads: int = 0,
        seconds: float = QUERY_SECONDS,
    ) -> None:
        self.limits = Limits(path.with_suffix(".sql"), memory, temp, seconds, threads)
        self._path = path
        self._made = path.with_suffix(".made")
        self._seconds = seconds
        self._schema: list[str] = []
        self._options: dict[str, str | bool | int | float | list[str]] = {
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": memory,
            "temp_directory": str(path.with_suffix(".tmp")),
            "max_temp_directory_size": temp,
            **({"threads": str(threads)} if threads else {}),
        }
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._connection: Cursor | None = None

    def prepare(self, sql: str) -> None:
        """Have statements executed whenever the file is opened; call it before the first use."""
        self._schema.append(sql)

    @property
    def used(self) -> bool:
        """Whether there is anything to open."""
        return self._connection is not None or self._made.exists() or self._path.exists()

    # -- using it ---------------------------------------------------------------------------------------------------

    def read(self, fn: Callable[[Cursor], T], *, seconds: float | None = None) -> T:
        """Run a function on a cursor of its own; it is interrupted after so many seconds."""
        with self._cursor(seconds or self._seconds) as cursor:
            return fn(cursor)

    def snapshot(self, fn: Callable[[Cursor], T]) -> T:
        """As `read`, of one moment's data, whatever is written meanwhile."""
        with self._cursor(self._seconds) as cursor:
            cursor.begin()
            try:
                return fn(cursor)
            finally:
                with contextlib.suppress(Exception):  # a failed transaction may be gone already
                    cursor.rollback()

    def write(self, fn: Callable[[Cursor], T], *, seconds: float | None = None) -> T:
        """Run a function as one transaction, one at a time."""
        with self._write_lock, self._cursor(seconds or self._seconds) as cursor:
            cursor.begin()
            try:
                value = fn(cursor)
                cursor.commit()
            except BaseException:
                with contextlib.suppress(Exception):  # a failed transaction may be gone already
                    cursor.rollback()
                raise
            return value

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        return self.read(lambda cursor: cursor.execute(sql, list(parameters)).fetchall())

    def check(self) -> None:
        """A real query; raises Unavailable. A store that was never used is not opened for it."""
        if self.used:
            self.rows("SELECT count(*) FROM duckdb_tables()")

    def copy_to(self, target: Path) -> None:
        """Copy the file, and what its log has besides, into a folder while nobody writes to it."""
        with self._write_lock:
            self._open()
            for path in (self._path, self._path.with_name(f"{self._path.name}.wal")):
                if path.exists():  # by another process: closing a file here would let go of DuckDB's lock on it
                    subprocess.run(["cp", "--reflink=auto", path, target], check=True, capture_output=True)

    def close(self) -> None:
        """Close the file; it is opened again at the next use."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _cursor(self, seconds: float) -> Iterator[Cursor]:
        import duckdb

        cursor = self._open().cursor()
        timer = threading.Timer(seconds, cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield cursor
        except MlboxError:
            raise
        except duckdb.InterruptException as err:
            raise InvalidInput(f"The query took longer than {seconds:g} s.", hint="Ask for less.", field="sql") from err
        except (duckdb.FatalException, duckdb.InternalException, duckdb.IOException, duckdb.ConnectionException) as err:
            self._drop()
            raise Unavailable(f"The offline store failed: {first_line(err)}.", hint="Try again.") from err
        except duckdb.OutOfMemoryException as err:
            raise Unavailable(
                f"The offline store ran out of memory: {first_line(err)}.", hint="Raise duckdb_memory, or ask for less."
            ) from err
        finally:
            timer.cancel()
            with contextlib.suppress(duckdb.Error):
                cursor.close()

    def _open(self) -> Cursor:
        import duckdb

        with self._lock:
            if self._connection is None:
                self._check_not_lost()
                try:
                    connection = duckdb.connect(self._path, config=self._options)
                    connection.execute("SET lock_configuration = true")
                    for sql in self._schema:
                        connection.execute(sql)
                except duckdb.Error as err:
                    raise Unavailable(f"The offline store cannot be opened: {first_line(err)}.", hint=_RESTORE) from err
                self._made.touch()
                self._connection = connection
            return self._connection

    def _check_not_lost(self) -> None:
        """A file that was there and is gone, or is empty, would be made anew by DuckDB, without a word."""
        if self._made.exists() and not (self._path.exists() and self._path.stat().st_size):
            raise Unavailable(f"The offline store's file {self._path.name} is gone.", hint=_RESTORE)

    def _drop(self) -> None:
        import duckdb

        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(duckdb.Error):
                    self._connection.close()
                self._connection = None


def one(cursor: Cursor, sql: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
    """The first row of a query, read to its end: a cursor does nothing else before."""
    rows = cursor.execute(sql, list(parameters)).fetchall()
    return rows[0] if rows else None


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def first_line(err: BaseException) -> str:
    """What DuckDB said, without its picture of the query."""
    return str(err).strip().split("\n", 1)[0].rstrip(".")
