"""Dataset versions over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.errors import InvalidInput
from mlbox.records import DatasetDiff, DatasetVersion, Principal, Record, VerifiedFile
from mlbox.store.datasets.datasets import DatasetFrom, DatasetSpec
from mlbox.store.datasets.diff import diff
from mlbox.store.sandbox.ingest import Upload, check_format
from mlbox.web import bodies
from mlbox.web.box import Box
from mlbox.web.downloads import send_file
from mlbox.web.uploads import receive_upload


class Tags(Record, frozen=True, kw_only=True):
    """Tags to set, and those to take away as null."""

    tags: dict[str, str | None]


@post("/api/v1/datasets", action="dataset.create")
async def create_dataset(box: Box, principal: Principal, data: DatasetSpec) -> DatasetVersion:
    """Build a version; one whose bytes are those of an earlier version is that version."""
    box.teams.require(principal, "dataset.create", name=data.name)
    await box.call(box.quota.room, data.name)
    made = await box.call(box.datasets.create, data, actor=principal.name, job_id=principal.job_id)
    box.quota.add(made.name, sum(file.size for file in made.files))
    return made


@post("/api/v1/datasets/{name:str}/rows", request_max_body_size=None, action="dataset.create")
async def create_from_rows(
    box: Box,
    principal: Principal,
    request: Request[Any, Any, Any],
    name: str,
    format_: Annotated[str, QueryParameter(name="format")] = "",
    about: str = "{}",
    sha256: str | None = None,
) -> DatasetVersion:
    """Keep the body's rows as a version, in their order; `about` is a JSON object: split, parents, description, tags...

    With `sha256`, only if that is the body's hash.
    """
    box.teams.require(principal, "dataset.create", name=name)
    try:
        given = bodies.decoded(about.encode(), DatasetFrom)
    except InvalidInput as err:
        raise InvalidInput(f"`about` does not fit: {err.message}", hint=err.hint, field="about") from err
    check_format(format_)
    room, most = await box.call(box.quota.room, name), box.settings.max_dataset
    fits = (most, "max_dataset") if room is None or room > most else (room, "upload_quota")

    def keep(upload: Upload) -> DatasetVersion:
        with box.uploads.stream(upload, format_, sha256=sha256) as rows:
            return box.datasets.keep_rows(name, rows, given, actor=principal.name, job_id=principal.job_id)

    with await box.call(box.uploads.begin, fits[0], setting=fits[1]) as upload:
        await receive_upload(box, request, upload)
        made = await box.call(keep, upload)
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


@get("/api/v1/datasets/{ref:str}/diff/{other:str}", action="dataset.read")
async def get_diff(box: Box, ref: str, other: str, key: list[str] | None = None) -> DatasetDiff:
    """What another version has different: columns, statistics, and rows by key, with examples."""
    before, after = await box.call(box.datasets.version, ref), await box.call(box.datasets.version, other)
    return await box.call(diff, box.artifacts, before, after, keys=key or (), memory=box.settings.duckdb_memory)


@get("/api/v1/datasets/{ref:str}/verify", action="dataset.read")
async def verify(box: Box, ref: str) -> list[VerifiedFile]:
    """Read every file of a version again: whether it is what it was."""
    return await box.call(box.datasets.verify, ref)


@post("/api/v1/datasets/{ref:str}/tags", status_code=200, action="dataset.write")
async def tag(box: Box, principal: Principal, ref: str, data: Tags) -> DatasetVersion:
    """Set tags of a version, or take them away."""
    return await box.call(box.datasets.tag, ref, data.tags, actor=principal.name)


@delete("/api/v1/datasets/{ref:str}", action="dataset.write")
async def remove(box: Box, principal: Principal, ref: str) -> None:
    """Remove a version that nothing depends on; for a while it can be taken back."""
    await box.call(box.datasets.delete, ref, actor=principal.name)


@post("/api/v1/datasets/{ref:str}/restore", status_code=200, action="dataset.write")
async def restore(box: Box, principal: Principal, ref: str) -> DatasetVersion:
    """Take the removal of a version back."""
    return await box.call(box.datasets.restore, ref, within=box.retention.kept_for, actor=principal.name)


@get("/api/v1/datasets/{ref:str}/files/{file:path}", action="dataset.read")
async def get_file(request: Request[Any, Any, Any], box: Box, ref: str, file: str) -> Response[Any]:
    """One file of a version, or the part of it that the header Range asks for; its name never stands for other bytes."""
    found = await box.call(box.datasets.file_of, ref, file.lstrip("/"))
    path = await box.call(box.artifacts.path, found.sha256)
    return send_file(box, request, path, found.sha256, found.size, name=found.path.rpartition("/")[2])


handlers: list[Any] = [
    *(create_dataset, create_from_rows, list_datasets, get_dataset, get_diff, verify),
    *(tag, remove, restore, get_file),
]
