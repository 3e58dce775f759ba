"""Styles and scripts, read once and served from memory under an address that names their content.

The digest is a folder of the address, not a query string, so that an ES module's relative imports stay inside one
release. No request opens a file: a name is looked up among those that were read.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from litestar import Request, Response, get

from mlbox.errors import NotFound

FOREVER = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """One file, as sent."""

    content: bytes
    gzipped: bytes
    media_type: str


class Assets(NamedTuple):
    """All files by name, and the digest of them together."""

    digest: str
    by_name: dict[str, Asset]


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for item in sorted(folder.iterdir(), key=lambda i: i.name):
        name = f"{prefix}{item.name}"
        found += _walk(item, f"{name}/") if item.is_dir() else [(name, item)]
    return found


@functools.cache
def assets() -> Assets:
    """Every file of the static folder."""
    digest, by_name = hashlib.sha256(), {}
    for name, item in _walk(files("mlbox.web") / "static"):
        content = item.read_bytes()
        digest.update(f"{name}:{len(content)}:".encode() + content)
        media_type = _TYPES.get("." + name.rpartition(".")[2]) or mimetypes.guess_type(name)[0] or "text/plain"
        by_name[name] = Asset(content, gzip.compress(content, 6, mtime=0), media_type)
    return Assets(digest.hexdigest()[:12], by_name)


def static_url(name: str) -> str:
    """The address of a static file; raises KeyError for one that is not there."""
    _ = assets().by_name[name]
    return f"/static/{assets().digest}/{name}"


@get("/static/{digest:str}/{name:path}", include_in_schema=False, action="public")
async def static_file(request: Request[Any, Any, Any], digest: str, name: str) -> Response[bytes]:
    """One file; a digest of another release gets today's file, and is told not to keep it."""
    asset = assets().by_name.get(name.lstrip("/"))
    if asset is None:
        raise NotFound(f"There is no static file {name[:80]!r}.")
    headers = {"vary": "accept-encoding", "cache-control": FOREVER if digest == assets().digest else "no-cache"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.gzipped, media_type=asset.media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.content, media_type=asset.media_type, headers=headers)


handlers: list[Any] = [static_file]
