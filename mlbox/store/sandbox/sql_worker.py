"""The disposable process that runs one SQL of a user (see `workers`): a request as JSON on stdin, an answer on stdout.

DuckDB may die, swell or never end on a legal query. Here it takes nothing with it: a query sees the rows that it was given, as
files that only we can name, and nothing else; memory, time and output are limited, by DuckDB and by the kernel; what leaves is a
file of typed rows, or one error.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import sys
import threading
from typing import TYPE_CHECKING

import msgspec

from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Column, FeatureView, Record
from mlbox.store.offline import views
from mlbox.store.offline.offline import first_line, quote
from mlbox.store.offline.usersql import check_select, explaining

if TYPE_CHECKING:
    import pyarrow as pa

    from mlbox.store.offline.offline import Cursor

NICE = 5
"""What is read online goes first."""
_HEADROOM = 1 << 30
"""What the process takes besides DuckDB's own memory: the interpreter, Arrow, stacks of threads."""
_BATCH_ROWS = 50_000


class Input(Record, frozen=True, kw_only=True):
    """A table that SQL may read: its columns, and the Arrow file with its rows, if it has any here."""

    table: str
    columns: tuple[Column, ...]
    path: str = ""


class SqlRequest(Record, frozen=True, kw_only=True):
    """What to run over what, where its rows go, and what it may take."""

    view: FeatureView | None = None
    """A view, of which rows are wanted in the shape of `views.rows_of`."""
    sql: str = ""
    """Without a view: one SELECT."""
    field: str = "sql"
    allowed: tuple[str, ...] = ()
    """Without a view, and without rows: the tables that it may read."""
    relations: tuple[views.Relation, ...] = ()
    inputs: tuple[Input, ...] = ()
    target: str = ""
    """Where rows go; without it the SQL is only looked at."""
    limit: str = ""
    """An ORDER BY and a LIMIT of ours."""
    most_bytes: int = 65536
    seconds: float
    memory: str
    temp: str
    folder: str
    threads: int = 0


class SqlAnswer(Record, frozen=True, kw_only=True):
    """How it went: what is known of the SQL and its rows, or the code, message, hint and field of an error."""

    rows: int = 0
    arrives: bool = False
    by_row: bool = False
    ordered: bool = False
    """Whether `_order` says which row was appended last."""
    picked: dict[str, str] | None = None
    """Of a view that is only looked at: the source's column behind each that it yields, where it does nothing else."""
    tables: tuple[str, ...] = ()
    tree: msgspec.Raw = msgspec.Raw(b"null")
    """DuckDB's tree of the SELECT."""
    code: str = ""
    message: str = ""
    hint: str = ""
    field: str | None = None


def answer(request: SqlRequest) -> SqlAnswer:
    """Run a request, and put whatever error there is into words."""
    import duckdb
    import pyarrow as pa

    limit(request)
    connection = opened()  # which is not closed: that takes time, and the process ends
    try:
        confine(connection, request)
        timer = threading.Timer(request.seconds, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            return _run(connection, request)
        finally:
            timer.cancel()
    except MlboxError as err:
        return _refused(err)
    except (duckdb.Error, pa.ArrowException, OSError, MemoryError) as err:
        return _refused(_explained(err, request))


def _explained(err: BaseException, request: SqlRequest) -> InvalidInput:
    """What went wrong while rows came: DuckDB's errors come out of Arrow's stream as text alone."""
    text = first_line(err)
    if "INTERRUPT" in text.upper():
        return too_long(request)
    is_full = isinstance(err, OSError) and err.errno == errno.EFBIG
    if is_full or isinstance(err, MemoryError) or "Out of Memory" in text:
        return too_big(request)
    what = f"The SQL of {request.view.name}" if request.view else "The SQL"
    return InvalidInput(f"{what} does not work: {text}.", hint="Check names, types and values.", field=request.field)


def too_long(request: SqlRequest) -> InvalidInput:
    """What to say of SQL that does not come to an end."""
    return InvalidInput(
        f"The SQL took longer than {request.seconds:g} s.",
        hint="Ask for less, or raise query_seconds.",
        field=request.field,
    )


def too_big(request: SqlRequest) -> InvalidInput:
    """What to say of SQL that takes more memory, or more space for what does not fit into it, than it may."""
    return InvalidInput(
        f"The SQL takes more than {request.memory} of memory, or {request.temp} of temporary files.",
        hint="Ask for less, or raise duckdb_memory.",
        field=request.field,
    )


def _refused(err: MlboxError) -> SqlAnswer:
    return SqlAnswer(code=err.code, message=err.message, hint=err.hint, field=err.field)


@functools.cache
def opened() -> Cursor:
    """A database in memory. A process that is forked has the one that was opened before, of which nothing runs then."""
    import duckdb

    return duckdb.connect(
        config={
            "threads": "1",
            "async_threads": "0",  # a process with threads is not safely forked
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "arrow_large_buffer_size": "true",
            "preserve_insertion_order": "false",
        }
    )


def confine(connection: Cursor, request: SqlRequest) -> None:
    """Hold a database to what a request may take; nothing outside of it can be reached from then on."""
    threads = request.threads or os.cpu_count() or 1
    for name, value in (
        ("memory_limit", request.memory),
        ("temp_directory", request.folder),
        ("max_temp_directory_size", request.temp),
        ("threads", str(threads)),
        ("async_threads", str(threads)),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ):
        connection.execute("SET {} = '{}'".format(name, value.replace("'", "''")))


def limit(request: SqlRequest) -> None:
    """Let the kernel hold this process to its limits; those of time and memory are of this request."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpus = request.threads or os.cpu_count() or 1
    seconds = used.ru_utime + used.ru_stime + (request.seconds + 5) * cpus
    memory = bytes_of(request.memory) + _HEADROOM
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, bytes_of(request.temp)),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def bytes_of(text: str) -> int:
    """`2GB` in bytes."""
    return int(text[:-2]) * {"MB": 10**6, "GB": 10**9}[text[-2:]]


def _run(connection: Cursor, request: SqlRequest) -> SqlAnswer:
    for given in request.inputs:
        _provide(connection, given)
    if request.view is not None:
        return _run_view(connection, request, request.view)
    allowed = request.allowed or [one.name for one in request.relations]
    select = check_select(connection, request.sql, allowed, field=request.field, most_bytes=request.most_bytes)
    rows = 0
    if request.target:
        read = [one for one in request.relations if one.name in select.tables]
        rows = _write(connection, f"SELECT * FROM {views.over(select.sql, read)}", request)
    tree = msgspec.Raw(msgspec.json.encode(select.tree))
    return SqlAnswer(rows=rows, tables=tuple(sorted(select.tables)), tree=tree)


def _run_view(connection: Cursor, request: SqlRequest, view: FeatureView) -> SqlAnswer:
    found = views.rows_of(connection, view, request.relations, most_bytes=request.most_bytes)
    if not request.target:
        views.check_view_sql(connection, view, request.relations, found)
        return SqlAnswer(picked=views.picked_of(connection, view, request.relations), by_row=found.by_row)
    rows = _write(connection, f"{found.sql} {request.limit}", request)
    return SqlAnswer(rows=rows, arrives=found.arrives, by_row=found.by_row, ordered=found.ordered)


def _provide(connection: Cursor, given: Input) -> None:
    """Have a table under its name: the rows of a file, which is mapped and not copied, or none."""
    import pyarrow as pa

    if given.path:
        with pa.memory_map(given.path) as source:
            connection.register(given.table, pa.ipc.open_file(source).read_all())
    else:
        connection.execute(f"CREATE TABLE {quote(given.table)} ({views.typed_names(given.columns)})")


def _write(connection: Cursor, sql: str, request: SqlRequest) -> int:
    """Write what a SELECT yields as an Arrow file, batch by batch; its number of rows."""
    what = f"The SQL of {request.view.name}" if request.view else "The SQL"
    with explaining(request.field, what):
        return write_batches(connection.sql(sql).to_arrow_reader(_BATCH_ROWS), request.target)


def write_batches(reader: pa.RecordBatchReader, target: str) -> int:
    """Write batches as they come as an Arrow file; the number of their rows."""
    import pyarrow as pa

    rows = 0
    with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def warm_up() -> None:
    """Before a process is forked: what is the same for all SQL is found out once, in the one thread that there is."""
    check_select(opened(), "SELECT 1 AS x", ())


def main() -> None:
    """Answer the one request."""
    os.nice(NICE)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=SqlRequest)
    sys.stdout.buffer.write(answer(request).to_json())
