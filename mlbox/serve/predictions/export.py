"""The prediction log on its way out: Parquet, CSV or JSON lines, made while it is sent. One file of the log is in memory."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlbox.serve.predictions.batches import SHARE
from mlbox.serve.predictions.files import FEATURE, LogFile, from_table
from mlbox.serve.predictions.log import PredictionLog
from mlbox.serve.predictions.selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]
MEDIA = {"parquet": "application/vnd.apache.parquet", "csv": "text/csv", "jsonl": "application/x-ndjson"}
CHUNK = 1 << 20
_TIMES = {"at_us": "at", "domain_us": "domain_at"}


def export(log: PredictionLog, model: str, what: Selection, form: Format) -> Generator[bytes]:
    """The rows of a model that are meant, a file of the log at a time, each file's by id.

    Parquet and CSV have a column for each feature that any of them has, JSON lines are as `GET /api/v1/predictions` has them.
    """
    with log.reading(model) as found:
        files = [file for file in reversed(found) if file.spans(what.since_us, what.until_us)]
        if form == "jsonl":
            yield from _lines(files, what)
        elif form == "csv":
            yield from _csv(files, what)
        else:
            yield from _parquet(files, what)


def _rows(files: Sequence[LogFile], what: Selection) -> Iterator[pa.Table]:
    for file in files:
        rows = file.read()
        yield rows.filter(what.mask(rows)).sort_by("id")


def _lines(files: Sequence[LogFile], what: Selection) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode_lines
    for rows in _rows(files, what):
        for start in range(0, rows.num_rows, 1000):
            yield encode(list(from_table(rows.slice(start, 1000))))


def _csv(files: Sequence[LogFile], what: Selection) -> Iterator[bytes]:
    import pyarrow.csv as csv

    schema = _schema(files)
    sink = _Outgoing()
    with csv.CSVWriter(sink, schema) as writer:
        for rows in _rows(files, what):
            writer.write_table(_shown(rows, schema))
            yield from sink.take()
    yield from sink.take()


def _parquet(files: Sequence[LogFile], what: Selection) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    schema = _schema(files)
    sink = _Outgoing()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for rows in _rows(files, what):
            if rows.num_rows:
                writer.write_table(_shown(rows, schema))
            yield from sink.take()
    yield from sink.take()


def _schema(files: Sequence[LogFile]) -> pa.Schema:
    import pyarrow as pa

    every = dict.fromkeys(name for file in files for name in file.names())
    names = [name for name in every if name.startswith(FEATURE)]
    time = pa.timestamp("us", "UTC")
    own: dict[str, Any] = dict.fromkeys(("id", "model", "version", "role"), pa.string())
    own |= {"version": pa.int64(), "at": time, "domain_at": time}
    own |= {"caller": pa.string(), "entity": pa.string(), "score": pa.float64(), "latency_ms": pa.float64()}
    own |= {SHARE: pa.float64()} if SHARE in every else {}
    return pa.schema({**own, **{_free(name, own): pa.float64() for name in names}})


def _free(column: str, own: dict[str, Any]) -> str:
    """A feature's own name, unless that is a column's already."""
    name = column.removeprefix(FEATURE)
    return column if name in own else name


def _shown(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = {_TIMES.get(name, name): rows.column(name) for name in rows.column_names if not name.startswith(FEATURE)}
    columns |= {_free(n, columns): rows.column(n) for n in rows.column_names if n.startswith(FEATURE)}
    none = pa.nulls(rows.num_rows)
    return pa.table([columns.get(field.name, none).cast(field.type) for field in schema], schema)


class _Outgoing(io.BytesIO):
    """What is written and not taken yet; either form is written from front to back, and asks only where it is."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def tell(self) -> int:
        return self._taken + super().tell()

    def take(self) -> Iterator[bytes]:
        content = self.getvalue()
        self._taken += len(content)
        self.seek(0)
        self.truncate()
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]
