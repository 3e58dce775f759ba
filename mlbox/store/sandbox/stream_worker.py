"""The disposable process that reads a dataset's upload (see `workers`): a request as JSON on stdin.

As `parse_worker`, but the rows leave as they are read, as an Arrow stream through a pipe, so that neither this process nor the
one at the other end holds them all. The answer on stdout comes last, and without one that is good the rows are worth nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from mlbox.errors import InvalidInput, MlboxError, TooLarge
from mlbox.records import Record
from mlbox.store.sandbox.parse_worker import Format, ParseAnswer, is_arrow_file, limit, unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

PIPE = 3
"""The descriptor that rows are written to."""
MOST_ROWS = 65_536
MOST_BYTES = 16 << 20
"""Of the rows that are read at a time."""
BUFFER_BYTES = 1 << 16
"""Of each column of a Parquet file that is read at a time."""
CSV_BYTES = 8 << 20
_MISFIT = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to ([^:]+):")


class StreamRequest(Record, frozen=True, kw_only=True):
    """What to read, and what it may take."""

    path: str
    format: Format
    memory_bytes: int
    cpu_seconds: int
    output_bytes: int


def stream(request: StreamRequest) -> int:
    """Read, check and hand over all rows; how many. Raises InvalidInput."""
    import pyarrow as pa

    from mlbox.store.tables import check_single, plain

    read = {"parquet": _parquet, "csv": _csv, "arrow": _arrow}[request.format]
    rows = 0
    with open(PIPE, "wb") as pipe, unreadable(request.format):
        batches = read(request.path)
        schema = plain(check_single(next(batches))).schema  # the first one has no rows
        with pa.ipc.new_stream(pipe, schema) as writer:
            for table in batches:
                table.validate(full=True)
                writer.write_table(plain(table), MOST_ROWS)
                rows += table.num_rows
    return rows


def _parquet(path: str) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
        yield file.schema_arrow.empty_table()
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            width = max(1, group.total_byte_size // max(1, group.num_rows))
            most = min(MOST_ROWS, max(1, MOST_BYTES // width))
            for batch in file.iter_batches(most, row_groups=[number], use_threads=False):
                yield pa.Table.from_batches([batch])


def _arrow(path: str) -> Iterator[pa.Table]:
    import pyarrow as pa

    with pa.OSFile(path, "rb") as source:
        opened = pa.ipc.open_file(source) if is_arrow_file(source) else pa.ipc.open_stream(source)
        with opened as reader:
            yield reader.schema.empty_table()
            if isinstance(reader, pa.ipc.RecordBatchFileReader):
                yield from (pa.Table.from_batches([reader.get_batch(n)]) for n in range(reader.num_record_batches))
            else:
                yield from (pa.Table.from_batches([batch]) for batch in reader)


# -- CSV ----------------------------------------------------------------------------------------------------------------------


def _csv(path: str) -> Iterator[pa.Table]:
    """Read twice: only the last row can settle of which type a column is."""
    import pyarrow as pa

    schema = _settled(path)
    yield schema.empty_table()
    with _opened(path, {field.name: field.type for field in schema}) as reader:
        yield from (pa.Table.from_batches([batch]) for batch in reader)


def _settled(path: str) -> pa.Schema:
    """The columns in the first types, of those that are tried one after the other, that all of their values fit."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    with _opened(path, types) as reader:
        names = reader.schema.names
    while len(set(names)) == len(names):
        try:
            with _opened(path, types) as reader:
                for _ in reader:
                    pass
                return reader.schema
        except pa.ArrowInvalid as err:
            misfit = _MISFIT.search(str(err))
            following = _after(misfit[2]) if misfit else None
            if misfit is None or following is None:
                raise
            types[names[int(misfit[1])]] = following
    twice = next(name for name in names if names.count(name) > 1)
    raise InvalidInput(f"The column {twice[:200]!r} is there twice.", hint="Send it once.", field=twice[:200])


def _after(kind: str) -> pa.DataType | None:
    """The type to try after one that does not fit: the order that Arrow itself guesses in."""
    import pyarrow as pa

    tried = [pa.null(), pa.int64(), pa.bool_(), pa.date32(), pa.time32("s")]
    tried += [pa.timestamp(unit, zone) for unit in ("s", "ns") for zone in (None, "UTC")] + [pa.float64(), pa.string()]
    names = [str(one) for one in tried]
    at = names.index(kind) + 1 if kind in names else len(tried)
    return tried[at] if at < len(tried) else None


def _opened(path: str, types: dict[str, pa.DataType]) -> csv.CSVStreamingReader:
    from pyarrow import csv

    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, block_size=CSV_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def answer(request: StreamRequest) -> ParseAnswer:
    """Read, and put whatever error there is into words."""
    limit(request.memory_bytes, request.cpu_seconds, request.output_bytes)
    try:
        return ParseAnswer(rows=stream(request))
    except MlboxError as err:
        return ParseAnswer(code=err.code, message=err.message, hint=err.hint, field=err.field)
    except BrokenPipeError:  # whoever reads has stopped, and will say why
        return ParseAnswer(code=InvalidInput.code, message="Reading was broken off.", field="body")
    except MemoryError:  # pyarrow's own is one
        return ParseAnswer(code=TooLarge.code, message="The upload takes too much memory to read.", field="body")


def main() -> None:
    """Answer the one request."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=StreamRequest)
    sys.stdout.buffer.write(answer(request).to_json())
