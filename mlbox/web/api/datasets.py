"""Dataset versions over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.params import Parameter

from mlbox.records import DatasetVersion, Principal
from mlbox.store.datasets import DatasetSpec
from mlbox.web.box import Box
from mlbox.web.downloads import send_file


@post("/api/v1/datasets", action="dataset.create")
async def create_dataset(box: Box, principal: Principal, data: DatasetSpec) -> DatasetVersion:
    """Build a version; one whose bytes are those of an earlier version is that version."""
    box.teams.require(principal, "dataset.create", name=data.name)
    await box.call(box.quota.room, data.name)
    made = await box.call(box.datasets.create, data, actor=principal.name)
    box.quota.add(made.name, sum(file.size for file in made.files))
    return made


@get("/api/v1/datasets", action="dataset.read")
async def list_datasets(
    box: Box, name: str | None = None, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100, after: str | None = None
) -> list[DatasetVersion]:
    """Versions, newest first."""
    return await box.call(box.datasets.versions, name, limit=limit, after=after)


@get("/api/v1/datasets/{ref:str}", action="dataset.read")
async def get_dataset(box: Box, ref: str) -> DatasetVersion:
    """`NAME@vN`, or the latest version of `NAME`."""
    return await box.call(box.datasets.version, ref)


@get("/api/v1/datasets/{ref:str}/files/{file:str}", action="dataset.read")
async def get_file(request: Request[Any, Any, Any], box: Box, ref: str, file: str) -> Response[Any]:
    """One file of a version, or the part of it that the header Range asks for; its name never stands for other bytes."""
    found = await box.call(box.datasets.file_of, ref, file)
    path = await box.call(box.artifacts.path, found.sha256)
    return send_file(box, request, path, found.sha256, found.size, name=file)


handlers: list[Any] = [create_dataset, list_datasets, get_dataset, get_file]
