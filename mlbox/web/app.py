"""The ASGI app: every adapter over one box."""

from __future__ import annotations

from typing import Any, cast

from litestar import Litestar, Request
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from mlbox import __version__
from mlbox.records import Principal
from mlbox.web import ops, problems
from mlbox.web.auth import AuthMiddleware
from mlbox.web.box import Box

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def _principal(request: Request[Any, Any, Any]) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    return principal


def create_app(box: Box) -> AuthMiddleware:
    """The app over an opened box; closing the box is the caller's."""
    hosts = LOOPBACK | {box.settings.host.lower()} | {name.lower() for name in box.settings.allowed_host}
    app = Litestar(
        route_handlers=[ops.livez, ops.readyz, ops.version],
        dependencies={
            "box": Provide(lambda: box, sync_to_thread=False),
            "principal": Provide(_principal, sync_to_thread=False),
        },
        exception_handlers={Exception: problems.handle},
        request_max_body_size=box.settings.max_body,
        openapi_config=OpenAPIConfig(
            title="mlbox", version=__version__, path="/api/v1/schema", render_plugins=[JsonRenderPlugin()]
        ),
        logging_config=None,
    )
    return AuthMiddleware(cast(ASGIApp, app), box.access, hosts)
