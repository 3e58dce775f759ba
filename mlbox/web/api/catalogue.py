"""The feature catalogue over HTTP: search, lineage, distributions."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get
from litestar.params import Parameter

from mlbox.records import FeatureHit, FeatureLineage, ViewProfile
from mlbox.store.features.feature_catalogue import Filters
from mlbox.web.box import Box
from mlbox.web.catalogue import lineage, profile

Limit = Annotated[int, Parameter(ge=1, le=1000)]
Text = Annotated[str, Parameter(max_length=1000)]


@get("/api/v1/features/search", action="view.read")
async def search_features(
    box: Box,
    q: Text = "",
    entity: Text = "",
    team: Text = "",
    tag: Text = "",
    owner: Text = "",
    dtype: Text = "",
    limit: Limit = 100,
    after: str | None = None,
) -> list[FeatureHit]:
    """The latest features that match all words of `q` and every filter, best first, from the one after the cursor `after`."""
    return await box.call(box.catalogue.search, q, Filters(entity, team, tag, owner, dtype), limit=limit, after=after)


@get("/api/v1/features/views/{ref:str}/lineage", action="view.read")
async def view_lineage(box: Box, ref: str) -> FeatureLineage:
    """What a view or transform comes from, and every service, dataset, model and endpoint that it goes into."""
    return await box.call(lineage, box, ref)


@get("/api/v1/features/views/{ref:str}/profile", action="view.read")
async def view_profile(box: Box, ref: str, refresh: bool = False) -> ViewProfile:
    """How a view's values are spread as last computed (`?refresh=true`: now), and in the datasets that have it."""
    return await box.call(profile, box, ref, refresh=refresh)


handlers: list[Any] = [search_features, view_lineage, view_profile]
"""Beside those of `features`."""
