"""Every point of a run's metrics as one Parquet file, made while it is sent."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from litestar import get
from litestar.response import Stream

from mlbox.errors import NotFound
from mlbox.store.tracking import series
from mlbox.web.box import Box

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 100_000
"""Rows of a group, which is what is in memory at a time."""
PARQUET = "application/vnd.apache.parquet"


@get("/api/v1/runs/{run_id:str}/points", action="run.read", media_type=PARQUET)
async def points(box: Box, run_id: str, key: str | None = None) -> Stream:
    """The points of all metrics, or of one, as Parquet: key, step, at (UTC, microseconds), value. Ordered by key and step."""
    keys = await box.call(
        box.tracker.metric_keys, run_id
    )  # also for one: what is not there has to be said before the answer
    if key is not None and key not in keys:
        raise NotFound(f"The run has no metric {key[:80]!r}.", hint="`mlbox run show` lists them.", field="key")
    keys = keys if key is None else [key]
    parts = _parquet(box, run_id, keys)

    async def send() -> AsyncIterator[bytes]:
        while (part := await box.call(next, parts, None)) is not None:
            yield part

    name = f"{run_id}.parquet"
    return Stream(send(), media_type=PARQUET, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _parquet(box: Box, run_id: str, keys: list[str]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {
            "key": pa.dictionary(pa.int32(), pa.string()),
            "step": pa.int64(),
            "at": pa.timestamp("us", "UTC"),
            "value": pa.float64(),
        }
    )
    file = _Outgoing()
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for key in keys:
            for table in _tables(box, run_id, key, schema):
                writer.write_table(table)
                yield file.take()
    yield file.take()


def _tables(box: Box, run_id: str, key: str, schema: pa.Schema) -> Iterator[pa.Table]:
    import pyarrow as pa

    last: series.Point | None = None
    while found := box.tracker.history(run_id, key, limit=ROWS_AT_ONCE, after=last):
        steps, times, values = zip(*found, strict=True)
        keys = pa.DictionaryArray.from_arrays(pa.array([0] * len(found), pa.int32()), [key])
        columns = [keys, steps, pa.array(times, pa.int64()).cast(schema.field("at").type), values]
        yield pa.table(
            [pa.array(c, f.type) if isinstance(c, tuple) else c for c, f in zip(columns, schema, strict=True)], schema
        )
        last = found[-1]


class _Outgoing(io.BytesIO):
    """What is written and not taken yet. A Parquet file is written from front to back, and asks only where it is."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    def tell(self) -> int:
        return self._taken + super().tell()

    def take(self) -> bytes:
        """What was written since the last call."""
        part = self.getvalue()
        self._taken += len(part)
        self.seek(0)
        self.truncate()
        return part


handlers: list[Any] = [points]
