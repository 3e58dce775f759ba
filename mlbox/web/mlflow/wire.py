"""MLflow's REST on the wire: addresses, messages in, errors out, page tokens.

A message comes as JSON in the body, or in the query string of a GET. Fields that are not known are ignored, as its server does;
enums come by name and 64-bit numbers as numbers or as text. An error is `{"error_code", "message"}`, and which code it is matters
more than its status: the client goes on by it.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import litestar
import msgspec
from litestar import Request, Response
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.handlers import HTTPRouteHandler

from mlbox.clock import to_us
from mlbox.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    MlboxError,
    NotAuthenticated,
    NotAuthorised,
    NotFound,
    Refused,
    TimedOut,
    TooLarge,
    TooMany,
    Unavailable,
)
from mlbox.records import Principal
from mlbox.store.access.roles import ACTIONS
from mlbox.web.box import Box
from mlbox.web.problems import SHAPES, as_mlbox_error

PREFIXES = ("/api", "/ajax-api")
MAX_TOKEN = 4096
T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request of MLflow's; fields that are not known are ignored."""


# -- addresses ----------------------------------------------------------------------------------------------------------


def paths(path: str, version: str = "2.0") -> list[str]:
    """Where a method of MLflow's service is, under both of its prefixes."""
    return [f"{prefix}/{version}/mlflow/{path}" for prefix in PREFIXES]


# -- errors -------------------------------------------------------------------------------------------------------------

CODES: dict[type[MlboxError], tuple[str, int]] = {
    AlreadyExists: ("RESOURCE_ALREADY_EXISTS", 400),
    InvalidInput: ("INVALID_PARAMETER_VALUE", 400),
    NotAuthenticated: ("UNAUTHENTICATED", 401),
    NotAuthorised: ("PERMISSION_DENIED", 403),
    Refused: ("PERMISSION_DENIED", 403),
    NotFound: ("RESOURCE_DOES_NOT_EXIST", 404),
    Conflict: ("RESOURCE_CONFLICT", 409),
    TooLarge: ("INVALID_PARAMETER_VALUE", 400),
    TooMany: ("REQUEST_LIMIT_EXCEEDED", 429),
    Unavailable: ("TEMPORARILY_UNAVAILABLE", 503),
    TimedOut: ("DEADLINE_EXCEEDED", 504),
}
"""MLflow's code and status for each error of ours, the first that fits."""


def code_of(err: MlboxError) -> tuple[str, int]:
    """MLflow's code and status of an error."""
    other = ("INVALID_PARAMETER_VALUE" if err.status < 500 else "INTERNAL_ERROR", err.status)
    return next((code for kind, code in CODES.items() if isinstance(err, kind)), other)


def problem(_: Request[Any, Any, Any], err: Exception) -> Response[dict[str, str]]:
    """Any error in MLflow's shape."""
    if isinstance(err, NotFoundException | MethodNotAllowedException):
        return Response(
            {"error_code": "ENDPOINT_NOT_FOUND", "message": "mlbox does not have this endpoint of MLflow's."},
            status_code=404,
        )
    ours = as_mlbox_error(err)
    code, status = code_of(ours)
    if ours.status == 416:  # of a range, which is HTTP's own matter
        status = ours.status
    return Response({"error_code": code, "message": str(ours)}, status_code=status)


def shape(err: MlboxError) -> dict[str, str]:
    """The body of an error that no handler of this package raised: who asks is not known, or there is no such endpoint."""
    if err.status in (404, 405) and not isinstance(err, NotFound):
        return NO_ENDPOINT
    return {"error_code": code_of(err)[0], "message": str(err)}


NO_ENDPOINT = {"error_code": "ENDPOINT_NOT_FOUND", "message": "mlbox does not have this endpoint of MLflow's."}
SHAPES += [(f"{prefix}/{version}", shape) for prefix in PREFIXES for version in ("2.0", "3.0")]


def invalid(parameter: str, value: object, why: str = "") -> InvalidInput:
    """A parameter with a value that it cannot have, in the words that MLflow's clients and tests look for."""
    return InvalidInput(f"Invalid value {value!r:.200} for parameter '{parameter}' supplied. {why}", field=parameter)


# -- messages -----------------------------------------------------------------------------------------------------------


async def decode(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """A request's message; raises InvalidInput that names the parameter."""
    if request.method == "GET":
        return _convert(_of_query(request.scope["query_string"], kind), kind)
    body = await request.body()
    try:
        return _convert(msgspec.json.decode(body or b"{}"), kind)
    except msgspec.DecodeError as err:
        raise InvalidInput(f"The body is not JSON: {err}.", field="body") from err


async def take(request: Request[Any, Any, Any], box: Box, principal: Principal, kind: type[T], action: str) -> T:
    """The message about a model, once whoever asks may do this to the model of that name."""
    message = await decode(request, kind)
    name: str = message.name  # type: ignore[attr-defined]
    if not name:
        raise _missing("name")
    if ACTIONS[action].where != "any":
        box.teams.require(principal, action, name=name)
    return message


def _of_query(query: bytes, kind: type[Any]) -> dict[str, Any]:
    """The query string's fields: those that are lists may be given more than once."""
    lists = _lists(kind)  # type: ignore[arg-type]  # a class is hashable
    found: dict[str, Any] = {}
    for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if key in lists:
            found.setdefault(key, []).append(value)
        else:
            found[key] = value
    return found


@functools.cache
def _lists(kind: type[Any]) -> frozenset[str]:
    return frozenset(
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if isinstance(field.default, tuple) or field.default_factory is not msgspec.NODEFAULT
    )


def _convert(given: Any, kind: type[T]) -> T:
    if not isinstance(given, dict):
        raise InvalidInput("The body is not a JSON object.", field="body")
    present = {key: value for key, value in given.items() if value is not None}
    for name in _required(kind):  # type: ignore[arg-type]  # a class is hashable
        if name not in present:
            raise _missing(name)
    try:
        return msgspec.convert(present, kind, strict=False)
    except msgspec.ValidationError as err:
        _, _, where = str(err).rpartition("`$.")
        parameter = where.rstrip("`").partition(".")[0].partition("[")[0]
        raise invalid(parameter, present.get(parameter), f"{str(err).partition(' - at')[0]}.") from err


@functools.cache
def _required(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in msgspec.structs.fields(kind) if field.required)


def _missing(parameter: str) -> InvalidInput:
    return InvalidInput(
        f"Missing value for required parameter '{parameter}'.",
        hint="See the API docs for more information about request parameters.",
        field=parameter,
    )


def millis(moment: datetime) -> int:
    """A moment in MLflow's milliseconds."""
    return to_us(moment) // 1000


# -- pages --------------------------------------------------------------------------------------------------------------


def page_size(asked: int | None, *, default: int, most: int) -> int:
    """How many to show; raises InvalidInput outside of 1 to `most`."""
    if asked is None:
        return default
    if not 0 < asked <= most:
        raise invalid("max_results", asked, f"It must be at least 1 and at most {most}.")
    return asked


def next_page(place: Sequence[Any] | None) -> dict[str, str]:
    """The field that leads to the next page, where there is one."""
    if place is None:
        return {}
    return {"next_page_token": base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()}


def read_token(token: str) -> list[Any] | None:
    """The place in a search that a token stands for; raises InvalidInput."""
    if not token:
        return None
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("it is too long")
        return msgspec.json.decode(base64.urlsafe_b64decode(token), type=list[str | int | float | None])
    except (ValueError, binascii.Error, msgspec.MsgspecError) as err:
        raise invalid("page_token", token, "Send what next_page_token said.") from err


# -- handlers -----------------------------------------------------------------------------------------------------------

Handler = Callable[[Callable[..., Any]], HTTPRouteHandler]


def _route(decorator: Callable[..., Any]) -> Callable[..., Handler]:
    @functools.wraps(decorator)
    def route(path: list[str], *, action: str, **options: Any) -> Handler:
        given = {"status_code": 200, "names": "body", "exception_handlers": {Exception: problem}, **options}
        made: Handler = decorator(path, action=action, **given)
        return made

    return route


get, post, patch, put, delete = (
    _route(decorator) for decorator in (litestar.get, litestar.post, litestar.patch, litestar.put, litestar.delete)
)
"""Litestar's decorators for MLflow's methods: 200 and an object on success, MLflow's error shape, the name in the message."""
