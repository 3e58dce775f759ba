"""The disposable process that parses one upload (see `workers`): a request as JSON on stdin, an answer on stdout.

A reader of Arrow, Parquet or CSV may die, loop or swell on a file that was made to do so. Here it takes nothing with it: memory,
time and output are limited by the kernel before a byte is read, and what leaves is a checked table, or one error.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from mlbox.errors import InvalidInput, MlboxError, TooLarge
from mlbox.records import Column, Record

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "arrow"]
_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+): (.*)")
"""What Arrow says of a row that is too short or too long; it counts the header."""
_MAGIC = b"ARROW1"
"""How a file begins."""
_STREAM = b"\xff\xff\xff\xff"
"""How a stream begins; what begins otherwise would be read as the length of something huge."""


class ParseRequest(Record, frozen=True, kw_only=True):
    """What to parse, what is expected of it, where to put it, and what it may take."""

    path: str
    target: str
    format: Format
    columns: tuple[Column, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    spine: bool = False
    """Whether columns that are not declared come along: rows to be joined, not to be kept."""
    memory_bytes: int
    cpu_seconds: int
    output_bytes: int


class ParseAnswer(Record, frozen=True, kw_only=True):
    """How it went: rows, or the code, message, hint and field of an error."""

    rows: int = 0
    code: str = ""
    message: str = ""
    hint: str = ""
    field: str | None = None


def limit(memory_bytes: int, cpu_seconds: int, output_bytes: int) -> None:
    """Let the kernel hold this process to its limits."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, output_bytes),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def parse(request: ParseRequest) -> int:
    """Parse, check and write the table as an Arrow file; its number of rows."""
    import pyarrow as pa

    from mlbox.store.tables import conform, conform_spine

    with unreadable(request.format):
        raw = {"parquet": _read_parquet, "csv": _read_csv, "arrow": _read_arrow}[request.format](request)
        raw.validate(full=True)
    checked = conform_spine if request.spine else conform
    extra = {} if request.spine else {"optional": request.optional}
    table = checked(raw, request.columns, required=request.required, text=request.format == "csv", **extra)
    with pa.OSFile(request.target, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return int(table.num_rows)


@contextlib.contextmanager
def unreadable(format: Format) -> Iterator[None]:
    """What a reader makes of a file that it cannot read, as InvalidInput."""
    import pyarrow as pa

    try:
        yield
    except (MemoryError, pa.ArrowMemoryError, BrokenPipeError):
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError) as err:
        said = str(err).splitlines()[0][:300].rstrip(".")
        ragged = _RAGGED.search(said)
        if ragged is not None:
            row, expected, found, text = ragged.groups()
            raise InvalidInput(
                f"Row {int(row) - 1} has {found} columns, and the header names {expected}: {text}.",
                hint="Write every cell, and quote those with a comma or a line break.",
                field="body",
            ) from err
        raise InvalidInput(
            f"The upload is not {format} that can be read: {said}.",
            hint="Check the file, and that ?format= names its format.",
            field="body",
        ) from err


def _read_parquet(request: ParseRequest) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(request.path) as file:
        return file.read(use_pandas_metadata=False)


def _read_csv(request: ParseRequest) -> pa.Table:
    """Declared columns as text, so that what does not fit can be shown; an empty cell without quotes is null."""
    import pyarrow as pa
    from pyarrow import csv

    return csv.read_csv(
        request.path,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={column.name: pa.string() for column in request.columns},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _read_arrow(request: ParseRequest) -> pa.Table:
    """A stream or a file of Arrow's IPC format."""
    import pyarrow as pa

    with pa.OSFile(request.path, "rb") as source:
        opened = pa.ipc.open_file(source) if is_arrow_file(source) else pa.ipc.open_stream(source)
        with opened as reader:
            return reader.read_all()


def is_arrow_file(source: pa.NativeFile) -> bool:
    """Whether it begins like a file, and not like a stream; raises ValueError where like neither."""
    start = source.read(len(_MAGIC))
    source.seek(0)
    if start != _MAGIC and not start.startswith(_STREAM):
        raise ValueError("it begins neither like a stream nor like a file")
    return bool(start == _MAGIC)


def answer(request: ParseRequest) -> ParseAnswer:
    """Parse, and put whatever error there is into words."""
    limit(request.memory_bytes, request.cpu_seconds, request.output_bytes)
    try:
        return ParseAnswer(rows=parse(request))
    except MlboxError as err:
        return ParseAnswer(code=err.code, message=err.message, hint=err.hint, field=err.field)
    except MemoryError:  # pyarrow's own is one
        return ParseAnswer(code=TooLarge.code, message="The upload takes too much memory to read.", field="body")


def main() -> None:
    """Answer the one request."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ParseRequest)
    sys.stdout.buffer.write(answer(request).to_json())
