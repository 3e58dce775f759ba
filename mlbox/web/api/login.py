"""`mlbox login`: a one-time login link or a password becomes a token for the command line."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, post

from mlbox.errors import InvalidInput, NotAuthenticated
from mlbox.records import NewToken, Record, check_name
from mlbox.store.access.access import Access, Visit
from mlbox.web.auth import peer_of
from mlbox.web.box import Box


class Login(Record, frozen=True, kw_only=True):
    """The secret of a login link, or a user and a password; and what to call the token."""

    once: str = ""
    user: str = ""
    password: str = ""
    name: str = "login"


@post("/api/v1/login", action="public")
async def redeem(request: Request[Any, Any, Any], box: Box, data: Login) -> NewToken:
    """A token for who has a login link or a password. It answers without a token: the secret is what proves who asks."""
    check_name(data.name)
    visit = Visit(address=peer_of(request.scope))
    if data.once:
        browser = await box.door.redeem(data.once, visit)
    elif data.user and data.password:
        browser = await box.door.sign_in(data.user, data.password, visit)
    else:
        raise InvalidInput("No login link was given, and no password.", hint="Send `once`, or `user` and `password`.")
    return await box.call(_exchange, box.access, browser, data.name)


def _exchange(access: Access, browser: str, name: str) -> NewToken:
    """A token in place of a session that nobody will use."""
    session = access.session(browser)
    access.sign_out(browser)
    if session is None:
        raise NotAuthenticated("The account was disabled a moment ago.", hint="Ask an admin to enable it.")
    who = session.principal
    token, secret = access.create_token(who.name, name, actor=who.name, role=who.ceiling)
    return NewToken(**msgspec.structs.asdict(token), secret=secret)


handlers = [redeem]
