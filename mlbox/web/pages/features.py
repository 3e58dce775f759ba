"""The feature catalogue as pages: all features with a search, one view, one transform, one source."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from litestar import Response, get

from mlbox.records import Column, FeatureService, FeatureView, Source
from mlbox.store.features.feature_catalogue import Filters
from mlbox.store.features.quality import READS_AS
from mlbox.web.box import Box
from mlbox.web.catalogue import lineage, profile
from mlbox.web.pages.feature_pictures import bars, changes, draw, examples, spreads
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page, part

FILTERS = ("entity", "team", "tag", "owner", "dtype")
MOST_IN_EXAMPLES = 3


def _latest(views: list[FeatureView]) -> list[FeatureView]:
    """The newest version of each view, by name."""
    return list({view.name: view for view in views}.values())


def _list(view: View) -> dict[str, Any]:
    box = view.box
    words = view.query.get("q", "").strip()
    chosen = {name: view.query.get(name, "").strip() for name in FILTERS}
    after = view.query.get("after")
    found = box.catalogue.search_views(words, Filters(**chosen), limit=PAGE_SIZE + 1, after=after)
    shown, last = keyset(found, PAGE_SIZE, lambda one: one.cursor)
    services = part(partial(_services, view))
    sources = part(partial(_sources, view))
    return {
        "found": shown,
        "next": next_page(view, last),
        "words": words,
        "chosen": chosen,
        "filtered": bool(words or any(chosen.values())),
        "entities": box.catalogue.entities(),
        "teams": [team.name for team in box.teams.teams()],
        "team_of": box.teams.team_of,
        "services": services,
        "sources": sources,
    }


def _services(view: View) -> tuple[list[FeatureService], str | None]:
    """A page of them, and the address of the next one."""
    found = view.box.features.services(limit=PAGE_SIZE + 1, after=view.query.get("services"))
    shown, last = keyset(found, PAGE_SIZE, lambda one: one.ref)
    return shown, next_page(view, last, "services")


def _sources(view: View) -> tuple[list[Source], str | None]:
    found = view.box.features.sources(limit=PAGE_SIZE + 1, after=view.query.get("sources"))
    shown, last = keyset(found, PAGE_SIZE, lambda one: one.name)
    return shown, next_page(view, last, "sources")


@get("/features", include_in_schema=False, action="view.read")
async def features(view: View) -> Response[bytes]:
    """All features, or those that were searched for; services and sources."""
    return await view.page("features.html", lambda: _list(view))


def _users(box: Box, ref: str) -> dict[str, Any]:
    """What uses a view or transform, drawn and by kind."""
    found = lineage(box, ref)
    kinds = ("service", "dataset", "model", "endpoint")
    return {
        "drawing": draw(found),
        "cut": found.cut,
        "users": {kind: [node for node in found.nodes if node.kind == kind] for kind in kinds},
    }


def _spread(box: Box, found: FeatureView) -> dict[str, Any]:
    now = profile(box, found.ref)
    datasets, rows = spreads(found.features, now.features, now.trainings)
    return {"now": now, "datasets": datasets, "rows": rows}


def _view(view: View, ref: str) -> dict[str, Any]:
    box = view.box
    found = box.features.view(ref)
    versions = [box.features.view(f"{found.name}@v{number}") for number in range(1, _last_version(box, found) + 1)]
    return {
        "found": found,
        "may": view.may("member", name=found.name),
        "team": box.teams.team_of(found.name),
        "history": changes(versions),
        "latest": max(one.version for one in versions),
        "lineage": part(lambda: _users(box, found.ref)),
        "spread": part(lambda: _spread(box, found)),
        "bars": bars,
        "freshness": part(lambda: box.features.freshness(found.ref)),
        "examples": examples(_some_of(found.ref, found.features), found.join_keys, view.base),
    }


def _last_version(box: Box, view: FeatureView) -> int:
    return box.features.view(view.name).version


def _some_of(ref: str, columns: Sequence[Column]) -> list[str]:
    return [f"{ref}:{column.name}" for column in columns[:MOST_IN_EXAMPLES]]


def _transform(view: View, ref: str) -> dict[str, Any]:
    box = view.box
    found = box.features.transform(ref)
    asked = _some_of(found.ref, found.outputs)
    prefix = f"{found.ref}:"
    return {
        "found": found,
        "may": view.may("member", name=found.name),
        "versions": [other for other in box.features.transforms() if other.name == found.name][::-1],
        "services": [s for s in box.features.services() if any(name.startswith(prefix) for name in s.features)],
        "lineage": part(lambda: _users(box, found.ref)),
        "examples": part(lambda: examples(asked, box.features.asked_with(asked), view.base)),
    }


@get("/features/{ref:str}", include_in_schema=False, action="view.read")
async def feature_view(view: View, ref: str) -> Response[bytes]:
    """One version of a view or a transform: what it computes, from what, who uses it, and how its values are spread."""
    if await view.box.call(view.box.features.is_transform, ref):
        return await view.page("transform.html", lambda: _transform(view, ref))
    return await view.page("feature.html", lambda: _view(view, ref))


@get("/sources/{name:str}", include_in_schema=False, action="source.read")
async def source(view: View, name: str) -> Response[bytes]:
    """One source: its columns, its rows, and the views over it."""

    def fetch() -> dict[str, Any]:
        features = view.box.features
        return {
            "found": features.source(name),
            "may": view.may("member", name=name),
            "views": _latest([v for v in features.views() if name in v.sources]),
            "quality": part(lambda: features.quality(name)),
            "expected": {one.column: one for one in features.expectations(name)},
            "reads_as": READS_AS,
            "held": part(lambda: features.quarantined(name, limit=PAGE_SIZE)),
        }

    return await view.page("source.html", fetch)


handlers: list[Any] = [features, feature_view, source]
