"""On-demand transforms over HTTP: definitions, and a try without keeping anything."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter

from mlbox.errors import InvalidInput
from mlbox.records import Principal, Record, Transform, TransformSpec
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]
MAX_ROWS = 1000


class TransformTry(Record, frozen=True, kw_only=True):
    """A transform, and rows of its inputs to try it on."""

    transform: TransformSpec
    rows: tuple[dict[str, Any], ...]


@post("/api/v1/features/transforms", action="view.apply")
async def apply_transform(box: Box, principal: Principal, data: TransformSpec) -> Transform:
    """Keep a transform: a changed function is its next version, a changed text or layout is not."""
    box.teams.require(principal, "view.apply", name=data.name)
    return await box.call(box.features.apply_transform, data, actor=principal.name)


@get("/api/v1/features/transforms", action="view.read")
async def list_transforms(box: Box, limit: Limit = 100, after: str | None = None) -> list[Transform]:
    """All versions of all transforms by name and version, from the one after the reference `after`."""
    return await box.call(box.features.transforms, limit=limit, after=after)


@get("/api/v1/features/transforms/{ref:str}", action="view.read")
async def get_transform(box: Box, ref: str) -> Transform:
    """`NAME@vN`, or the latest version of `NAME`."""
    return await box.call(box.features.transform, ref)


@post("/api/v1/features/transforms/try", status_code=200, action="view.read")
async def try_transform(box: Box, data: TransformTry) -> list[dict[str, Any]]:
    """A transform's outputs for rows of its inputs, without keeping it."""
    if len(data.rows) > MAX_ROWS:
        raise InvalidInput(f"{len(data.rows):,} rows are too many.", hint=f"Try {MAX_ROWS:,} at most.", field="rows")
    return await box.call(box.features.try_transform, data.transform, data.rows)


handlers: list[Any] = [apply_transform, list_transforms, get_transform, try_transform]
