"""Signing in: a one-time link, a password or a token becomes a session's cookie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect

from mlbox.errors import NotAuthenticated, NotAuthorised, TooMany
from mlbox.store.access.access import Visit
from mlbox.web.auth import COOKIE, peer_of
from mlbox.web.box import Box
from mlbox.web.door import TOKEN
from mlbox.web.pages.view import View
from mlbox.web.problems import retry_after


def local_path(target: str | None) -> str:
    """Where to go after signing in: only a path of this server."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")):
        return "/"
    return target if target.isprintable() and not urlsplit(target).netloc else "/"


def check_origin(request: Request[Any, Any, Any]) -> None:
    """Refuse a form that another site posts; raises NotAuthorised. Programs that are no browser send no Origin."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign or site not in {"same-origin", "none"}:
        raise NotAuthorised(
            "This form was sent from another site.", hint="Open /login on this server and sign in there."
        )


def cookie_for(request: Request[Any, Any, Any], secret: str) -> Cookie:
    """The cookie that carries a session's secret."""
    secure = request.url.scheme == "https"
    return Cookie(key=COOKIE, value=secret, httponly=True, samesite="lax", path="/", secure=secure)


@get("/login", include_in_schema=False, action="public")
async def login_page(
    request: Request[Any, Any, Any], view: View, box: Box, once: str = "", next: str = ""
) -> Response[Any]:
    """The sign-in page. A link is used up by its button, not by being looked at: previews fetch links too."""
    secret = request.cookies.get(COOKIE)
    session = await box.call(box.access.session, secret) if secret and not once else None
    if session is not None:
        return Redirect(local_path(next), status_code=303)
    context = {"once": once, "next": local_path(next), "error": None, "user": ""}
    return await view.page("login.html", lambda: context)


@post("/login", status_code=303, include_in_schema=False, action="public")
async def login(
    request: Request[Any, Any, Any],
    view: View,
    box: Box,
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> Response[Any]:
    """Begin a session, in place of the one that this browser may have."""
    check_origin(request)
    target, user = local_path(data.get("next")), data.get("user", "").strip()
    try:
        session = await _begin(request, box, user, data)
    except (NotAuthenticated, NotAuthorised, TooMany) as err:
        context = {"once": "", "next": target, "error": err, "user": user}
        answer: Response[Any] = await view.page("login.html", lambda: context, status=err.status)
        for name, value in retry_after(err):
            answer.set_header(name.decode(), value.decode())
        return answer
    former = request.cookies.get(COOKIE)
    if former:
        await box.call(box.access.sign_out, former)
    return Redirect(target, status_code=303, cookies=[cookie_for(request, session)])


async def _begin(request: Request[Any, Any, Any], box: Box, user: str, data: Mapping[str, str]) -> str:
    """A new session's secret, from a login link, a password or a token."""
    visit = Visit(peer_of(request.scope), request.headers.get("user-agent", ""))
    once, secret = data.get("once", ""), data.get("token", "")
    if once:
        return await box.door.redeem(once, visit)
    if not secret.strip():
        raise NotAuthenticated("No token was given, and no password.", hint="Type your password, or paste your token.")
    pasted = secret.strip().startswith(TOKEN) or not user
    return await box.door.sign_in(user, secret.strip() if pasted else secret, visit)


@post("/logout", status_code=303, include_in_schema=False, action="account.change")
async def logout(request: Request[Any, Any, Any], box: Box) -> Response[Any]:
    """End the session."""
    secret = request.cookies.get(COOKIE)
    if secret:
        await box.call(box.access.sign_out, secret)
    answer: Response[Any] = Response(b"", status_code=200, headers={"HX-Redirect": "/login"})
    if "hx-request" not in request.headers:
        answer = Redirect("/login", status_code=303)
    answer.delete_cookie(COOKIE, path="/")
    return answer


handlers = [login_page, login, logout]
