"""The API, operation by operation: read from the schema that /api/v1/schema serves, without a script from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from litestar import Request, Response, get

from mlbox.web.pages.view import View

METHODS = ("get", "post", "put", "patch", "delete")


class Field(NamedTuple):
    """One parameter, or one field of a body."""

    name: str
    kind: str
    required: bool
    place: str
    about: str


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    title: str
    fields: list[Field]
    answer: str


def kind_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].rpartition("_")[2]
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind_of(one) for one in schema[several]))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    found = schema.get("format") or schema.get("type") or "any"
    return " or ".join(found) if isinstance(found, list) else str(found)


def operations(schema: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """All operations, by the noun that their path begins with."""
    groups: dict[str, list[Operation]] = {}
    for path, methods in sorted(schema.get("paths", {}).items()):
        for method in METHODS:
            if method in methods:
                groups.setdefault(_noun(path), []).append(_operation(schema, path, method, methods[method]))
    return groups


def _noun(path: str) -> str:
    return path.removeprefix("/api/v1").strip("/").partition("/")[0] or path


def _operation(schema: Mapping[str, Any], path: str, method: str, found: Mapping[str, Any]) -> Operation:
    fields = [
        Field(p["name"], kind_of(p.get("schema", {})), p.get("required", False), p["in"], p.get("description") or "")
        for p in found.get("parameters", [])
        if p["in"] != "cookie"
    ]
    title = found.get("description") or found.get("summary") or ""
    return Operation(method, path, title, [*fields, *_body(schema, found)], _answer(found))


def _content(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a body's first media type."""
    content: Mapping[str, Mapping[str, Any]] = holder.get("content") or {}
    return next((media.get("schema") or {} for media in content.values()), {})


def _body(schema: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Field]:
    body = _content(found.get("requestBody") or {})
    name = str(body.get("$ref", "")).rpartition("/")[2]
    shape = schema.get("components", {}).get("schemas", {}).get(name, body)
    required = set(shape.get("required", ()))
    for field, one in shape.get("properties", {}).items():
        yield Field(field, kind_of(one), field in required, "body", one.get("description") or "")


def _answer(found: Mapping[str, Any]) -> str:
    for status, response in sorted(found.get("responses", {}).items()):
        if status.startswith("2"):
            body = _content(response)
            return f"{status}: {kind_of(body)}" if body else status
    return ""


@get("/api", include_in_schema=False, action="box.read")
async def api(request: Request[Any, Any, Any], view: View) -> Response[bytes]:
    """The API's page."""

    def fetch() -> dict[str, Any]:
        return {"groups": operations(request.app.openapi_schema.to_schema())}

    return await view.page("api.html", fetch)


handlers: list[Any] = [api]
