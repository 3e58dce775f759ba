"""`mlbox serve`: uvicorn embedded, with a shutdown that open streams cannot hold up."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from mlbox.errors import StartupError
from mlbox.serve.inference.tab import SOON_SECONDS
from mlbox.settings import Origin, Settings
from mlbox.web.access_log import AccessLog
from mlbox.web.app import create_app, create_fast_path
from mlbox.web.box import Box
from mlbox.web.fast.answering import FastPath
from mlbox.web.logs import formatter_of, logging_to
from mlbox.web.protocol import Bounds, WatchedProtocol, watch
from mlbox.web.tls import is_open_to_others, server_context

if TYPE_CHECKING:
    from mlbox.web.rpc.server import RpcServer

GRACE_SECONDS = 2
"""How long a request in flight may take to finish once the server was told to stop."""
END_SECONDS = 12.0
"""What goes on so long after the signal is left undone: an operator that hangs never ends, and the stores bear any end. That is
less than `deploy/mlbox.service` allows, so that the log says why."""
GC_THRESHOLD = 5_000
"""Objects made, and not freed, between two looks of the garbage collector at the young ones: each look takes a millisecond or
two, for which nothing else runs."""
SPARE_FILES = 1024
"""Open files besides connections: stores, models, uploads, pipes to jobs."""
Listener = tuple[socket.socket, ssl.SSLContext | None]
_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Tells the box's streams to end as soon as a signal arrives."""

    def __init__(
        self,
        config: uvicorn.Config,
        box: Box,
        listeners: Sequence[Listener],
        rpc: RpcServer | None,
        fast_path: FastPath | None,
    ) -> None:
        super().__init__(config)
        self._rpc = rpc
        self._fast_path = fast_path
        self._box = box
        self._listeners = listeners
        self._bounds = Bounds.of(box.settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on each socket, with its own TLS or none; uvicorn's own would have one for all, and no limit on handshakes."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            return
        loop = asyncio.get_running_loop()
        make = functools.partial(
            WatchedProtocol,
            bounds=self._bounds,
            fast_path=self._fast_path,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._box.models.tab.soon = functools.partial(loop.call_later, SOON_SECONDS)
        self.servers = []
        for listener, tls in self._listeners:
            more: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": self._bounds.read_timeout} if tls else {}
            self.servers.append(await loop.create_server(make, sock=listener, backlog=self.config.backlog, **more))
        if self._rpc:
            sys.stderr.write(f"mlbox answers gRPC on {await self._rpc.start()}\n")
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, and let what is in hand end, over both protocols at once."""
        ending = asyncio.create_task(self._rpc.stop(GRACE_SECONDS)) if self._rpc else None
        await super().shutdown(sockets)
        if ending:
            await ending
        await self._end_rest()

    async def _end_rest(self) -> None:
        """End what is in hand after all, as for clients that hang up: a run may take an hour, and threads wait for it."""
        connections = cast(set[WatchedProtocol], self.server_state.connections)
        works = [connection.work for connection in connections if connection.work is not None]
        for connection in list(connections):
            connection.transport.abort()
        if works:
            await asyncio.wait(works, timeout=GRACE_SECONDS)

    async def main_loop(self) -> None:
        """Serve, and watch for clients that are too slow."""
        watching = asyncio.create_task(watch(self.server_state.connections, self._bounds))
        try:
            await super().main_loop()
        finally:
            watching.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT; uvicorn's own raises them once more, and the exit status would not be 0."""
        previous = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for sig, handler in previous.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._box.stopping.is_set():
            _end_in_time()
        self._box.stopping.set()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises StartupError in words when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError) as err:
        listener.close()
        reason = getattr(err, "strerror", None) or str(err)
        raise StartupError(
            f"The server cannot listen on {host}:{port}: {reason}.", hint="Give another --port or --host."
        ) from err
    return listener


def serve(settings: Settings, origins: Sequence[Origin] = ()) -> None:
    """Serve until SIGTERM or SIGINT; `origins` says where each setting came from, for who asks."""
    tls = server_context(settings)
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(logging_to(settings))
        listeners: list[Listener] = [(stack.enter_context(contextlib.closing(bind(settings.host, settings.port))), tls)]
        if tls:  # jobs run on this machine and know no name that its certificate is for
            plain = bind("127.0.0.1", port_for_jobs(settings.port))
            listeners.append((stack.enter_context(contextlib.closing(plain)), None))
        box = _open(settings, local_url(listeners[-1][0]))
        stack.callback(box.close)
        box.origins = tuple(origins)
        _allow_files(settings.max_connections + SPARE_FILES)
        _announce(box, local_url(listeners[0][0], "https" if tls else "http"))
        edge = create_app(box)
        app = AccessLog(edge, sink, formatter_of(settings), settings.access_log, counts=box.http_requests)
        stack.callback(app.close)
        config = uvicorn.Config(
            app,
            log_config=None,
            http=WatchedProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # by default anyone on this machine could claim another address
            timeout_graceful_shutdown=GRACE_SECONDS,
            lifespan="on",
        )
        fast_path = create_fast_path(box, edge, app) if settings.fast_path == "on" else None
        server = _Server(config, box, listeners, _rpc(box, app), fast_path)
        _settle_memory()
        server.run(sockets=[listener for listener, _ in listeners])
        if not server.started:
            raise StartupError("The server did not start.", hint="The lines above say why.")


def _end_in_time() -> None:
    """From here on this process ends, by itself or, where a thread other than the main one keeps it, with 1."""

    def end() -> None:
        time.sleep(END_SECONDS)
        busy = sorted(
            thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"
        )
        _log.error("The server ends though its threads do not (%s): what they were at is left undone.", ", ".join(busy))
        os._exit(1)

    threading.Thread(target=end, name="mlbox-end", daemon=True).start()


def _rpc(box: Box, log: AccessLog) -> RpcServer | None:
    if box.settings.grpc_port < 0:
        return None
    from mlbox.web.rpc.server import RpcServer  # imported late: it takes long, and not every box speaks gRPC

    return RpcServer(box, log)


def _settle_memory() -> None:
    """Take what lives as long as the server out of the garbage collector's sight, and have it look less often.

    An answer of many rows makes so many objects that the collector would walk all modules and routes for it, again and again:
    half of the time of a page of 25,000 points went there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def port_for_jobs(port: int) -> int:
    """The next port, the same one after each restart: jobs outlive the server and come back to where it was."""
    return port + 1 if 0 < port < 65535 else 0


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files, which is often lower than what the settings allow to be connected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def local_url(listener: socket.socket, scheme: str = "http") -> str:
    """Where this machine itself reaches the server: a wildcard address is no place to connect to."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _open(settings: Settings, url: str) -> Box:
    """The box, or in words why it does not open."""
    try:
        return Box(settings, url=url)
    except OSError as err:
        file = err.filename or settings.data_dir
        raise StartupError(
            f"The data directory {settings.data_dir} cannot be used: {file}: {err.strerror or err}.",
            hint="Give a folder that you may write with --data-dir, on a disk with room.",
        ) from err


def _announce(box: Box, url: str) -> None:
    sys.stderr.write(f"mlbox listens on {url}\n")  # in one piece, whatever else is written there meanwhile
    for warning in warnings_of(box.settings):
        print(f"Warning: {warning}", file=sys.stderr)
    if box.data_dir.fresh:
        print(
            f"Sign in once, within 30 minutes: {url}/login?once={box.access.create_login('admin')}",
            file=sys.stderr,
        )
        print(f"The admin's token is in {box.data_dir.root / 'admin-token'}", file=sys.stderr)
    if box.settings.standby == "on":
        print("On standby: nothing runs here by itself, and nothing is sent to anybody.", file=sys.stderr)
    if box.clock.replay:
        print(f"Replay mode: domain time stands at {box.clock.now().isoformat()}", file=sys.stderr)
    sys.stderr.flush()


def warnings_of(settings: Settings) -> list[str]:
    """What is dangerous about how the server is reached, and what to do about it."""
    found = []
    if not settings.tls_cert and not settings.trusted_proxy and not _is_loopback(settings.host):
        found.append(
            f"{settings.host} is reached from other machines without TLS, so whoever is on the way reads tokens. Give --tls-cert"
            " and --tls-key, or listen on 127.0.0.1 behind a proxy that speaks TLS and is named by --trusted-proxy."
        )
    if settings.tls_key and is_open_to_others(Path(settings.tls_key)):
        found.append(f"Everyone on this machine may read {settings.tls_key}. Run: chmod o-r {settings.tls_key}")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
