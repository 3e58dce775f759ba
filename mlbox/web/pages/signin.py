"""Signing in: a one-time link or a token becomes a session's cookie."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect

from mlbox.errors import NotAuthenticated, NotAuthorised
from mlbox.web.auth import COOKIE
from mlbox.web.box import Box
from mlbox.web.pages.view import View


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


def _cookie(request: Request[Any, Any, Any], secret: str) -> Cookie:
    secure = request.url.scheme == "https"
    return Cookie(key=COOKIE, value=secret, httponly=True, samesite="lax", path="/", secure=secure)


@get("/login", include_in_schema=False)
async def login_page(
    request: Request[Any, Any, Any], view: View, box: Box, once: str = "", next: str = ""
) -> Response[Any]:
    """The sign-in page. A link is used up by its button, not by being looked at: previews fetch links too."""
    secret = request.cookies.get(COOKIE)
    session = await box.call(box.access.session, secret) if secret and not once else None
    if session is not None:
        return Redirect(local_path(next), status_code=303)
    return await view.page("login.html", lambda: {"once": once, "next": local_path(next), "error": None})


@post("/login", status_code=303, include_in_schema=False)
async def login(
    request: Request[Any, Any, Any],
    view: View,
    box: Box,
    data: Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)],
) -> Response[Any]:
    """Begin a session."""
    check_origin(request)
    once, token, target = data.get("once", ""), data.get("token", "").strip(), local_path(data.get("next"))
    try:
        if once:
            session = await box.call(box.access.redeem_login, once)
        elif token:
            session = await box.call(box.access.sign_in, token)
        else:
            raise NotAuthenticated("No token was given.", hint="Paste yours into the field.")
    except NotAuthenticated as err:
        context = {"once": "", "next": target, "error": err}
        return await view.page("login.html", lambda: context, status=401)
    return Redirect(target, status_code=303, cookies=[_cookie(request, session)])


@post("/logout", status_code=303, include_in_schema=False)
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
