"""Runs `mlbox` commands in forks of one process that has imported it: to import it takes longer than most commands do.

What a fork runs is `mlbox.cli.main.main`, as the installed script does; its arguments, environment, folder and streams are
those it was given. What hangs on the start itself (an environment of Python's, the command line in /proc) needs a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

REQUEST_BYTES = 1 << 17


class Forked:
    """A command that runs, as `subprocess.Popen` has it. It stays a zombie until it is waited for, so its pid stays its own."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote
        self._end = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; negative where a signal ended it."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._zygote.ask({"reap": self.pid}))
            os.close(self._end)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that forks, and the way to ask it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        command = [sys.executable, "-m", "tests.zygote", str(theirs.fileno())]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd=root)
        theirs.close()

    def ask(self, request: dict[str, Any], streams: Sequence[int] = ()) -> Any:
        """One request, one answer."""
        with self._turn:
            socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
            answer = self._socket.recv(REQUEST_BYTES)
        assert answer, f"The zygote ended with {self._process.wait()}."
        return json.loads(answer)

    def close(self) -> None:
        """End the process; its forks go on."""
        self._socket.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], streams: tuple[IO[Any], IO[Any], IO[Any]], cwd: Path, env: Mapping[str, str]
    ) -> Forked:
        """Run `mlbox ARGUMENTS` on these streams: stdin, stdout, stderr."""
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        return Forked(self, self.ask(request, [stream.fileno() for stream in streams]))


@functools.cache
def zygote() -> Zygote:
    """The one of this process, started when it is first needed."""
    made = Zygote()
    atexit.register(made.close)
    return made


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `mlbox ARGUMENTS` to its end."""
    with contextlib.ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        code = zygote().start(arguments, (given, out, err), cwd, env).wait(timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), err.read())


_PROGRAM = """#!{python} -IS
import json, os, socket, sys
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect({address!r})
asked = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(door, [json.dumps(asked).encode()], [0, 1, 2])
code = int(door.recv(16))
sys.exit(code if code >= 0 else 128 - code)
"""


@contextlib.contextmanager
def program() -> Iterator[Path]:
    """A folder with a program `mlbox` that runs in a fork, too: for a shell into which commands are typed."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(f"{folder}/door")
        door.listen()
        path = Path(folder, "mlbox")
        path.write_text(_PROGRAM.format(python=sys.executable, address=f"{folder}/door"))
        path.chmod(0o700)
        threading.Thread(target=_open_to_all, args=(door,), daemon=True).start()
        yield path.parent
        door.shutdown(socket.SHUT_RD)


def _open_to_all(door: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed
        while True:
            threading.Thread(target=_pass_on, args=(door.accept()[0],), daemon=True).start()


def _pass_on(visitor: socket.socket) -> None:
    """Run what one such program asks for."""
    with visitor:
        message, streams, _, _ = socket.recv_fds(visitor, REQUEST_BYTES, 3)
        forked = Forked(zygote(), zygote().ask(json.loads(message), streams))
        for stream in streams:
            os.close(stream)
        visitor.send(str(forked.wait()).encode())


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """Answer until nobody asks any more; returns what to run in each fork, and None in the end."""
    while True:
        message, streams, _, _ = socket.recv_fds(asked, REQUEST_BYTES, 3)
        if not message:
            return None
        request: dict[str, Any] = json.loads(message)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            asked.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
        elif pid := os.fork():
            asked.send(json.dumps(pid).encode())
            for stream in streams:
                os.close(stream)
        else:
            asked.close()
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
                os.close(stream)
            return request


def _become(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["mlbox", *request["arguments"]]
    del sys.path[0]  # the folder that `-m` put there: the tests are no part of the program
    from mlbox.cli.main import main

    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, int) and request["arguments"][:1] != ["serve"]:
            _end(ended.code)
        raise


def _end(code: int) -> NoReturn:
    """End as Python does, but for taking apart all that the zygote made, which would take as long as most commands do."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _load() -> None:
    """Import what commands and servers import, also late; nothing of it may start a thread, which a fork would not have."""
    from litestar import Litestar

    from mlbox.cli.main import COMMANDS
    from mlbox.web.app import ADAPTERS

    commands = {f"mlbox.cli.{entry.module}" for entry in COMMANDS.values()}
    for name in (*commands, "typer._adapters", "mlbox.web.server", "uvicorn.lifespan.on", "uvicorn.loops.uvloop"):
        importlib.import_module(name)
    Litestar(logging_config=None, openapi_config=None)  # which imports what it finds to plug in
    for handler in (each for adapter in ADAPTERS for each in adapter.handlers):
        handler.parsed_fn_signature  # noqa: B018  which it keeps


if __name__ == "__main__":
    _load()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    if (wanted := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(wanted)
