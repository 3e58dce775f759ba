"""The two addresses of single sign-on: where a browser leaves for the provider, and where it comes back (see `sign_on`)."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import QueryParameter
from litestar.response import Redirect

from mlbox.errors import MlboxError, NotAuthenticated, NotFound
from mlbox.store.access.access import Visit
from mlbox.web.auth import COOKIE, peer_of
from mlbox.web.box import Box
from mlbox.web.pages.signin import cookie_for, local_path
from mlbox.web.pages.view import View
from mlbox.web.sign_on import LIFE, SignOn

PENDING = "mlbox_oidc"
PATH = "/login/oidc"
CALLBACK = "/login/oidc/callback"


@get(PATH, include_in_schema=False, action="public")
async def begin(request: Request[Any, Any, Any], view: View, box: Box, next: str = "") -> Response[Any]:
    """Send the browser to the sign-in provider."""
    sign_on = _sign_on(box)
    base = f"{request.url.scheme}://{request.url.netloc}"
    try:
        url, cookie = await box.call(sign_on.begin, base + CALLBACK, local_path(next))
    except MlboxError as err:
        return await _refused(view, err)
    answer: Response[Any] = Redirect(url, status_code=303)
    answer.set_cookie(
        PENDING,
        cookie,
        max_age=int(LIFE.total_seconds()),
        path=PATH,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@get(CALLBACK, include_in_schema=False, action="public")
async def callback(
    request: Request[Any, Any, Any],
    view: View,
    box: Box,
    code: str = "",
    state_: Annotated[str, QueryParameter(name="state")] = "",
    error: str = "",
    iss: str | None = None,
) -> Response[Any]:
    """End a sign-in that the provider answers: begin a session, in place of the one that this browser may have."""
    sign_on = _sign_on(box)
    try:
        pending = sign_on.resume(request.cookies.get(PENDING, ""), state_)
        if iss is not None and iss != sign_on.issuer:  # RFC 9207
            raise NotAuthenticated("Another provider answered this sign-in.", hint="Begin again.")
        if error or not code:
            raise NotAuthenticated(f"{sign_on.name} did not sign you in{_said(error)}.", hint="Begin again.")
        visit = Visit(peer_of(request.scope), request.headers.get("user-agent", ""))
        session = await box.call(sign_on.finish, pending, code, visit)
    except MlboxError as err:
        return await _refused(view, err)
    former = request.cookies.get(COOKIE)
    if former:
        await box.call(box.access.sign_out, former)
    answer: Response[Any] = Redirect(pending.target, status_code=303, cookies=[cookie_for(request, session)])
    answer.delete_cookie(PENDING, path=PATH)
    return answer


def _sign_on(box: Box) -> SignOn:
    if box.sign_on is None:
        raise NotFound("This server has no single sign-on.", hint="The setting oidc_issuer turns it on.")
    return box.sign_on


def _said(error: str) -> str:
    """The provider's error code, if it is one: anyone can write any text into this address."""
    return f": {error}" if 0 < len(error) <= 60 and error.isascii() and error.replace("_", "").isalnum() else ""


async def _refused(view: View, err: MlboxError) -> Response[Any]:
    context = {"once": "", "next": "/", "error": err, "user": ""}
    answer = await view.page("login.html", lambda: context, status=err.status)
    answer.delete_cookie(PENDING, path=PATH)
    return answer


handlers = [begin, callback]
