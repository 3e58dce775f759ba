"""What a handler takes: the type of its body, the depth of its JSON, the names in its query, the size of a page, and numbers of
64 bits.

A handler's own declaration says what its body is, so a new route is covered without anyone remembering to: one that streams
(`request_max_body_size=None`) takes bytes, one whose `data` is a form takes a form, and every other one takes JSON. A route
that takes more says so with `accepts=(...)` in its decorator, and one that looks at the names in its body itself, or has a
fast path that does not, with `any_names=True`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.enums import RequestEncodingType
from litestar.handlers import HTTPRouteHandler
from litestar.handlers.base import BaseRouteHandler

from mlbox.errors import InvalidInput, NotFound, WrongType
from mlbox.settings import Settings
from mlbox.web import bodies

NATIVE = "/api/v1/"
QUERY = "query"
"""The key in a handler's `opt` under which `routing` notes the parameters that it declares, where any other is refused."""
JSON = "application/json"
BINARY = "inference-header-content-length"
"""Says that what follows the JSON is not JSON: a handler that takes it, or what is compressed, has limits of its own."""
FORMS = frozenset(("application/x-www-form-urlencoded", "multipart/form-data"))
MOST_INT = 2**63 - 1
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
Connection = ASGIConnection[Any, Any, Any, Any]


def check_request(settings: Settings) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """Litestar's guard before every handler; it raises WrongType, NotFound or InvalidInput."""
    most_rows = settings.max_page

    async def check(connection: Connection, handler: BaseRouteHandler) -> None:
        if connection.scope["path_params"]:
            _check_numbers(connection.path_params)
        if connection.scope["query_string"]:
            query = list(connection.query_params.multi_items())
            if (known := handler.opt.get(QUERY)) is not None:
                bodies.check_query(query, known)
            _check_page(query, handler, most_rows)
        if connection.scope["method"] not in SAFE_METHODS and isinstance(handler, HTTPRouteHandler):  # type: ignore[typeddict-item]
            check_type(connection.headers, handler)

    return check


def limited(settings: Settings) -> type[Request[Any, Any, Any]]:
    """The class of a request whose JSON is checked before anything reads it."""
    most = settings.max_depth

    class LimitedRequest(Request[Any, Any, Any]):
        async def body(self) -> bytes:
            fresh = not isinstance(self._body, bytes)
            body = await super().body()
            if fresh and is_json(self.headers) and not is_flat(body, most):
                raise InvalidInput(
                    f"The body is nested more than {most} deep, or its brackets do not match.",
                    hint="Send flatter JSON; the setting max_depth says how deep it may be.",
                    field="max_depth",
                )
            return body

        async def json(self) -> Any:
            data = self.route_handler.parsed_data_field
            if data is None or data.annotation in (Any, bytes) or not self.scope["path"].startswith(NATIVE):
                return await super().json()  # the others' protocols are as lax as their servers are
            spelling = not self.route_handler.opt.get("any_names", False)
            return bodies.decoded(await self.body(), data.annotation, spelling=spelling)

    return LimitedRequest


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether a body with these headers is JSON and nothing else."""
    plain = headers.get("content-encoding", "identity") == "identity" and BINARY not in headers
    return plain and headers.get("content-type", JSON).startswith(JSON)


# -- the body ---------------------------------------------------------------------------------------------------------------

_OTHERS = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def is_flat(body: bytes, most: int) -> bool:
    """True when brackets outside of strings nest at most so deep; many that do not match are no JSON, and not flat either.

    Every pass takes the innermost pairs away, so `most` passes leave nothing of what is flat enough. All of it runs at the
    speed of `bytes.replace`: a body of thousands of rows costs less than its decoding.
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return True
    plain = _STRINGS.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    left = plain.translate(_ALIKE, _OTHERS)
    for _ in range(most):
        before = len(left)
        left = left.replace(b"[]", b"")
        if len(left) == before:
            return left.count(b"[") <= most
    return not left


def accepted(handler: HTTPRouteHandler) -> tuple[str, ...]:
    """The types of body that a handler takes; empty where it takes any but a form."""
    more: tuple[str, ...] = tuple(handler.opt.get("accepts", ()))
    if handler.resolve_request_max_body_size() is None:
        return ()
    data = handler.parsed_data_field
    media = getattr(data.kwarg_definition, "media_type", None) if data is not None else None
    if media in (RequestEncodingType.URL_ENCODED, RequestEncodingType.MULTI_PART):
        return (str(getattr(media, "value", media)), *more)
    return (JSON, *more)


def check_type(headers: Mapping[str, str], handler: HTTPRouteHandler) -> None:
    """Raise WrongType for a body that a handler does not take, by what the headers say of it."""
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    if headers.get("content-encoding", "identity") not in ("identity", *handler.opt.get("encodings", ())):
        raise WrongType(
            "The body is compressed, which is not taken.", hint="Send it as it is.", field="content-encoding"
        )
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    allowed = accepted(handler)
    if given in allowed or (not allowed and given not in FORMS):
        return
    said = f"The body is of the type {given[:80]!r}" if given else "The body has no type"
    want = " or ".join(filter(None, allowed)) if allowed else "application/octet-stream"
    raise WrongType(f"{said}, and this takes {want}.", hint=f"Send Content-Type: {want}.", field="content-type")


# -- the address ------------------------------------------------------------------------------------------------------------


def _check_numbers(parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, int) and not -MOST_INT <= value <= MOST_INT:
            raise NotFound(f"There is no {name} with a number past 64 bits.", hint="Check the address.", field=name)


def _check_page(query: Sequence[tuple[str, str]], handler: BaseRouteHandler, most: int) -> None:
    if all(name != "limit" for name, _ in query):
        return
    hint = "Read page by page with `after`; the setting max_page says how many rows one may have."
    own = handler.parsed_fn_signature.parameters.get("limit")
    declared = getattr(own.kwarg_definition, "le", None) if own is not None else None
    if declared is not None and declared <= most:
        most, hint = int(declared), "Read page by page with `after`."
    for name, value in query:
        if name == "limit" and value.strip().isdigit() and (len(value.strip()) > 18 or int(value) > most):
            raise InvalidInput(
                f"A page of {value[:20]} rows is more than {most:,}.",
                hint=hint,
                field="limit",
            )
