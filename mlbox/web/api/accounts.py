"""Accounts over HTTP: users and services, passwords, tokens, browser sessions."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, delete, get, post, put
from litestar.params import Parameter

from mlbox.errors import InvalidInput, NotAuthenticated, NotAuthorised
from mlbox.records import Account, AccountKind, BrowserSession, NewToken, Principal, Record, Role, Token, User, WhoAmI
from mlbox.store.access.roles import at_least
from mlbox.store.access.tokens import parse_life
from mlbox.web.auth import peer_of
from mlbox.web.box import Box

Limit = Annotated[int, Parameter(ge=1, le=1000)]


class NewUser(Record, frozen=True, kw_only=True):
    """A person or service to add."""

    name: str
    role: Role = "member"
    kind: AccountKind = "person"


class UserState(Record, frozen=True, kw_only=True):
    """Whether an account's credentials work."""

    state: Literal["active", "disabled"]


class NewPassword(Record, frozen=True, kw_only=True):
    """A password to set; of one's own, the old one, too, where there is one."""

    password: str
    old: str | None = None


class TokenRequest(Record, frozen=True, kw_only=True):
    """A token to make; `role` caps what it may do, `expires` is how long it lives, such as 12h, 30d or 52w."""

    user: str
    name: str
    role: Role | None = None
    expires: str | None = None


class Link(Record, frozen=True, kw_only=True):
    """A one-time login link."""

    url: str


class Ended(Record, frozen=True, kw_only=True):
    """How many sessions ended."""

    sessions: int


@get("/api/v1/whoami", action="box.whoami")
async def whoami(box: Box, principal: Principal) -> WhoAmI:
    """Who is asking, and in which role in which team."""
    return WhoAmI(**msgspec.structs.asdict(principal), teams=box.teams.roles_of(principal))


# -- users ------------------------------------------------------------------------------------------------------------------


@get("/api/v1/users", action="box.read")
async def list_users(box: Box, principal: Principal) -> list[User]:
    """All users and services by name."""
    return await box.call(box.access.users)


@post("/api/v1/users", action="user.create")
async def create_user(box: Box, principal: Principal, data: NewUser) -> User:
    """Add a user or a service, which has tokens only."""
    return await box.call(box.access.create_user, data.name, data.role, actor=principal.name, kind=data.kind)


@put("/api/v1/users/{user:str}/state", action="user.change")
async def set_state(box: Box, principal: Principal, user: str, data: UserState) -> User:
    """Disable an account, whose tokens, sessions and password stop at once, or enable it again; its sessions stay ended."""
    change = box.access.disable if data.state == "disabled" else box.access.enable
    return await box.call(change, user, actor=principal.name)


@post("/api/v1/users/{user:str}/link", action="user.change")
async def create_link(request: Request[Any, Any, Any], box: Box, principal: Principal, user: str) -> Link:
    """A one-time login link for someone, good for 30 minutes: how a new colleague gets in and sets a password."""
    secret = await box.call(box.access.create_login, user, actor=principal.name)
    return Link(url=f"{str(request.base_url).rstrip('/')}/login?once={secret}")


# -- passwords --------------------------------------------------------------------------------------------------------------


@put("/api/v1/users/{user:str}/password", status_code=204, action="account.change")
async def set_password(
    request: Request[Any, Any, Any], box: Box, principal: Principal, user: str, data: NewPassword
) -> None:
    """Set your password, which ends your other sessions; or, as an admin, the first one of someone who has none."""
    own = user == principal.name
    former = await box.call(box.access.password_hash, user)
    if not own:
        box.teams.require(principal, "user.change")
        _only_first(user, former)
    _only_whole(principal)
    if own and former is not None:
        former = await _confirmed(box, user, data.old, peer_of(request.scope))
    new = await asyncio.wrap_future(box.access.passwords.hash(data.password))
    session = request.scope["state"].get("session") if own else None
    keep = session.id if session else None
    await box.call(box.access.set_password, user, new, former=former, actor=principal.name, keep_session=keep)


@delete("/api/v1/users/{user:str}/password", action="user.change")
async def remove_password(box: Box, principal: Principal, user: str) -> None:
    """Take a forgotten password away, with the account's sessions; its user then sets a new one."""
    await box.call(box.access.remove_password, user, actor=principal.name)


async def _confirmed(box: Box, user: str, old: str | None, peer: str) -> str:
    if old is None:
        raise InvalidInput("Your present password is needed, too.", hint="Send it as `old`.", field="old")
    try:
        return await box.door.check_password(user, old, peer)
    except NotAuthenticated as err:
        raise InvalidInput(
            "The present password is wrong.", hint="An admin can take a forgotten one away.", field="old"
        ) from err


def _only_first(user: str, former: str | None) -> None:
    if former is not None:
        raise NotAuthorised(
            f"{user} has a password, which only {user} changes.",
            hint=f"Take a forgotten one away with `mlbox user password {user} --remove`.",
        )


def _only_whole(principal: Principal) -> None:
    """Raise NotAuthorised for a token that may do less than its user: what it makes would outlive it, or do more."""
    if principal.ceiling != "admin":
        raise NotAuthorised(
            f"This token may do no more than {principal.ceiling}, and not change the account.",
            hint="Sign in with a password, a login link or a token without a ceiling.",
        )


# -- tokens -----------------------------------------------------------------------------------------------------------------


@get("/api/v1/tokens", action="account.change")
async def list_tokens(box: Box, principal: Principal, limit: Limit = 100, after: str | None = None) -> list[Token]:
    """Your tokens, and an admin sees everyone's; newest first, without secrets."""
    whose = None if principal.role == "admin" else principal.name
    return await box.call(box.access.tokens, whose, limit=limit, after=after)


@post("/api/v1/tokens", action="token.create")
async def create_token(box: Box, principal: Principal, data: TokenRequest) -> NewToken:
    """A token of yours, or as an admin of anyone; its secret is shown this once. No token makes a stronger one."""
    role: Role | None = data.role
    if data.user != principal.name:
        box.teams.require(principal, "token.create-any")
    else:
        role = role or principal.ceiling
        if not at_least(principal.ceiling, role):
            raise NotAuthorised(
                f"A token that may do no more than {principal.ceiling} makes none that may do more.",
                hint=f"Ask for --role {principal.ceiling}, or sign in yourself.",
            )
    life = parse_life(data.expires) if data.expires else None
    token, secret = await box.call(
        box.access.create_token, data.user, data.name, actor=principal.name, role=role, life=life
    )
    return NewToken(**msgspec.structs.asdict(token), secret=secret)


@delete("/api/v1/tokens/{token_id:str}", action="token.revoke")
async def revoke_token(box: Box, principal: Principal, token_id: str) -> None:
    """End a token of yours, or as an admin anyone's, and the sessions that were begun with it."""
    token = await box.call(box.access.token, token_id)
    if token.user != principal.name:
        box.teams.require(principal, "token.revoke-any")
    elif token.id != principal.token_id and not at_least(principal.ceiling, token.role):
        _only_whole(principal)
    await box.call(box.access.revoke, token_id, actor=principal.name)


# -- one's own account ------------------------------------------------------------------------------------------------------


@get("/api/v1/account", action="account.change")
async def account(box: Box, principal: Principal) -> Account:
    """Your own account."""
    user = await box.call(box.access.user, principal.name)
    has_password = await box.call(box.access.password_hash, principal.name) is not None
    shortest = box.access.passwords.shortest
    return Account(**msgspec.structs.asdict(user), has_password=has_password, password_min=shortest)


@get("/api/v1/account/sessions", action="account.change")
async def list_sessions(request: Request[Any, Any, Any], box: Box, principal: Principal) -> list[BrowserSession]:
    """Your open browser sessions, the last used first."""
    current = request.scope["state"].get("session")
    found = await box.call(box.access.sessions, principal.name)
    return [msgspec.structs.replace(s, current=current is not None and s.id == current.id) for s in found]


@delete("/api/v1/account/sessions/{session_id:str}", action="account.change")
async def end_session(box: Box, principal: Principal, session_id: str) -> None:
    """End one of your browser sessions."""
    _only_whole(principal)
    await box.call(box.access.end_session, principal.name, session_id)


@post("/api/v1/users/{user:str}/sign-out", status_code=200, action="account.change")
async def sign_out(box: Box, principal: Principal, user: str) -> Ended:
    """End all your browser sessions and login links, this one, too; or as an admin anyone's."""
    if user != principal.name:
        box.teams.require(principal, "user.change")
    else:
        _only_whole(principal)
    return Ended(sessions=await box.call(box.access.sign_out_everywhere, user, actor=principal.name))


handlers: list[Any] = [
    *(whoami, list_users, create_user, set_state, create_link, set_password, remove_password),
    *(list_tokens, create_token, revoke_token, account, list_sessions, end_session, sign_out),
]
