"""The OpenAPI document: what litestar reads off the routes, with errors as this server tells them."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

NATIVE = "/api/v1/"
_TEXT = {"type": "string"}
_ERROR = {
    "type": "object",
    "description": "Why a request was refused: a stable code, what is wrong, what to do next, and which field it is about.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint", "field"],
            "properties": {"code": _TEXT, "message": _TEXT, "hint": _TEXT, "field": {"type": ["string", "null"]}},
        }
    },
}
_NAME = "Error"
_REFUSED = {
    "description": "The request was refused.",
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_NAME}"}}},
}


def with_errors(document: dict[str, Any]) -> dict[str, Any]:
    """A document in which the native API's operations tell of errors as `problems` does, and none as litestar would."""
    paths = {
        path: {method: _with_errors(operation, path.startswith(NATIVE)) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }
    components = document.get("components", {})
    schemas = {**components.get("schemas", {}), _NAME: _ERROR}
    return {**document, "paths": paths, "components": {**components, "schemas": schemas}}


def _with_errors(operation: Any, native: bool) -> Any:
    if not isinstance(operation, dict) or "responses" not in operation:
        return operation
    answers = {status: answer for status, answer in operation["responses"].items() if int(status) < 400}
    if native:  # the other protocols' own documents tell how theirs look
        answers["default"] = _REFUSED
    return {**operation, "responses": answers}


class Document(JsonRenderPlugin):
    """Serves the document, which is written once: it does not change while the server runs, and is as long as the API."""

    _written: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The document as JSON."""
        if self._written is None:
            self._written = super().render(request, with_errors(openapi_schema))
        return self._written
