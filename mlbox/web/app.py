"""The ASGI app: every adapter over one box."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import Provide
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp

from mlbox import __version__
from mlbox.records import Principal
from mlbox.web import dvc, events_stream, feast, metrics, mlflow, oidc, ops, pages, v2
from mlbox.web.access_log import AccessLog
from mlbox.web.api import (
    accounts,
    alerts,
    backups,
    cards,
    catalogue,
    crons,
    curves,
    datasets,
    definitions,
    deleted,
    feature_rows,
    features,
    gates,
    identities,
    jobs,
    labels,
    login,
    models,
    monitoring,
    outcomes,
    performance,
    points,
    policies,
    predict,
    predictions,
    quality,
    registry,
    replays,
    rollouts,
    run_views,
    runs,
    scoring,
    search,
    serving,
    sharing,
    skew,
    teams,
    transforms,
    view_jobs,
)
from mlbox.web.api import dvc as dvc_api
from mlbox.web.api import ops as box_api
from mlbox.web.api import secrets as secrets_api
from mlbox.web.auth import AuthMiddleware
from mlbox.web.authorise import Asking, check_handlers, guard
from mlbox.web.box import Box
from mlbox.web.edge import Edge
from mlbox.web.fast.answering import FastPath
from mlbox.web.limits import check_request, limited
from mlbox.web.openapi import Document
from mlbox.web.pages.errors import ErrorHandler
from mlbox.web.pages.headers import add_headers
from mlbox.web.pages.view import provide_view
from mlbox.web.routing import add_all

ADAPTERS: tuple[Any, ...] = (
    login,
    oidc,
    accounts,
    alerts,
    identities,
    box_api,
    teams,
    definitions,
    feature_rows,
    features,
    gates,
    view_jobs,
    catalogue,
    transforms,
    quality,
    labels,
    datasets,
    runs,
    points,
    curves,
    run_views,
    models,
    policies,
    registry,
    serving,
    scoring,
    replays,
    rollouts,
    cards,
    predict,
    predictions,
    monitoring,
    performance,
    outcomes,
    skew,
    jobs,
    crons,
    sharing,
    search,
    secrets_api,
    v2,
    mlflow,
    feast,
    dvc,
    dvc_api,
    metrics,
    deleted,
    backups,
    events_stream,
    pages,
)
"""Everything that answers over one box: each module has a list `handlers`, and some a list `fast` of those among them that have
a fast path."""


Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


def _principal(request: Request[Any, Any, Any], box: Box) -> Principal:
    """Who asks. It names the box for speed: of dependencies that do not need each other Litestar makes a task each."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


def _one_guard(*guards: Guard) -> Guard:
    """Several guards as one: Litestar copies the handler for each of its guards, on every request."""

    async def check(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        for each in guards:
            await each(connection, handler)

    return check


def create_app(box: Box) -> Edge:
    """The app over an opened box; closing the box is the caller's."""
    return Edge(AuthMiddleware(Asking(cast(ASGIApp, create_router(box))), box.door), box.settings)


def create_fast_path(box: Box, edge: Edge, log: AccessLog) -> FastPath:
    """The fast path beside the app, through the same layers."""
    return FastPath(box, edge, log, [fast for adapter in ADAPTERS for fast in getattr(adapter, "fast", ())])


def create_router(box: Box) -> Litestar:
    """Every route, behind whatever finds out who asks."""
    handlers = [
        *(ops.livez, ops.readyz, ops.version),
        *(handler for adapter in ADAPTERS for handler in adapter.handlers),
    ]
    check_handlers(handlers)
    app = Litestar(
        guards=[_one_guard(guard(box), check_request(box.settings))],
        request_class=limited(box.settings),
        dependencies={
            "box": Provide(lambda: box, sync_to_thread=False),
            "principal": Provide(_principal, sync_to_thread=False),
            "view": Provide(provide_view, sync_to_thread=False),
        },
        state=State({"metrics": metrics.Metrics(box)}),
        exception_handlers={Exception: ErrorHandler(box)},
        before_send=[add_headers],
        request_max_body_size=box.settings.max_body,
        openapi_config=OpenAPIConfig(
            title="mlbox",
            version=__version__,
            path="/api/v1/schema",
            render_plugins=[Document()],
            use_handler_docstrings=True,
        ),
        logging_config=None,
    )
    add_all(app, handlers)
    return app
