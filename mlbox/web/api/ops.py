"""The box itself over HTTP: who is asking, users, tokens, the clock, the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import Parameter, QueryParameter

from mlbox.errors import InvalidInput
from mlbox.records import Event, NewToken, Principal, Record, Role, Token, User
from mlbox.web.auth import require
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class NewUser(Record, frozen=True, kw_only=True):
    """A person or service to add."""

    name: str
    role: Role = "member"


class TokenRequest(Record, frozen=True, kw_only=True):
    """A token to make; `role` caps what it may do."""

    user: str
    name: str
    role: Role | None = None


class Advance(Record, frozen=True, kw_only=True):
    """Where to move domain time."""

    to: datetime


class ClockState(Record, frozen=True, kw_only=True):
    """Both clocks."""

    replay: bool
    domain_time: datetime
    real_time: datetime


@get("/api/v1/whoami")
async def whoami(principal: Principal) -> Principal:
    """Who is asking."""
    return principal


@get("/api/v1/users")
async def list_users(box: Box, principal: Principal) -> list[User]:
    """All users by name."""
    require(principal, "viewer")
    return await box.call(box.access.users)


@post("/api/v1/users")
async def create_user(box: Box, principal: Principal, data: NewUser) -> User:
    """Add a user."""
    require(principal, "admin")
    return await box.call(box.access.create_user, data.name, data.role, actor=principal.name)


@get("/api/v1/tokens")
async def list_tokens(box: Box, principal: Principal, limit: Limit = 100, after: str | None = None) -> list[Token]:
    """Your tokens, and an admin sees everyone's; newest first, without secrets."""
    require(principal, "viewer")
    whose = None if principal.role == "admin" else principal.name
    return await box.call(box.access.tokens, whose, limit=limit, after=after)


@post("/api/v1/tokens")
async def create_token(box: Box, principal: Principal, data: TokenRequest) -> NewToken:
    """A token of yours, or as an admin of anyone; its secret is shown this once. No token makes a stronger one."""
    require(principal, "viewer" if data.user == principal.name else "admin")
    role = data.role or (principal.role if data.user == principal.name else None)
    if data.user == principal.name:
        require(principal, role or "viewer")
    token, secret = await box.call(box.access.create_token, data.user, data.name, actor=principal.name, role=role)
    return NewToken(**msgspec.structs.asdict(token), secret=secret)


@delete("/api/v1/tokens/{token_id:str}")
async def revoke_token(box: Box, principal: Principal, token_id: str) -> None:
    """End a token of yours, or as an admin anyone's."""
    token = await box.call(box.access.token, token_id)
    require(principal, "viewer" if token.user == principal.name else "admin")
    await box.call(box.access.revoke, token_id, actor=principal.name)


@get("/api/v1/clock")
async def clock(box: Box) -> ClockState:
    """Both clocks."""
    return ClockState(replay=box.clock.replay, domain_time=box.clock.now(), real_time=box.clock.real())


@post("/api/v1/clock", status_code=200)
async def advance(box: Box, principal: Principal, data: Advance) -> ClockState:
    """Move the domain time of a box in replay mode forward."""
    require(principal, "admin")
    if data.to.tzinfo is None:
        raise InvalidInput("The time has no zone.", hint="Add an offset or a Z.", field="to")
    await box.call(box.advance, data.to, actor=principal.name)
    return ClockState(replay=box.clock.replay, domain_time=box.clock.now(), real_time=box.clock.real())


@get("/api/v1/audit")
async def audit(
    box: Box,
    principal: Principal,
    subject: str | None = None,
    actor: str | None = None,
    type_: Annotated[str | None, QueryParameter(name="type")] = None,
    limit: Limit = 100,
    after: str | None = None,
) -> list[Event]:
    """What happened, newest first, from below the id `after`."""
    require(principal, "viewer")
    return await box.call(box.events, subject=subject, actor=actor, type=type_, limit=limit, before=after)


handlers: list[Any] = [
    *(whoami, list_users, create_user, list_tokens, create_token, revoke_token, clock, advance, audit),
]
