"""Feature views, services and sources."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.records import FeatureView
from mlbox.web.box import Box
from mlbox.web.pages.view import View, part


def _latest(views: list[FeatureView]) -> list[FeatureView]:
    """The newest version of each view, by name."""
    return list({view.name: view for view in views}.values())


def _list(box: Box) -> dict[str, Any]:
    return {
        "views": part(lambda: _latest(box.features.views())),
        "services": part(box.features.services),
        "sources": part(box.features.sources),
    }


@get("/features", include_in_schema=False, action="view.read")
async def features(view: View) -> Response[bytes]:
    """All views, services and sources."""
    return await view.page("features.html", lambda: _list(view.box))


def _view(box: Box, ref: str) -> dict[str, Any]:
    found = box.features.view(ref)
    prefix = f"{found.ref}:"
    return {
        "found": found,
        "versions": [other for other in box.features.views() if other.name == found.name][::-1],
        "services": [s for s in box.features.services() if any(name.startswith(prefix) for name in s.features)],
    }


@get("/features/{ref:str}", include_in_schema=False, action="view.read")
async def feature_view(view: View, ref: str) -> Response[bytes]:
    """One version of a view: what it computes, from what, and who uses it."""
    return await view.page("feature.html", lambda: _view(view.box, ref))


@get("/sources/{name:str}", include_in_schema=False, action="source.read")
async def source(view: View, name: str) -> Response[bytes]:
    """One source: its columns, its rows, and the views over it."""

    def fetch() -> dict[str, Any]:
        found = view.box.features.source(name)
        return {"found": found, "views": _latest([v for v in view.box.features.views() if name in v.sources])}

    return await view.page("source.html", fetch)


handlers: list[Any] = [features, feature_view, source]
