"""Identities over HTTP: whose account a person of the sign-in provider uses."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import delete, get, post

from mlbox.errors import InvalidInput
from mlbox.records import Identity, Principal, Record
from mlbox.web.box import Box


class NewIdentity(Record, frozen=True, kw_only=True):
    """A person of a provider, by default of the configured one, and the account that they are to use."""

    user: str
    subject: str
    issuer: str | None = None


@get("/api/v1/identities", action="user.change")
async def list_identities(box: Box, principal: Principal) -> Sequence[Identity]:
    """Who of the sign-in provider uses which account, by the account's name."""
    return await box.call(box.identities.identities)


@post("/api/v1/identities", action="user.change")
async def link(box: Box, principal: Principal, data: NewIdentity) -> Identity:
    """Let a person of the sign-in provider use an account that is there already."""
    issuer = data.issuer or _issuer(box)
    return await box.call(box.identities.link, data.user, issuer, data.subject, actor=principal.name)


@delete("/api/v1/identities", action="user.change")
async def unlink(box: Box, principal: Principal, subject: str, issuer: str | None = None) -> None:
    """Take a person of the sign-in provider off the account that they use, and end its sessions."""
    await box.call(box.identities.unlink, issuer or _issuer(box), subject, actor=principal.name)


def _issuer(box: Box) -> str:
    if box.sign_on is None:
        raise InvalidInput(
            "This server has no sign-in provider of its own.", hint="Say which issuer you mean.", field="issuer"
        )
    return box.sign_on.issuer


handlers = [list_identities, link, unlink]
