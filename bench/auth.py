"""What authentication and authorisation cost a request: each call with and without them, in turn, in one process.

Without is an ASGI app that does nothing. With is the same app behind all of it, as it stands around every route: the middleware
that finds out who asks, the layer that tells the stores, and the guard that asks the table of roles. Times are of CPU, so that a
busy machine moves them little.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, cast

from litestar.connection import ASGIConnection
from litestar.exceptions import LitestarDeprecationWarning
from litestar.handlers.base import BaseRouteHandler

from bench.harness import Report, median, options
from mlbox.settings import Settings
from mlbox.store.access.access import Visit
from mlbox.web.app import create_router
from mlbox.web.auth import COOKIE, AuthMiddleware
from mlbox.web.authorise import Asking, guard
from mlbox.web.box import Box

INFERENCE_GOAL_US = 3
OTHER_GOAL_US = 30
INFERENCE, OTHER = "/v2/models/{model:str}/infer", "/api/v1/runs"
Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]
App = Callable[..., Awaitable[None]]
PASSWORD = "four words and a number 7"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    repeats, calls = (15, 2_000) if chosen.quick else (41, 10_000)
    conditions = {"repeats": str(repeats), "requests a repeat": f"{calls:,}", "users": "100", "open tokens": "1,000"}
    report = Report("authentication", conditions=conditions)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        box = Box(Settings(data_dir=f"{folder}/data", gpus="none"), url="http://localhost")
        try:
            asyncio.run(_measure(report, box, repeats, calls))
        finally:
            box.close()
    return report.finish()


async def _measure(report: Report, box: Box, repeats: int, calls: int) -> None:
    bearer, cookie, basic = await _fill(box)
    routes = {route.path: route for route in create_router(box).routes}
    for name, path, method, header, goal in (
        ("inference path, bearer token", INFERENCE, "POST", (b"authorization", b"Bearer " + bearer), INFERENCE_GOAL_US),
        ("inference path, Basic with a password", INFERENCE, "POST", (b"authorization", basic), INFERENCE_GOAL_US),
        ("another path, bearer token", OTHER, "GET", (b"authorization", b"Bearer " + bearer), OTHER_GOAL_US),
        ("another path, a browser's session", OTHER, "GET", (b"cookie", cookie), OTHER_GOAL_US),
    ):
        handler = next(h for h in cast(Any, routes[path]).route_handlers if method in h.http_methods)
        scope = _scope(path.replace("{model:str}", "m"), method, header)
        bare = _timed(_connection, scope, calls)
        alone = _timed(AuthMiddleware(cast(Any, _connection), box.door), scope, calls)
        whole = _timed(AuthMiddleware(cast(Any, Asking(_guarded(guard(box), handler))), box.door), scope, calls)
        without, middleware, full = await _interleave(repeats, bare, alone, whole)
        report.at_most(name, median(full) - median(without), goal, "us")
        report.tell("  of it, who asks", median(middleware) - median(without), "us")
    report.tell("without", median(without), "us")
    first = [_first_look(box, bearer) for _ in range(200)]
    report.tell("a token's first request of a minute, with the look into SQLite", median(first), "us")


async def _fill(box: Box) -> tuple[bytes, bytes, bytes]:
    """A bearer token, a session's cookie, and Basic credentials, among many."""
    access, bearer = box.access, ""
    for number in range(100):
        access.create_user(f"user-{number}", "member", actor="bench")
    for number in range(1_000):
        bearer = access.create_token(f"user-{number % 100}", f"token {number}", actor="bench")[1]
    new = await asyncio.wrap_future(access.passwords.hash(PASSWORD))
    access.set_password("user-7", new, former=None, actor="bench")
    session = access.redeem_login(access.create_login("user-9"), Visit("127.0.0.1", "bench"))
    basic = b"Basic " + base64.b64encode(f"user-7:{PASSWORD}".encode())
    await box.door.admit(basic, "127.0.0.1")
    return bearer.encode(), f"mlbox_theme=dark; {COOKIE}={session}".encode(), basic


def _scope(path: str, method: str, header: tuple[bytes, bytes]) -> dict[str, Any]:
    """A request as uvicorn hands it on, with the headers that a Python client sends; what proves who asks comes last."""
    return {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8265),
        "path_params": {"model": "m"},
        "state": {},
        "headers": [
            (b"host", b"127.0.0.1:8265"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"connection", b"keep-alive"),
            (b"user-agent", b"python-httpx/0.28.1"),
            (b"content-length", b"120"),
            (b"content-type", b"application/json"),
            header,
        ],
    }


async def _connection(scope: Any, receive: Any, send: Any) -> None:
    """The app that does nothing but to make the object that litestar makes of every request, for which guards ask."""
    ASGIConnection(scope)


def _guarded(authorise: Guard, handler: BaseRouteHandler) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await authorise(ASGIConnection(scope), handler)

    return app


def _timed(app: App, scope: dict[str, Any], calls: int) -> Callable[[], Awaitable[float]]:
    """CPU time of one request in microseconds, over many."""

    async def measure() -> float:
        begin = time.process_time_ns()
        for _ in range(calls):
            await app(scope, None, None)
        return (time.process_time_ns() - begin) / calls / 1000

    return measure


async def _interleave(repeats: int, *measures: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """As `harness.interleave`, for coroutines."""
    for measure in measures:
        await measure()
    rounds = [[await measure() for measure in measures] for _ in range(repeats)]
    return [list(values) for values in zip(*rounds, strict=True)]


def _first_look(box: Box, bearer: bytes) -> float:
    box.access.changed()
    begin = time.perf_counter_ns()
    box.access.authenticate(bearer.decode(), credential=b"Bearer " + bearer)
    return (time.perf_counter_ns() - begin) / 1000


if __name__ == "__main__":
    sys.exit(main())
