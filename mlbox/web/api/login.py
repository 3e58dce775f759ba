"""`mlbox login --once`: a one-time login link becomes a token for the command line."""

from __future__ import annotations

from litestar import post

from mlbox.errors import NotAuthenticated
from mlbox.records import NewToken, Record, check_name
from mlbox.store.access import Access
from mlbox.web.box import Box


class Login(Record, frozen=True, kw_only=True):
    """The secret of a login link, and what to call the token."""

    once: str
    name: str = "login"


@post("/api/v1/login")
async def redeem(box: Box, data: Login) -> NewToken:
    """A token for the holder of a one-time login link. It answers without a token: the link is what proves who asks."""
    check_name(data.name)
    return await box.call(_redeem, box.access, data)


def _redeem(access: Access, login: Login) -> NewToken:
    browser = access.redeem_login(login.once)
    session = access.session(browser)
    access.sign_out(browser)
    if session is None:
        raise NotAuthenticated("The login link has expired.", hint="Sign in with a token instead.")
    user = session.principal.name
    token, secret = access.create_token(user, login.name, actor=user)
    return NewToken(
        id=token.id, user=token.user, name=token.name, role=token.role, created_at=token.created_at, secret=secret
    )


handlers = [redeem]
