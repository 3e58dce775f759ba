"""Backups over HTTP: made and listed here; verified and restored where they lie, without a server."""

from __future__ import annotations

from typing import Any

from litestar import get, post

from mlbox.records import Backup, Principal
from mlbox.web.box import Box


@post("/api/v1/backups", action="box.backup")
async def make_backup(box: Box, principal: Principal) -> Backup:
    """Copy all that the box keeps into its folder of backups, while it goes on."""
    return await box.call(box.back_up, actor=principal.name)


@get("/api/v1/backups", action="box.backup")
async def list_backups(box: Box) -> list[Backup]:
    """The backups in that folder, the newest first."""
    return await box.call(box.backups.all)


handlers: list[Any] = [make_backup, list_backups]
