"""Bodies of rows on their way in: streamed to a file, parsed in a process of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from litestar import Request

from mlbox.records import Column
from mlbox.store.ingest import MIB, check_format
from mlbox.web.box import Box

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = MIB
"""Bytes gathered before the disk is asked: a chunk off the wire is small, and a hop to a thread is not free."""


async def receive_rows(
    box: Box, request: Request[Any, Any, Any], format: str, columns: Sequence[Column], *, required: Sequence[str] = ()
) -> pa.Table:
    """The rows of a request's body, as `Uploads.parse` gives them. The handler sets `request_max_body_size=None`."""
    check_format(format)
    with await box.call(box.uploads.begin) as upload:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= CHUNK:
                await box.call(upload.write, bytes(gathered))
                gathered.clear()
        await box.call(upload.write, bytes(gathered))
        return await box.call(box.uploads.parse, upload, format, columns, required=required)
