"""The error tree on the native API's wire: `{"error": {"code", "message", "hint", "field"}}`."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Send

from mlbox.errors import InvalidInput, MlboxError, NotFound, TooLarge, TooMany
from mlbox.web import bodies
from mlbox.web.logs import request_id

_log = logging.getLogger(__name__)


_MISSING = re.compile(r"Missing required [\w ]*'([^']+)'")


def body_of(err: MlboxError) -> dict[str, Any]:
    """The JSON body that tells of an error."""
    return {"error": {"code": err.code, "message": err.message, "hint": err.hint, "field": err.field}}


def open_inference(err: MlboxError) -> dict[str, Any]:
    """The body of an error in the Open Inference Protocol."""
    return {"error": in_tritons_words(err)}


def in_tritons_words(err: MlboxError) -> str:
    """An error's words, which for a model that there is not are those that Triton's clients look for."""
    if not (isinstance(err, NotFound) and err.model):
        return _in_sentences(err)
    version = "" if err.version is None else f" version {err.version!s:.40}"
    return f"Request for unknown model: {err.model!r:.200}{version} is not found. {err.hint}"


def _in_sentences(err: MlboxError) -> str:
    """Message and hint: Triton's own messages end without a stop."""
    stop = "." if err.hint and not err.message.endswith((".", "?", "!")) else ""
    return f"{err.message}{stop} {err.hint}".rstrip()


SHAPES: list[tuple[str, Callable[[MlboxError], Any]]] = [("/v2", open_inference)]
"""By the beginning of the path, how its protocol tells of an error, where that is another way than `body_of`."""


def body_at(path: str, err: MlboxError) -> Any:
    """The JSON body that tells of an error in the protocol of a path, also of one that no handler answers."""
    for prefix, shape in SHAPES:
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
            return shape(err)
    return body_of(err)


BLAMED_ON_THE_REQUEST: dict[type[Exception], Callable[[], MlboxError]] = {
    RecursionError: lambda: InvalidInput("The body is nested too deeply.", hint="Send flatter JSON.", field="body"),
    OverflowError: lambda: InvalidInput("A number is too large.", hint="Numbers here have 64 bits at most."),
    UnicodeError: lambda: InvalidInput("A text in the request is not Unicode.", hint="Send UTF-8."),
    RequestEntityTooLarge: lambda: TooLarge(
        "The body is larger than this server takes.",
        hint="Send less, or raise the setting max_body.",
        field="max_body",
    ),
}
"""What decoders and stores raise for a value that the types allow and they cannot hold: nesting past the interpreter's limit,
numbers past 64 bits, bytes that are no UTF-8, half a surrogate pair."""


def as_mlbox_error(err: Exception, request: Request[Any, Any, Any] | None = None) -> MlboxError:
    """Any exception as one of the tree; what was not raised on purpose says nothing of its inside."""
    if isinstance(err, MlboxError):
        return err
    if isinstance(err, ValidationException):
        return _invalid(err, request)
    for kind, of_the_request in BLAMED_ON_THE_REQUEST.items():
        if isinstance(err, kind):
            return of_the_request()
    if isinstance(err, InternalServerException):
        return _of_the_request(err)
    if isinstance(err, HTTPException):
        ours = MlboxError(err.detail)
        ours.status, ours.code = err.status_code, _code_of(err.status_code)
        return ours
    return _fault(err)


def _under() -> str:
    return f" under the request id {own}" if (own := request_id.get()) else ""


def _of_the_request(err: InternalServerException) -> MlboxError:
    """What litestar takes for a fault of the server, though the client is to blame."""
    if "disconnected" not in err.detail:
        return _fault(err)
    return InvalidInput(
        "The client went away before its request was whole."
    )  # nobody is there to read this but the log


def _fault(err: Exception) -> MlboxError:
    _log.error("A request failed.", exc_info=err)
    return MlboxError("mlbox failed on this request.", hint=f"The server's log has the details{_under()}.")


def _code_of(status: int) -> str:
    """A stable code for what the router itself refuses: the tree's for its status, else the status's standard words."""
    known = {kind.status: kind.code for kind in (NotFound, InvalidInput, TooLarge, TooMany)}
    return known.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")


def _invalid(err: ValidationException, request: Request[Any, Any, Any] | None) -> MlboxError:
    """What litestar says of a parameter of the address, a header or a form: of a JSON body `bodies` tells."""
    first: Any = err.extra[0] if isinstance(err.extra, list) and err.extra else {}
    field, message = (first.get("key"), first["message"]) if isinstance(first, dict) and first else (None, err.detail)
    if missing := _MISSING.match(message):
        return InvalidInput(f"The parameter {missing[1]} is missing.", hint=bodies.HINT, field=missing[1])
    if request is None or field is None:
        return InvalidInput(f"The request is not valid: {message}.", hint=bodies.HINT, field=field)
    if field == "data":
        return InvalidInput("The body is missing.", hint=bodies.HINT, field="body")
    declared = request.route_handler.parsed_fn_signature.parameters.get(field)
    name = getattr(declared.kwarg_definition, "name", None) or field if declared else field
    given = {**request.path_params, **request.query_params}.get(name)
    return bodies.explained(message, given, declared.annotation if declared else Any, place=name)


def handle(request: Request[Any, Any, Any], err: Exception) -> Response[Any]:
    """Litestar's exception handler for the native API, and for what no handler answers."""
    ours = as_mlbox_error(err, request)
    headers = {name.decode(): value.decode() for name, value in retry_after(ours)}
    body = msgspec.json.encode(body_at(request.url.path, ours))  # encoded here: a text would be sent as it is
    return Response(body, status_code=ours.status, media_type="application/json", headers=headers)


def retry_after(err: MlboxError) -> list[tuple[bytes, bytes]]:
    """The header that says when to come back, where that is known."""
    return [(b"retry-after", str(err.retry_seconds).encode())] if err.retry_seconds else []


async def refuse(send: Send, err: MlboxError, *more: tuple[bytes, bytes], path: str = "/") -> None:
    """Answer an error where no handler was reached, in the shape of the path's protocol and with further headers."""
    body = msgspec.json.encode(body_at(path, err))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        *retry_after(err),
        *more,
    ]
    await send({"type": "http.response.start", "status": err.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
