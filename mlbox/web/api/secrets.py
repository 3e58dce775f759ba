"""Secrets over HTTP: set, list by name, remove. A value goes in, and never comes out again."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post

from mlbox.records import Principal, Record, Secret
from mlbox.store.access.teams import EVERYONE
from mlbox.web.box import Box


class SecretValue(Record, frozen=True, kw_only=True):
    """A secret to keep."""

    name: str
    value: str
    team: str = EVERYONE

    def __repr__(self) -> str:
        return f"SecretValue({self.team}/{self.name})"


class Rotation(Record, frozen=True, kw_only=True):
    """What a change of the key did."""

    sealed: int
    """Secrets that are now under the new key."""
    lost: tuple[str, ...] = ()
    """Secrets whose key is lost, and that must be set again."""


@get("/api/v1/secrets", action="secret.read")
async def list_secrets(box: Box) -> list[Secret]:
    """The secrets of your teams, without their values."""
    return await box.call(box.secrets.all)


@post("/api/v1/secrets", action="secret.set")
async def set_secret(box: Box, principal: Principal, data: SecretValue) -> Secret:
    """Keep a secret, in place of a former one of its name. The value cannot be read back."""
    box.teams.require(principal, "secret.set", team=data.team)
    await box.call(box.teams.team, data.team)
    return await box.call(box.secrets.put, data.team, data.name, data.value, actor=principal.name)


@delete("/api/v1/secrets/{team:str}/{secret:str}", action="secret.remove")
async def remove_secret(box: Box, principal: Principal, team: str, secret: str) -> None:
    """Forget a secret; jobs that have it keep it until they end."""
    await box.call(box.secrets.remove, team, secret, actor=principal.name)


@post("/api/v1/secrets/rotate-key", status_code=200, action="secret.rotate")
async def rotate_key(box: Box, principal: Principal) -> Rotation:
    """Encrypt all secrets under a new key."""
    done = await box.call(box.secrets.rotate_key, actor=principal.name)
    return Rotation(sealed=done.sealed, lost=done.lost)


handlers: list[Any] = [list_secrets, set_secret, remove_secret, rotate_key]
