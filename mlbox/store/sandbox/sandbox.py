"""SQL of users, run in disposable processes (see `sql_worker`) over rows that are handed over as files.

Each query has a process of its own, forked for it and gone with it. One that dies, or has to be ended, takes its query with it,
and nothing else.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mlbox.errors import BY_CODE, InvalidInput, MlboxError, TooMany, Unavailable
from mlbox.store.offline.offline import Limits, quote
from mlbox.store.offline.views import Relation, names
from mlbox.store.sandbox.sql_worker import Input, SqlAnswer, SqlRequest, too_big, too_long, write_batches
from mlbox.store.sandbox.workers import FORKS, ForkServer

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

AT_ONCE = 2
"""Queries of users that run at the same time."""
_GRACE_SECONDS = 10.0
"""How much longer than its time a query may take to be broken off before its process is ended."""
_BATCH_ROWS = 50_000


class Ran(NamedTuple):
    """What a query yielded: what is known of it, and its rows, mapped from a file that is gone with them."""

    answer: SqlAnswer
    rows: pa.Table


class Pool:
    """How many queries may run at a time, and the fork server that their processes come from."""

    def __init__(self, forks: ForkServer = FORKS, at_once: int = AT_ONCE) -> None:
        self._forks = forks
        self._slots = threading.BoundedSemaphore(at_once)

    def ask(self, request: SqlRequest) -> SqlAnswer:
        """A worker's answer; raises TooMany where none is free for as long as the request itself may take."""
        seconds = request.seconds + _GRACE_SECONDS
        if not self._slots.acquire(timeout=seconds):
            raise TooMany("Other queries are still running.", hint="Try again in a moment.")
        try:
            with self._forks.worker("sql") as worker:
                worker.send(request.to_json())
                said = worker.answer(seconds)
                if said is None:
                    raise too_long(request)
                if worker.wait():
                    raise _dead(request, worker.wait())
                return msgspec.json.decode(said, type=SqlAnswer)
        finally:
            self._slots.release()


def _dead(request: SqlRequest, code: int) -> MlboxError:
    """What to say of a process that did not live to answer."""
    if -code in (signal.SIGXFSZ, signal.SIGKILL):  # the second is the kernel, when memory is short
        return too_big(request)
    if -code == signal.SIGXCPU:
        return InvalidInput("The SQL took too much CPU time.", hint="Ask for less.", field=request.field)
    return InvalidInput(
        "The SQL broke the process that ran it; nothing else is harmed.",
        hint="Write it in another way.",
        field=request.field,
    )


POOL = Pool()


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
