"""The table of routes, made at once.

`Litestar.register` reads the whole table anew for each handler that it adds, and makes a handler of OPTIONS from nothing for each
path: with some 450 handlers that was more than half of a server's start.

Here it is also noted, for each route of the native API, which parameters its handler declares: `limits` refuses any other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from copy import copy

from litestar import Litestar, Response
from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Scope

from mlbox.web.limits import NATIVE, QUERY


def add_all(app: Litestar, handlers: Iterable[HTTPRouteHandler]) -> None:
    """What `app.register` does for one handler, for all of them."""
    by_path: dict[str, list[HTTPRouteHandler]] = defaultdict(list)
    for handler in handlers:
        handler.owner = app
        handler.parsed_fn_signature  # noqa: B018  kept by the handler, for the next app of this process
        own = copy(handler)
        for path in handler.paths:
            by_path[path].append(own)
    options = HTTPRouteHandler(http_method=["OPTIONS"], include_in_schema=False, sync_to_thread=False)(_allowing(()))
    options.owner = app
    options.signature_model  # noqa: B018  kept by the copies
    for path, of_path in by_path.items():
        methods = sorted({"OPTIONS", *(str(method) for own in of_path for method in own.http_methods)})
        route = HTTPRoute(path=path, route_handlers=[*of_path, copy(options)(_allowing(methods))])
        app.routes.append(route)
        for own in route.route_handlers:
            own.on_registration(app)
        route.create_handler_map()
        if path.startswith(NATIVE):
            for own, declared in route.route_handler_map.values():
                own.opt[QUERY] = frozenset(one.field_alias for one in declared.expected_query_params)
        for plugin in app.plugins.receive_route:
            plugin.receive_route(route)
    app.asgi_router.construct_routing_trie()


def _allowing(methods: Iterable[str]) -> Callable[[Scope], Response[None]]:
    def options(scope: Scope) -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": ", ".join(methods)}, media_type=MediaType.TEXT)

    return options
