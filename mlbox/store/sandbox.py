"""SQL of users, run in disposable processes (see `sql_worker`) over rows that are handed over as files.

The processes are shared by all stores of this one, and kept for a while, because to start one takes longer than most queries. One
that dies, or has to be ended, takes the query with it that it was at, and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import BY_CODE, InvalidInput, MlboxError, TooMany, Unavailable
from mlbox.store.offline import Limits, quote
from mlbox.store.sql_worker import Input, SqlAnswer, SqlRequest, too_big, too_long, write_batches
from mlbox.store.views import Relation, names

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline import Cursor

AT_ONCE = 2
"""Queries of users that run at the same time."""
IDLE_SECONDS = 300.0
_GRACE_SECONDS = 10.0
"""How much longer than its time a query may take to be broken off before its process is ended."""
_BATCH_ROWS = 50_000
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""All that a worker is told of the server's environment: there are secrets among the rest."""


class Ran(NamedTuple):
    """What a query yielded: what is known of it, and its rows, mapped from a file that is gone with them."""

    answer: SqlAnswer
    rows: pa.Table


class Worker:
    """One process, and the pipes to it."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlbox.store.sql_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.idle_since = 0.0

    def ask(self, request: SqlRequest) -> SqlAnswer:
        """Its answer; raises InvalidInput, and is ended, where it dies of the request or does not come back from it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.to_json() + b"\n")
            self._process.stdin.flush()
            line = self._line(request.seconds + _GRACE_SECONDS)
        except OSError:
            line = b""
        if line is None:
            self.end()
            raise too_long(request)
        if not line.endswith(b"\n"):
            raise self._dead(request)
        return msgspec.json.decode(line, type=SqlAnswer)

    def _line(self, seconds: float) -> bytes | None:
        """The next line; what there is of it where the process ended, None where it did not come in time."""
        assert self._process.stdout is not None
        end, found = time.monotonic() + seconds, b""
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while not found.endswith(b"\n"):
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return None
            some = os.read(pipe, 1 << 16)
            if not some:
                break
            found += some
        return found

    def _dead(self, request: SqlRequest) -> MlboxError:
        """What to say of a process that did not live to answer."""
        self.end()
        code = -(self._process.returncode or 0)
        if code in (signal.SIGXFSZ, signal.SIGKILL):  # the second is the kernel, when memory is short
            return too_big(request)
        if code == signal.SIGXCPU:
            return InvalidInput("The SQL took too much CPU time.", hint="Ask for less.", field=request.field)
        return InvalidInput(
            "The SQL broke the process that ran it; nothing else is harmed.",
            hint="Write it in another way.",
            field=request.field,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """End it, and have its pipes closed."""
        if self._process.poll() is None:
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # it may be about to end by itself, with a status that says why
                self._process.wait(0.2)
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


class Pool:
    """Processes that wait for work, and how many may be at it."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._slots = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._reaper: threading.Timer | None = None

    def ask(self, request: SqlRequest) -> SqlAnswer:
        """A worker's answer; raises TooMany where none is free for as long as the request itself may take."""
        if not self._slots.acquire(timeout=request.seconds + _GRACE_SECONDS):
            raise TooMany("Other queries are still running.", hint="Try again in a moment.")
        try:
            worker = self._take()
            try:
                found = worker.ask(request)
            except BaseException:
                worker.end()
                raise
            self._give_back(worker)
            return found
        finally:
            self._slots.release()

    def _take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.is_alive:
                    return worker
                worker.end()
        try:
            return Worker()
        except OSError as err:
            raise Unavailable(f"No process for SQL can be started: {err.strerror}.", hint="Try again.") from err

    def _give_back(self, worker: Worker) -> None:
        with self._lock:
            worker.idle_since = time.monotonic()
            self._idle.append(worker)
            if self._reaper is None:
                self._reaper = threading.Timer(IDLE_SECONDS, self._reap)
                self._reaper.daemon = True
                self._reaper.start()

    def _reap(self) -> None:
        """End those that had nothing to do for a while."""
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            ending = [worker for worker in self._idle if worker.idle_since <= oldest]
            self._idle = [worker for worker in self._idle if worker.idle_since > oldest]
            self._reaper = threading.Timer(IDLE_SECONDS, self._reap) if self._idle else None
            if self._reaper is not None:
                self._reaper.daemon = True
                self._reaper.start()
        for worker in ending:
            worker.end()

    def close(self) -> None:
        """End all that wait."""
        with self._lock:
            ending, self._idle = self._idle, []
            if self._reaper is not None:
                self._reaper.cancel()
                self._reaper = None
        for worker in ending:
            worker.end()


POOL = Pool()
atexit.register(POOL.close)


class Sandbox:
    """Runs SQL of users within the limits of one store, over files in a folder of its own."""

    def __init__(self, limits: Limits, *, pool: Pool = POOL) -> None:
        self._limits = limits
        self._pool = pool
        shutil.rmtree(limits.folder, ignore_errors=True)  # what a server that was killed has left

    @contextlib.contextmanager
    def files(self) -> Iterator[Path]:
        """A folder for what is handed over, and what comes back."""
        try:
            self._limits.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._limits.folder) as folder:
                yield Path(folder)
        except OSError as err:
            raise Unavailable(f"Rows cannot be handed over: {err.strerror}.", hint="Check the disk.") from err

    def look(self, relations: Sequence[Relation], inputs: Sequence[Input], **what: Any) -> SqlAnswer:
        """What is known of a view's SQL, or of a SELECT, without its rows; raises what is wrong with it.

        `what` is `view` or `sql` with its `field`, and `most_bytes`; of a SELECT alone `allowed` names what it may read.
        """
        return self._ask(relations, inputs, folder=str(self._limits.folder), **what)

    def run(self, folder: Path, relations: Sequence[Relation], inputs: Sequence[Input], **what: Any) -> Ran:
        """What a view's SQL, or a SELECT, yields over inputs whose files are in `folder`; raises what is wrong with it."""
        import pyarrow as pa

        target = folder / "rows.arrow"
        answer = self._ask(relations, inputs, folder=str(folder), target=str(target), **what)
        with pa.memory_map(str(target)) as source:
            return Ran(answer, pa.ipc.open_file(source).read_all())

    def _ask(self, relations: Sequence[Relation], inputs: Sequence[Input], **what: Any) -> SqlAnswer:
        limits = self._limits
        answer = self._pool.ask(
            SqlRequest(
                relations=tuple(relations),
                inputs=tuple(inputs),
                memory=limits.memory,
                temp=limits.temp,
                threads=limits.threads,
                **{"seconds": limits.seconds, **what},
            )
        )
        if answer.code:
            raise BY_CODE.get(answer.code, MlboxError)(answer.message, hint=answer.hint, field=answer.field)
        return answer


def empty(relation: Relation) -> Input:
    """A relation without its rows."""
    return Input(table=relation.table, columns=relation.given)


def hand_over(cursor: Cursor, folder: Path, relation: Relation, *, where: str = "") -> Input:
    """Write the rows of a table of ours to a file, for SQL to find them under the same name."""
    path = folder / f"{len(list(folder.iterdir()))}.arrow"
    condition = f" WHERE {where}" if where else ""
    rows = cursor.sql(f"SELECT {names(relation.given)} FROM {quote(relation.table)}{condition}")
    write_batches(rows.to_arrow_reader(_BATCH_ROWS), str(path))
    return Input(table=relation.table, columns=relation.given, path=str(path))


def hand_over_table(table: pa.Table, folder: Path, relation: Relation) -> Input:
    """As `hand_over`, of rows that are no table of ours yet."""
    path = folder / f"{len(list(folder.iterdir()))}.arrow"
    write_batches(table.select([column.name for column in relation.given]).to_reader(_BATCH_ROWS), str(path))
    return Input(table=relation.table, columns=relation.given, path=str(path))
