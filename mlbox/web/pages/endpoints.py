"""Endpoints: who answers, who shadows, how fast, and the last answers given."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.errors import NotFound
from mlbox.records import Endpoint
from mlbox.web.box import Box
from mlbox.web.pages.overview import served
from mlbox.web.pages.view import View, part

PREDICTIONS = 50


def _list(box: Box) -> dict[str, Any]:
    return {"served": part(lambda: served(box))}


@get("/endpoints", include_in_schema=False, action="model.read")
async def endpoints(view: View) -> Response[bytes]:
    """All endpoints."""
    return await view.page("endpoints.html", lambda: _list(view.box))


def _find(box: Box, name: str) -> Endpoint:
    found = next((endpoint for endpoint in box.rollouts.endpoints() if endpoint.model == name), None)
    if found is None:
        raise NotFound(
            f"Nothing serves under the name {name[:80]!r}.", hint="A version in Production does.", field="model"
        )
    return found


def _endpoint(box: Box, name: str) -> dict[str, Any]:
    found = _find(box, name)
    return {
        "endpoint": found,
        "version": box.registry.version(name, found.champion),
        "predictions": part(lambda: box.predictions.recent(name, PREDICTIONS)),
    }


@get("/endpoints/{name:str}", include_in_schema=False, action="model.read")
async def endpoint(view: View, name: str) -> Response[bytes]:
    """One endpoint, and its last predictions."""
    return await view.page("endpoint.html", lambda: _endpoint(view.box, name))


handlers: list[Any] = [endpoints, endpoint]
