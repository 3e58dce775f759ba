"""One SQLite file: one writer thread with group commit, any number of readers.

A write is a function of a `Tx`. The writer takes whatever functions wait, runs each inside a savepoint of one transaction,
commits once, and only then answers them all: with `synchronous=FULL` one fsync acknowledges many writes, and an answer
means that the write is on disk. A function that raises takes back its own savepoint only.

Invariants
- A future is resolved only after the COMMIT that holds its write has returned.
- Events emitted in a `Tx` are rows of the same transaction and are published after it, in commit order.
- Readers are query-only connections, one per thread; WAL lets them read beside the writer.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from sqlite_utils import Database as Migratable
from sqlite_utils.migrations import Migrations

from mlbox.clock import Clock, from_us, to_us
from mlbox.errors import MlboxError, Unavailable
from mlbox.events import EventBus
from mlbox.ids import go_on_after, new_id
from mlbox.records import Event
from mlbox.store import asking, audit

T = TypeVar("T")
Row = sqlite3.Row
_MAX_GROUP = 256
_AT_ONCE = 8
_PLACES = ",".join("?" * (len(audit.COLUMNS) + 2))
_INSERT_EVENT = f"INSERT INTO event ({', '.join(audit.COLUMNS)}, previous, hash) VALUES ({_PLACES})"
_INSERT_EVENTS = _INSERT_EVENT + f",({_PLACES})" * (_AT_ONCE - 1)

_Write = tuple[Callable[["Tx"], Any], "Future[Any]", "str | None"]
"""A function, who waits for it, and the token by which it was asked for."""


class Privacy(Protocol):
    """What whoever asks may know of (see `teams`)."""

    def visible(self, kind: str, name: str | None) -> bool:
        """True when an object may be known of; every reader has it as the SQL function `visible(kind, name)`."""

    def shelter(self, kind: str, name: str, parts: Sequence[tuple[str, str]]) -> None:
        """Raise InvalidInput when an object would tell others of private parts, given by kind and name, that it is made of."""


class Shared:
    """The privacy of a file without teams: there is none."""

    def visible(self, kind: str, name: str | None) -> bool:
        """Always."""
        return True

    def shelter(self, kind: str, name: str, parts: Sequence[tuple[str, str]]) -> None:
        """Nothing is private."""


class Tx:
    """What a write function may do: run SQL and emit events."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        token_id: str | None = None,
        last: audit.Head | None = None,
    ) -> None:
        self._connection = connection
        self._last = last
        """Where the audit chain ended before this write, if that is known."""
        self._token_id = token_id
        self._clock = clock
        self.events: list[Event] = []
        self._unwritten: list[tuple[Any, ...]] = []
        """Of these the last, as rows without what ties them to the one before: several are written at once, which costs half."""
        self.head: audit.Head | None = None
        """The end of the audit chain, where this write made it longer."""
        self.now_us = to_us(clock.real())
        self.domain_us = to_us(clock.now())
        self.now, self._domain_now = from_us(self.now_us), from_us(self.domain_us)

    def run(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Execute one statement."""
        self._write_events_for(sql)
        return self._connection.execute(sql, parameters)

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Execute one statement for each row; how many rows that changed."""
        self._write_events_for(sql)
        return self._connection.executemany(sql, rows).rowcount

    def parts(self, fns: Sequence[Callable[[Tx], T]]) -> list[T | Exception]:
        """Run parts of this write: what came of each, or why it alone was taken back."""
        if len(fns) > 1 and not isinstance(done := self.part(lambda tx: [fn(tx) for fn in fns]), Exception):
            return list(done)
        return [self.part(fn) for fn in fns]

    def part(self, fn: Callable[[Tx], T]) -> T | Exception:
        """Run a part of this write: what came of it, or why it alone was taken back."""
        self.write_events()
        events, head = len(self.events), self.head
        self._connection.execute("SAVEPOINT part")
        try:
            done: T | Exception = fn(self)
        except Exception as err:
            if not self._connection.in_transaction:  # SQLite took back the whole of it
                raise
            self._connection.execute("ROLLBACK TO part")
            del self.events[events:]
            self._unwritten.clear()
            self.head, done = head, err
        self._connection.execute("RELEASE part")
        return done

    def one(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Row | None:
        """The first row, or None."""
        self._write_events_for(sql)
        row: Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def all(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """All rows."""
        self._write_events_for(sql)
        return self._connection.execute(sql, parameters).fetchall()

    def emit(self, type: str, subject: str, actor: str, **data: Any) -> Event:
        """Record an event in this transaction; it is published once the transaction is on disk."""
        event = Event(
            id=new_id(),
            type=type,
            subject=subject,
            actor=actor,
            at=self.now,
            domain_at=self._domain_now,
            data=data,
        )
        text = msgspec.json.encode(data).decode()
        self._unwritten.append((event.id, type, subject, actor, self._token_id, self.now_us, self.domain_us, text))
        self.events.append(event)
        return event

    def write_events(self) -> None:
        """Put what was emitted at the end of the audit chain: in the end, or before a part begins or somebody reads events."""
        unwritten, self._unwritten = self._unwritten, []
        if not unwritten:
            return
        seq, previous = self.head or self._last or self._end_of_chain()
        rows = []
        for values in unwritten:
            seq += 1
            row = (seq, *values)
            digest = audit.link(previous, row)
            rows.append((*row, previous, digest))
            previous = digest
        self.head = audit.Head(seq, previous)
        whole = len(rows) - len(rows) % _AT_ONCE
        for at in range(0, whole, _AT_ONCE):
            self._connection.execute(_INSERT_EVENTS, [*itertools.chain(*rows[at : at + _AT_ONCE])])
        for row in rows[whole:]:
            self._connection.execute(_INSERT_EVENT, row)

    def _write_events_for(self, sql: str) -> None:
        if self._unwritten and "event" in sql:
            self.write_events()

    def _end_of_chain(self) -> audit.Head:
        row = self.one("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1")
        return audit.Head(row["seq"], row["hash"]) if row is not None else audit.Head(0, audit.FIRST)


class _TakenBack(Exception):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class Database:
    """A SQLite file that is opened, migrated, written by one thread and read by many."""

    def __init__(
        self, path: Path, migrations: Migrations, clock: Clock, bus: EventBus, *, privacy: Privacy | None = None
    ) -> None:
        self.path = path
        self.name = path.stem
        self.privacy: Privacy = privacy or Shared()
        self._clock = clock
        self._bus = bus
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = self._connect(query_only=False)
        migrations.apply(Migratable(self._writer))
        self._writer.commit()
        self._go_on()
        self._last: audit.Head | None = None
        """Where the audit chain ends, once something was written; nobody else writes to this file."""
        self._heads = audit.HeadFile(path.parent / audit.HEADS, self.name)
        self._thread = threading.Thread(target=self._write_loop, name=f"mlbox-write-{self.name}", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        """Later ids than what is here already."""
        row = self._writer.execute("SELECT max(id) FROM event").fetchone()
        if row[0] is not None:
            go_on_after(row[0])

    def _connect(self, *, query_only: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.row_factory = sqlite3.Row
        connection.create_function("visible", 2, self.privacy.visible)
        connection.create_function("sha256", 1, _sha256, deterministic=True)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA query_only={'ON' if query_only else 'OFF'}")
        return connection

    # -- writing ----------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[[Tx], T]) -> Future[T]:
        """Queue a write; the future resolves once it is on disk."""
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(Unavailable(f"The {self.name} store is closed.", hint="Restart the server."))
            return future
        self._queue.put((fn, future, principal.token_id if (principal := asking.who()) else None))
        return future

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run a write and wait until it is on disk; inside of `together` it is part of that write."""
        joined: Tx | None = getattr(self._local, "joined", None)
        return fn(joined) if joined is not None else self.submit(fn).result()

    def write_each(self, fns: Sequence[Callable[[Tx], T] | Exception]) -> list[T | Exception]:
        """Run writes as one, which costs less: what came of each, or why it was taken back, or could not even be tried.

        One may be run twice: where another fails, all are taken back, and each is run for itself.
        """
        writes = [fn for fn in fns if not isinstance(fn, Exception)]
        done = iter(self.write(lambda tx: tx.parts(writes)) if writes else ())
        outcomes = [fn if isinstance(fn, Exception) else next(done) for fn in fns]
        return [self._explain(one) if isinstance(one, Exception) else one for one in outcomes]

    def together(self, fn: Callable[[Tx], T], *, keep: bool = True) -> T:
        """Run a function whose writes to this file are one, and whose reads see them; without `keep` all is taken back.

        It runs in the thread that writes, so it must not wait for another writer of this file.
        """
        who = asking.who()

        def joined(tx: Tx) -> T:
            self._local.joined = tx
            try:
                with asking.asking(who):
                    value = fn(tx)
            finally:
                self._local.joined = None
            if not keep:
                raise _TakenBack(value)
            return value

        try:
            return self.write(joined)
        except _TakenBack as err:
            kept: T = err.value
            return kept

    @property
    def is_joined(self) -> bool:
        """Whether this thread is inside of `together`, where reads see what nobody else sees yet."""
        return getattr(self._local, "joined", None) is not None

    def _write_loop(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            stop = False
            while len(group) < _MAX_GROUP and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    stop = True
                    break
                group.append(item)
            self._commit_group(group)
            if stop:
                break

    def _commit_group(self, group: list[_Write]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        failed: list[tuple[Future[Any], BaseException]] = []
        events: list[Event] = []
        head = self._last
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for fn, future, token_id in group:
                tx = Tx(self._writer, self._clock, token_id, head)
                head = self._run_one(tx, fn, future, done, failed, events) or head
            self._writer.execute("COMMIT")
        except sqlite3.Error as err:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            broken = Unavailable(
                f"The {self.name} store could not write: {err}.",
                hint="Check the disk that holds the data directory.",
            )
            for _, future, _ in group:
                future.set_exception(broken)
            return
        if head is not None and events:
            self._last = head
            self._heads.write(head)
        for event in events:
            self._bus.publish(event)
        for future, error in failed:
            future.set_exception(error)
        for future, value in done:
            future.set_result(value)

    def _run_one(
        self,
        tx: Tx,
        fn: Callable[[Tx], Any],
        future: Future[Any],
        done: list[tuple[Future[Any], Any]],
        failed: list[tuple[Future[Any], BaseException]],
        events: list[Event],
    ) -> audit.Head | None:
        self._writer.execute("SAVEPOINT one")
        try:
            value = fn(tx)
            tx.write_events()
        except Exception as err:
            if not self._writer.in_transaction:  # SQLite took back the whole transaction (disk full, I/O error)
                raise sqlite3.OperationalError(str(err)) from err
            self._writer.execute("ROLLBACK TO one")
            failed.append((future, self._explain(err)))
            tx.head = None
        else:
            done.append((future, value))
            events.extend(tx.events)
        self._writer.execute("RELEASE one")
        return tx.head

    def _explain(self, err: Exception) -> Exception:
        """SQLite's own errors as ours; triggers raise what a person may read."""
        if isinstance(err, MlboxError) or not isinstance(err, sqlite3.Error):
            return err
        return Unavailable(f"The {self.name} store refused the write: {err}.")

    # -- reading ----------------------------------------------------------------------------------------------------

    def _reader(self) -> sqlite3.Connection:
        joined: Tx | None = getattr(self._local, "joined", None)
        if joined is not None:
            joined.write_events()
            return self._writer
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(query_only=True)
            with self._readers_lock:
                self._readers.append(connection)
        return connection

    def all(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """All rows of a query, read in the calling thread."""
        try:
            return self._reader().execute(sql, parameters).fetchall()
        except sqlite3.Error as err:
            raise Unavailable(f"The {self.name} store could not be read: {err}.") from err

    def one(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        try:
            row: Row | None = self._reader().execute(sql, parameters).fetchone()
        except sqlite3.Error as err:
            raise Unavailable(f"The {self.name} store could not be read: {err}.") from err
        return row

    def events_after(self, seq: int, *, limit: int = 1000) -> list[tuple[int, Event]]:
        """This file's events with their places in it, oldest first, from above a place: to follow what happens."""
        rows = self.all("SELECT * FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [(row["seq"], _event(row)) for row in rows]

    def last_event(self) -> int:
        """The place of the newest event; 0 where there is none."""
        row = self.one("SELECT max(seq) AS seq FROM event")
        return 0 if row is None or row["seq"] is None else int(row["seq"])

    def events(
        self,
        *,
        subject: str | None = None,
        actor: str | None = None,
        type: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Event]:
        """This file's events, newest first, from below the id `before`."""
        given = {"subject": subject, "actor": actor, "type": type}
        wanted = "".join(f" AND {name} = :{name}" for name, value in given.items() if value is not None)
        rows = self.all(
            f"SELECT * FROM event WHERE id < :before{wanted} ORDER BY id DESC LIMIT :limit",
            {"before": before or "~", "limit": limit, **given},
        )
        return [_event(row) for row in rows]

    def check(self) -> None:
        """A real query and a real, empty write transaction; raises Unavailable when either fails."""
        self.one("SELECT count(*) FROM sqlite_master")
        self.submit(lambda tx: tx.one("SELECT 1")).result(timeout=5)

    def close(self) -> None:
        """Finish the writes that wait, then close every connection."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        with self._readers_lock:
            for connection in self._readers:
                connection.close()
        self._writer.close()
        self._heads.close()


class DownDatabase(Database):
    """A file that could not be opened: everything asked of it says so, and the other files go on."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.name = path.stem
        self.privacy = Shared()
        self._local = threading.local()
        self._reason = reason

    def _down(self) -> Unavailable:
        return Unavailable(
            f"The {self.name} store could not be opened: {self._reason}.",
            hint=f"Check {self.path.name}, or restore it from a backup, and start the server again.",
        )

    def submit(self, fn: Callable[[Tx], T]) -> Future[T]:
        """Fails."""
        future: Future[T] = Future()
        future.set_exception(self._down())
        return future

    def all(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """Raises Unavailable."""
        raise self._down()

    def one(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> Row | None:
        """Raises Unavailable."""
        raise self._down()

    def close(self) -> None:
        """Nothing is open."""


def _event(row: Row) -> Event:
    return Event(
        **{name: row[name] for name in ("id", "type", "subject", "actor")},
        at=from_us(row["at_us"]),
        domain_at=from_us(row["domain_us"]),
        data=msgspec.json.decode(row["data"]),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
