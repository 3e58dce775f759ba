"""Shared memory, which is not offered: clients begin with taking all of it out, and find none to take."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Response, get, post

from mlbox.web.v2.models import problem
from mlbox.web.v2.repository import UNTYPED

MEMORY = ("systemsharedmemory", "cudasharedmemory")


@get(
    [f"/v2/{kind}{region}/status" for kind in MEMORY for region in ("", "/region/{region:str}")],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def regions(region: str | None = None) -> list[dict[str, Any]]:
    """No region of shared memory is registered."""
    return []


@post(
    [f"/v2/{kind}{region}/unregister" for kind in MEMORY for region in ("", "/region/{region:str}")],
    status_code=200,
    media_type=MediaType.TEXT,
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def unregister(region: str | None = None) -> Response[bytes]:
    """No region is registered any more, as none was."""
    return Response(b"", status_code=200)


handlers: list[Any] = [regions, unregister]
