"""The error tree on the native API's wire: `{"error": {"code", "message", "hint", "field"}}`."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from mlbox.errors import InvalidInput, MlboxError, NotFound, TooLarge, TooMany

_log = logging.getLogger(__name__)


def body_of(err: MlboxError) -> dict[str, Any]:
    """The JSON body that tells of an error."""
    return {"error": {"code": err.code, "message": err.message, "hint": err.hint, "field": err.field}}


def as_mlbox_error(err: Exception) -> MlboxError:
    """Any exception as one of the tree; what was not raised on purpose says nothing of its inside."""
    if isinstance(err, MlboxError):
        return err
    if isinstance(err, ValidationException):
        return _invalid(err)
    if isinstance(err, RecursionError):  # the JSON decoder's, which stops at the interpreter's limit
        return InvalidInput("The body is nested too deeply.", hint="Send flatter JSON.", field="body")
    if isinstance(err, HTTPException):
        ours = MlboxError(err.detail)
        ours.status, ours.code = err.status_code, _code_of(err.status_code)
        return ours
    _log.error("A request failed.", exc_info=err)
    return MlboxError("mlbox failed on this request.", hint="The server's log has the details.")


def _code_of(status: int) -> str:
    """A stable code for what the router itself refuses: the tree's for its status, else the status's standard words."""
    known = {kind.status: kind.code for kind in (NotFound, InvalidInput, TooLarge, TooMany)}
    return known.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")


def _invalid(err: ValidationException) -> MlboxError:
    first: Any = err.extra[0] if isinstance(err.extra, list) and err.extra else {}
    field = first.get("key") if isinstance(first, dict) else None
    message = first.get("message", err.detail) if isinstance(first, dict) else err.detail
    return InvalidInput(f"The request is not valid: {message}.", hint="See /api/v1/schema.", field=field)


def handle(_: Request[Any, Any, Any], err: Exception) -> Response[dict[str, Any]]:
    """Litestar's exception handler for the native API."""
    ours = as_mlbox_error(err)
    return Response(body_of(ours), status_code=ours.status, media_type="application/json")
