"""Disposable workers: a process for each upload that is parsed and each SQL of a user that is run, forked by `forkserver`."""

from __future__ import annotations

import array
import atexit
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from mlbox.errors import Unavailable

Kind = Literal["parse", "stream", "sql", "look", "diff", "check", "infer"]
IDLE_SECONDS = 300.0
"""How long a fork server waits for the next request before it is ended."""
_MESSAGE_BYTES = 64
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""All that workers are told of the server's environment: there are secrets among the rest."""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""A process is safely forked while it has no threads."""


class Worker:
    """One process, the pipes to it, and how it ended. Use `with`: nothing of it is left."""

    def __init__(self, stdin: int, stdout: int, told: socket.socket, over: Callable[[Worker], None]) -> None:
        self._over = over
        self._stdin = os.fdopen(stdin, "wb", buffering=0)
        self._stdout = os.fdopen(stdout, "rb", buffering=0)
        self._told = told
        self._lock = threading.Lock()
        self._pidfd = -1
        self._killed = False
        self._code: int | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.wait()
        self._told.close()
        self._stdin.close()
        self._stdout.close()
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._pidfd = -1
        self._over(self)

    def send(self, request: bytes) -> None:
        """Hand the request over."""
        with contextlib.suppress(BrokenPipeError):  # it died, and how is told by `wait`
            left = memoryview(request)
            while left:
                left = left[self._stdin.write(left) :]
        self._stdin.close()

    def answer(self, seconds: float | None = None) -> bytes | None:
        """All that it says, up to its end; None where that takes longer, and it is as good as dead."""
        end = None if seconds is None else time.monotonic() + seconds
        said = bytearray()
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        while poll.poll(None if end is None else max(0.0, end - time.monotonic()) * 1000):
            some = os.read(self._stdout.fileno(), 1 << 16)
            if not some:
                return bytes(said)
            said += some
        self.kill()
        return None

    @property
    def pid(self) -> int:
        """Its process id; waits until it has begun. 0 where it never did."""
        while not self._pid and self._code is None:
            self._hear()
        return self._pid

    def wait(self) -> int:
        """The status that it ends with: negative for a signal, and as killed where nobody knows."""
        while self._code is None:
            self._hear()
        return self._code

    def kill(self) -> None:
        """End it now, if it has not ended."""
        with self._lock:
            self._killed = True
            if self._pidfd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _hear(self) -> None:
        """The next that is told of it: its pidfd, then its end."""
        try:
            message, files, _, _ = socket.recv_fds(self._told, _MESSAGE_BYTES, 1)
        except ConnectionResetError:
            message, files = b"", []
        if not message:
            self._code = -signal.SIGKILL  # the fork server is gone, and its workers with it
            return
        if not files:
            self._code = int(message)
            return
        self._pid = int(message)
        with self._lock:
            (self._pidfd,) = files
        if self._killed:
            self.kill()


class ForkServer:
    """Forks workers; its process is started at the first request, and ended when there was none for a while."""

    def __init__(self, program: str = "mlbox.store.sandbox.forkserver") -> None:
        self._program = program
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._used_at = 0.0
        self._living = set[Worker]()
        self._timer: threading.Timer | None = None

    def worker(self, kind: Kind, pipe: int | None = None) -> Worker:
        """A worker that waits for its request; what it finds as its `pipe` is one more descriptor."""
        stdin, ours_in = os.pipe()
        ours_out, stdout = os.pipe()
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = Worker(ours_in, ours_out, told, self._over)
        files = [stdin, stdout, theirs.fileno(), *([] if pipe is None else [pipe])]
        try:
            self._ask(worker, kind, files)
        except OSError as err:
            theirs.close()
            with worker:
                pass
            raise Unavailable(f"No process can be started: {err.strerror}.", hint="Try again.") from err
        finally:
            os.close(stdin)
            os.close(stdout)
            theirs.close()
        return worker

    def _ask(self, worker: Worker, kind: Kind, files: list[int]) -> None:
        message = [kind.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        with self._lock:
            try:
                self._started().sendmsg(*message)
            except (BrokenPipeError, ConnectionResetError):  # it died meanwhile
                self._end()
                self._started().sendmsg(*message)
            self._living.add(worker)

    def _over(self, worker: Worker) -> None:
        with self._lock:
            self._used_at = time.monotonic()
            self._living.discard(worker)

    def _started(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", self._program, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**environment, **_ONE_THREAD},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._socket = ours
            self._watch(IDLE_SECONDS)
        return self._socket

    def _watch(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _end_idle(self) -> None:
        """End the process where it had nothing to do for a while."""
        with self._lock:
            left = IDLE_SECONDS if self._living else self._used_at + IDLE_SECONDS - time.monotonic()
            if left > 0:
                self._watch(left)
            else:
                self._end()

    def close(self) -> None:
        """End it, and its workers with it."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


FORKS = ForkServer()
"""Of this process: whatever number of stores it has."""
atexit.register(FORKS.close)
