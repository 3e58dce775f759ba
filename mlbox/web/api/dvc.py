"""Dataset versions as DVC's pointers, and back."""

from __future__ import annotations

from typing import Any

from litestar import get, post

from mlbox.records import DatasetVersion, Principal
from mlbox.transfer.dvc_pointer import Pointer
from mlbox.web.box import Box


@get("/api/v1/datasets/{ref:str}/dvc", action="dataset.read")
async def get_pointer(box: Box, ref: str) -> Pointer:
    """What a DVC pointer file to a version says: a directory with its files, which the DVC remote has from then on."""
    return await box.call(box.dvc.pointer, ref)


@post("/api/v1/datasets/{ref:str}/dvc", action="dataset.create")
async def create_from_pointer(box: Box, principal: Principal, ref: str, data: Pointer) -> DatasetVersion:
    """Keep what a DVC pointer names, and was pushed, as a version of the name: its files as they are."""
    box.teams.require(principal, "dataset.create", name=ref)
    await box.call(box.quota.room, ref)
    made = await box.call(
        box.dvc_versions.create,
        ref,
        data,
        box.teams.team_of(ref),
        actor=principal.name,
        hidden=box.teams.is_private("dataset", ref),
        job_id=principal.job_id,
    )
    box.quota.add(made.name, sum(file.size for file in made.files))
    return made


handlers: list[Any] = [get_pointer, create_from_pointer]
