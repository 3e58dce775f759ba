"""One search over everything, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get
from litestar.params import Parameter

from mlbox.records import SearchResult
from mlbox.web.box import Box


@get("/api/v1/search", action="box.read")
async def search(
    box: Box, q: Annotated[str, Parameter(max_length=1000)], limit: Annotated[int, Parameter(ge=1, le=100)] = 10
) -> SearchResult:
    """What has every word of `q` in its name, id or description: at most `limit` of each kind, what is called so first."""
    return await box.call(box.search.find, q, limit=limit)


handlers: list[Any] = [search]
