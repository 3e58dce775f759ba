"""`mlbox serve`: uvicorn embedded, with a shutdown that open streams cannot hold up."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn

from mlbox.errors import StartupError
from mlbox.settings import Settings
from mlbox.web.app import create_app
from mlbox.web.box import Box

GRACE_SECONDS = 2
"""How long a request in flight may take to finish once the server was told to stop."""


class _Server(uvicorn.Server):
    """Tells the box's streams to end as soon as a signal arrives."""

    def __init__(self, config: uvicorn.Config, box: Box) -> None:
        super().__init__(config)
        self._box = box

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
            f"mlbox cannot listen on {host}:{port}: {reason}.", hint="Give another --port or --host."
        ) from err
    return listener


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    listener = bind(settings.host, settings.port)
    try:
        box = _open(settings, local_url(listener))
    except BaseException:
        listener.close()
        raise
    try:
        _announce(box)
        config = uvicorn.Config(
            create_app(box),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # by default anyone on this machine could claim another address
            timeout_graceful_shutdown=GRACE_SECONDS,
            lifespan="on",
        )
        server = _Server(config, box)
        server.run(sockets=[listener])
        if not server.started:
            raise StartupError("The server did not start.", hint="The lines above say why.")
    finally:
        box.close()
        listener.close()


def local_url(listener: socket.socket) -> str:
    """Where this machine itself reaches the server: a wildcard address is no place to connect to."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


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


def _announce(box: Box) -> None:
    url = box.url
    print(f"mlbox listens on {url}", file=sys.stderr)
    if box.data_dir.fresh:
        print(
            f"Sign in once, within 30 minutes: {url}/login?once={box.access.create_login('admin')}",
            file=sys.stderr,
        )
        print(f"The admin's token is in {box.data_dir.root / 'admin-token'}", file=sys.stderr)
    if box.clock.replay:
        print(f"Replay mode: domain time stands at {box.clock.now().isoformat()}", file=sys.stderr)
    sys.stderr.flush()
