"""Operations: is it alive, is it ready, which version is it."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get

from mlbox import __version__
from mlbox.web.box import Box


@get("/livez", include_in_schema=False, action="public")
async def livez() -> dict[str, bool]:
    """The event loop answers."""
    return {"live": True}


@get(["/readyz", "/health"], include_in_schema=False, action="public")
async def readyz(box: Box) -> Response[dict[str, Any]]:
    """A real query per store; 503 names each that is down."""
    names = list(box.checks())
    results = await asyncio.gather(*(box.call(check) for check in box.checks().values()), return_exceptions=True)
    stores = {n: "ok" if r is None else f"down: {r}" for n, r in zip(names, results, strict=True)}
    ready = all(r is None for r in results)
    body = {"ready": ready, "stores": stores, "jobs": box.isolation.state}
    return Response(body, status_code=200 if ready else 503)


@get("/version", include_in_schema=False, action="public")
async def version(box: Box) -> dict[str, Any]:
    """The release, whether it is on standby, and both clocks."""
    return {
        "version": __version__,
        "standby": box.settings.standby == "on",
        "replay": box.clock.replay,
        "domain_time": box.clock.now(),
        "real_time": box.clock.real(),
    }
