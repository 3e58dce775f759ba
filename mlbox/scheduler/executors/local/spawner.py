"""The server's side of the zygote: asks it for shims, and starts another one when it is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any, NamedTuple

from mlbox.scheduler.executors.base import Ref
from mlbox.scheduler.executors.local import zygote

BUFFER_BYTES = 1 << 20


class Forked(NamedTuple):
    """A shim was forked; whoever gets this closes the pidfd."""

    ref: Ref
    pid: int
    pidfd: int


class Running(NamedTuple):
    """A shim says that its command runs."""

    ref: Ref


class Spawner:
    """One zygote at a time. What was asked of one that died is asked of the next: of two shims, one runs the command."""

    def __init__(self, ground: dict[str, Any] | None = None) -> None:
        self._ground = ground
        """What the confinements of all attempts have in common, where they are confined."""
        self._lock = threading.Lock()
        self._asked: dict[Ref, int] = {}
        """By attempt, the file with the spec of a shim that was not forked yet, as far as is known."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self.pidfd = -1
        """By which one hears that the zygote is gone."""

    @property
    def pid(self) -> int:
        """The zygote's process id."""
        assert self._process is not None
        return self._process.pid

    def fileno(self) -> int:
        """What to wait on for `receive`."""
        assert self._socket is not None
        return self._socket.fileno()

    def start(self) -> None:
        """Start a zygote, and ask it again for what an earlier one left undone."""
        with self._lock:
            self._end()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self._socket = ours
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", zygote.__file__, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={"PATH": os.environ.get("PATH", "")},
                    cwd="/",
                    start_new_session=True,  # a Ctrl-C at the server's terminal is for the server
                )
            self.pidfd = os.pidfd_open(self._process.pid)
            if self._ground is not None:
                file = _file_of(self._ground)
                self._send({"ground": True}, file)
                os.close(file)
            for ref in self._asked:
                self._ask(ref)

    def spawn(self, ref: Ref, spec: dict[str, Any]) -> None:
        """Ask for a shim. Its spec is on no disk."""
        file = _file_of({**spec, "ref": ref})
        with self._lock:
            self._asked[ref] = file
            self._ask(ref)

    def pending(self, ref: Ref) -> bool:
        """Whether a shim was asked for, and there was no answer yet."""
        return ref in self._asked

    def receive(self) -> Forked | Running | None:
        """The next message of the zygote or a shim; None when the zygote is gone."""
        assert self._socket is not None
        try:
            message, files, _, _ = socket.recv_fds(self._socket, zygote.MESSAGE_BYTES, 1)
        except ConnectionResetError:
            return None
        if not message:
            return None
        said = json.loads(message)
        if "running" in said:
            return Running(Ref(*said["running"]))
        return Forked(Ref(*said["forked"]), said["pid"], files[0])

    def answered(self, ref: Ref) -> None:
        """The shim is known: it need not be asked for again."""
        with self._lock:
            if (file := self._asked.pop(ref, None)) is not None:
                os.close(file)

    def close(self) -> None:
        """End the zygote; its shims go on."""
        with self._lock:
            self._end()
            for file in self._asked.values():
                os.close(file)
            self._asked.clear()

    def _ask(self, ref: Ref) -> None:
        self._send({"ref": ref}, self._asked[ref])

    def _send(self, message: dict[str, Any], file: int) -> None:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], [file])
        except (BrokenPipeError, ConnectionResetError):  # it is gone: whoever listens starts another
            return

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.wait()
            os.close(self.pidfd)
        self._socket = self._process = None


def _file_of(content: dict[str, Any]) -> int:
    """A file that is only in memory."""
    file = os.memfd_create("mlbox-spec")
    with open(file, "wb", closefd=False) as target:
        target.write(json.dumps(content).encode())
    return file
