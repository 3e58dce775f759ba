"""Kept files on their way out: streamed, resumable by range, and checked against their SHA-256 while they are sent.

A whole file that is not what it was is never handed out as whole: its last piece is held back until the digest is known, and
the transfer breaks instead. A range is sent as it lies on disk, because to check it would be to read all of the file.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from litestar import Request, Response
from litestar.response import Stream

from mlbox.errors import InvalidInput, Unavailable
from mlbox.web.box import Box

CHUNK = 1 << 20
IMAGES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".svg": "image/svg+xml",
}
"""What a page shows as a picture, by its ending."""
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_log = logging.getLogger(__name__)


def send_file(
    box: Box,
    request: Request[Any, Any, Any],
    path: Path,
    sha256: str,
    size: int,
    *,
    name: str = "",
    media_type: str = "application/octet-stream",
) -> Response[Any]:
    """A kept file, or the part that the header Range asks for; with a name, as a download of that name.

    Raises InvalidInput as 416 for a range that the file does not have.
    """
    tag = f'"{sha256}"'
    if request.headers.get("if-none-match") == tag:
        return Response(None, status_code=304, headers={"ETag": tag})
    asked = request.headers.get("range") if request.headers.get("if-range", tag) == tag else None
    first, last = byte_range(asked, size)
    whole = (first, last) == (0, size - 1)
    headers = {
        "Content-Length": str(last - first + 1),
        "Accept-Ranges": "bytes",
        "ETag": tag,
        **({} if whole else {"Content-Range": f"bytes {first}-{last}/{size}"}),
        **({"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"} if name else {}),
    }
    pieces = _checked(box, path, sha256) if whole else _part(box, path, first, last + 1)
    return Stream(pieces, status_code=200 if whole else 206, media_type=media_type, headers=headers)


def byte_range(header: str | None, size: int) -> tuple[int, int]:
    """The first and the last byte to send; raises InvalidInput as 416 for a range that the file does not have."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size - 1
    first, last = match.groups()
    if not first:
        begin, end = max(0, size - int(last)), size - 1
    else:
        begin, end = int(first), min(int(last) if last else size - 1, size - 1)
    if begin > end:
        err = InvalidInput(f"The file has {size:,} bytes.", hint=f"Ask for bytes below {size}.", field="Range")
        err.status = 416
        raise err
    return begin, end


async def _checked(box: Box, path: Path, sha256: str) -> AsyncIterator[bytes]:
    """All of a file, one piece behind what was read, so that the last one goes out once all of it is known to be right."""
    file = await box.call(path.open, "rb", buffering=0)
    digest, held = hashlib.sha256(), b""

    def read() -> bytes:
        piece: bytes = file.read(CHUNK)
        digest.update(piece)
        return piece

    try:
        while piece := await box.call(read):
            if held:
                yield held
            held = piece
        if digest.hexdigest() != sha256:
            await box.call(_tell, box, sha256)
            raise _broken(sha256)
        yield held
    finally:
        file.close()


async def _part(box: Box, path: Path, first: int, end: int) -> AsyncIterator[bytes]:
    file = await box.call(path.open, "rb", buffering=0)
    try:
        file.seek(first)
        while first < end:
            piece: bytes = await box.call(file.read, min(CHUNK, end - first))
            if not piece:
                raise _broken(path.parent.name + path.name)  # what is cut shows as a broken transfer
            first += len(piece)
            yield piece
    finally:
        file.close()


def _tell(box: Box, sha256: str) -> None:
    _log.error("The file %s of the artifacts is not what it was: the disk may be failing.", sha256)
    box.access.note("artifact.broken", f"artifact:{sha256}", "system")


def _broken(sha256: str) -> Unavailable:
    return Unavailable(
        f"The file {sha256} is not what it was when it was kept.",
        hint="Restore it from a backup: the disk may be failing.",
    )
