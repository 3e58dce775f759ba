"""The definitions of the feature store over HTTP: sources and their rows, views, services."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.records import (
    FeatureService,
    FeatureView,
    Principal,
    Record,
    ServiceSpec,
    Source,
    SourceFile,
    SourceSpec,
    ViewSpec,
)
from mlbox.web.box import Box
from mlbox.web.uploads import receive_rows

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class Rows(Record, frozen=True, kw_only=True, omit_defaults=True):
    """How many rows were written, and how many were held back where any were."""

    rows: int
    quarantined: int = 0


@post("/api/v1/sources", action="source.create")
async def create_source(box: Box, principal: Principal, data: SourceSpec) -> Source:
    """Declare an append-only source; the same declaration again changes nothing."""
    box.teams.require(principal, "source.create", name=data.name)
    return await box.call(
        box.features.add_source,
        data.name,
        data.columns,
        data.event_time,
        data.arrival_time,
        folder=data.folder,
        actor=principal.name,
    )


@get("/api/v1/sources", action="source.read")
async def list_sources(box: Box, limit: Limit = 100, after: str | None = None) -> list[Source]:
    """Sources by name, from the one after `after`."""
    return await box.call(box.features.sources, limit=limit, after=after)


@get("/api/v1/sources/{name:str}", action="source.read")
async def get_source(box: Box, name: str) -> Source:
    """One source, with its number of rows."""
    return await box.call(box.features.source, name)


@get("/api/v1/sources/{name:str}/files", action="source.read")
async def source_files(box: Box, name: str) -> list[SourceFile]:
    """The files of a source's watched folder, by path: those taken, and those refused with the reason."""
    return await box.call(box.landing.files, name)


@post("/api/v1/sources/{name:str}/rows", request_max_body_size=None, action="source.append")
async def append_rows(
    box: Box,
    principal: Principal,
    request: Request[Any, Any, Any],
    name: str,
    format_: Annotated[str, QueryParameter(name="format")] = "",
) -> Rows:
    """Add the body's rows (`?format=parquet|csv|arrow`), all or none; what breaks an expectation goes to the quarantine."""
    source = await box.call(box.features.source, name)
    table = await receive_rows(box, request, format_, source.columns, required=(source.event_time,))
    added = await box.call(box.features.append, name, table, actor=principal.name)
    return Rows(rows=added, quarantined=table.num_rows - added)


@post("/api/v1/features/views", action="view.apply")
async def apply_view(box: Box, principal: Principal, data: ViewSpec) -> FeatureView:
    """Keep a view: a changed definition is its next version, a changed text is not."""
    box.teams.require(principal, "view.apply", name=data.name)
    return await box.call(box.features.apply_view, data, actor=principal.name)


@get("/api/v1/features/views", action="view.read")
async def list_views(box: Box, limit: Limit = 100, after: str | None = None) -> list[FeatureView]:
    """All versions of all views by name and version, from the one after the reference `after`."""
    return await box.call(box.features.views, limit=limit, after=after)


@get("/api/v1/features/views/{ref:str}", action="view.read")
async def get_view(box: Box, ref: str) -> FeatureView:
    """`NAME@vN`, or the latest version of `NAME`."""
    return await box.call(box.features.view, ref)


@post("/api/v1/features/services", action="view.apply")
async def apply_service(box: Box, principal: Principal, data: ServiceSpec) -> FeatureService:
    """Bundle features under a name: another bundle is the next version."""
    box.teams.require(principal, "view.apply", name=data.name)
    return await box.call(box.features.apply_service, data.name, data.features, actor=principal.name)


@get("/api/v1/features/services", action="view.read")
async def list_services(box: Box, limit: Limit = 100, after: str | None = None) -> list[FeatureService]:
    """All versions of all services by name and version, from the one after the reference `after`."""
    return await box.call(box.features.services, limit=limit, after=after)


@get("/api/v1/features/services/{ref:str}", action="view.read")
async def get_service(box: Box, ref: str) -> FeatureService:
    """`NAME@vN`, or the latest version of `NAME`."""
    return await box.call(box.features.service, ref)


handlers: list[Any] = [
    *(create_source, list_sources, get_source, source_files, append_rows),
    *(apply_view, list_views, get_view, apply_service, list_services, get_service),
]
