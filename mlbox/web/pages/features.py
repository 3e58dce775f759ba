"""Feature views, services and sources."""

from __future__ import annotations

from typing import Any, TypeVar

from litestar import Response, get

from mlbox.records import FeatureView, Transform
from mlbox.web.box import Box
from mlbox.web.pages.view import PAGE_SIZE, View, part

V = TypeVar("V", FeatureView, Transform)


def _latest(views: list[V]) -> list[V]:
    """The newest version of each view or transform, by name."""
    return list({view.name: view for view in views}.values())


def _list(box: Box) -> dict[str, Any]:
    return {
        "views": part(lambda: _latest(box.features.views())),
        "transforms": part(lambda: _latest(box.features.transforms())),
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


def _transform(box: Box, ref: str) -> dict[str, Any]:
    found = box.features.transform(ref)
    prefix = f"{found.ref}:"
    return {
        "found": found,
        "versions": [other for other in box.features.transforms() if other.name == found.name][::-1],
        "services": [s for s in box.features.services() if any(name.startswith(prefix) for name in s.features)],
    }


@get("/features/{ref:str}", include_in_schema=False, action="view.read")
async def feature_view(view: View, ref: str) -> Response[bytes]:
    """One version of a view or a transform: what it computes, from what, and who uses it."""
    if await view.box.call(view.box.features.is_transform, ref):
        return await view.page("transform.html", lambda: _transform(view.box, ref))
    return await view.page("feature.html", lambda: _view(view.box, ref))


@get("/sources/{name:str}", include_in_schema=False, action="source.read")
async def source(view: View, name: str) -> Response[bytes]:
    """One source: its columns, its rows, and the views over it."""

    def fetch() -> dict[str, Any]:
        features = view.box.features
        return {
            "found": features.source(name),
            "views": _latest([v for v in features.views() if name in v.sources]),
            "quality": part(lambda: features.quality(name)),
            "held": part(lambda: features.quarantined(name, limit=PAGE_SIZE)),
        }

    return await view.page("source.html", fetch)


handlers: list[Any] = [features, feature_view, source]
