"""Fixtures: the real program on a free port, and core stores on a temporary directory."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings

from mlbox.clock import ManualClock, parse_time
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database
from tests import schemas, zygote

# How long an example takes says what else the machine does. CI has a profile of its own, without deadlines too.
settings.register_profile("default", settings.default, deadline=None)

# Five seconds, httpx's own, are not enough for some answer on a machine that does much else.
for _phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _phase, 60.0)

schemas.copied()

# Each server, job and command of the tests is a new process, which would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

T = TypeVar("T")
MLBOX = Path(sys.executable).with_name("mlbox")
OVERDUE = "graceful shutdown exceeded"
"""What a server logs when it has to cut off what would not end."""


class Server:
    """A running `mlbox serve`, and how to reach it; with a command of its own where a fork of the zygote will not do."""

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        ready: bool = True,
        command: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir.with_suffix(".log")
        self._log_start = len(self.log) if self.log_path.exists() else 0
        self.process = self._start(command, ["serve", "--data-dir", str(data_dir), "--port", "0", *flags], env or {})
        try:
            self.url = self._wait_for_url()
            self.http = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60)
            wait_for(self._is_ready if ready else self._is_live, what="the server to be ready")
        except BaseException:
            self._end()
            raise

    def _start(
        self, command: Sequence[str], arguments: list[str], env: dict[str, str]
    ) -> zygote.Forked | subprocess.Popen[bytes]:
        environ = {**os.environ, **env}
        with self.log_path.open("ab") as log, open(os.devnull, "rb") as nothing:
            if command:
                return subprocess.Popen([*command, *arguments], stdin=nothing, stdout=log, stderr=log, env=environ)
            return zygote.zygote().start(arguments, (nothing, log, log), Path.cwd(), environ)

    def command(self, *arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `mlbox ARGUMENTS` as this server's admin."""
        env = {**os.environ, "MLBOX_URL": self.url, "MLBOX_TOKEN": self.token}
        return zygote.run(arguments, env=env, cwd=cwd or Path.cwd(), stdin=stdin)

    @property
    def token(self) -> str:
        return (self.data_dir / "admin-token").read_text().strip()

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def _wait_for_url(self) -> str:
        def found() -> str | None:
            if self.process.poll() is not None:
                raise AssertionError(f"The server ended with {self.process.returncode}:\n{self.log}")
            urls = re.findall(r"mlbox listens on (\S+)", self.log[self._log_start :])
            return urls[-1] if urls else None

        return wait_for(found, what="the server's address")

    def _is_live(self) -> bool:
        return self._answers("/livez")

    def _is_ready(self) -> bool:
        return self._answers("/readyz")

    def _answers(self, path: str) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"The server ended with {self.process.returncode}:\n{self.log}")
        try:
            return self.http.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self) -> None:
        """A server that did not get ready leaves nothing behind."""
        self.process.kill()
        self.process.wait()
        if hasattr(self, "http"):
            self.http.close()

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        code = self.process.wait(timeout=60)
        self.http.close()
        return code


def wait_for(condition: Callable[[], T | None], *, what: str, seconds: float = 60) -> T:
    """Poll until the condition gives something true; fail with what was awaited."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"Waited {seconds} s in vain for {what}.")


def unclaimed_port() -> int:
    """A port for a program that must be told one: below those that the system gives to whoever asks for any.

    Of those it might hand out this one to another test, or to a client's end of a connection, before the program has it.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.SystemRandom().randrange(lowest // 2, lowest)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError(f"No port below {lowest} is free.")


def _servers(folder: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(
        *flags: str, data_dir: Path | None = None, env: dict[str, str] | None = None, ready: bool = True
    ) -> Server:
        server = Server(data_dir or folder / "data", *flags, env=env, ready=ready)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(signal.SIGKILL)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    yield from _servers(tmp_path)


@pytest.fixture(scope="module")
def make_shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """For tests that leave nothing behind which another of their file would see: a start takes seconds."""
    yield from _servers(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


@contextlib.contextmanager
def disk_of(mount: Path, mib: int) -> Iterator[Path]:
    """A disk of its own, of so many MiB, at a new folder."""
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "small", 8) as mount:
        yield mount


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(parse_time("2026-01-01T00:00Z"))


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def access_db(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Database]:
    database = Database(tmp_path / "access.sqlite", migrations.access, clock, bus)
    yield database
    database.close()
