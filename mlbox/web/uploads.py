"""Bodies on their way in, streamed: rows to be parsed in a process of their own, and files to be kept."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from litestar import Request

from mlbox.errors import InvalidInput
from mlbox.records import Column
from mlbox.store.sandbox.ingest import MIB, Upload, check_format
from mlbox.web.box import Box

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = MIB
"""Bytes gathered before the disk is asked: a chunk off the wire is small, and a hop to a thread is not free."""


async def receive_rows(
    box: Box,
    request: Request[Any, Any, Any],
    format: str,
    columns: Sequence[Column],
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    spine: bool = False,
) -> pa.Table:
    """The rows of a request's body, as `Uploads.parse` gives them. The handler sets `request_max_body_size=None`."""
    check_format(format)
    with await box.call(box.uploads.begin) as upload:
        await receive_upload(box, request, upload)
        return await box.call(
            box.uploads.parse, upload, format, columns, required=required, optional=optional, spine=spine
        )


async def receive_upload(box: Box, request: Request[Any, Any, Any], upload: Upload) -> None:
    """Write a request's body to a file that was begun. The handler sets `request_max_body_size=None`."""
    async for chunk in body_of(request):
        await box.call(upload.write, chunk)


async def receive_artifact(
    box: Box, request: Request[Any, Any, Any], limit: int, *, owner: str | None = None, md5: str | None = None
) -> tuple[str, int]:
    """Keep a request's body in the artifact store; its SHA-256 and size. The handler sets `request_max_body_size=None`.

    `owner` is the name that it is kept under: it counts against the quota of the team that owns it. Raises InvalidInput, and
    keeps nothing, where a given `md5` is not the body's.
    """
    room = await box.call(box.quota.room, owner) if owner is not None else None
    if room is not None and room < limit:
        writer = await box.call(box.artifacts.writer, room, setting="upload_quota")
    else:
        writer = await box.call(box.artifacts.writer, limit)
    digest = hashlib.md5(usedforsecurity=False)

    def take(chunk: bytes) -> None:
        writer.write(chunk)
        if md5 is not None:
            digest.update(chunk)

    try:
        async for chunk in body_of(request):
            await box.call(take, chunk)
        if md5 is not None and digest.hexdigest() != md5:
            raise InvalidInput(
                f"The body's MD5 is {digest.hexdigest()}, and not {md5}.", hint="Send the file again.", field="md5"
            )
        kept = await box.call(writer.commit)
        if owner is not None:
            box.quota.add(owner, kept[1])
        return kept
    except BaseException:
        writer.abort()
        raise


async def body_of(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    """A request's body in pieces that are worth a hop to a thread."""
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) >= CHUNK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
