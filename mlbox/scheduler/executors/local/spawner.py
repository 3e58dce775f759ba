"""The server's side of the zygote and of its shims: gives attempts to them, and starts another zygote when one is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from typing import Any

import msgspec

from mlbox.scheduler.executors.base import Ref
from mlbox.scheduler.executors.local import shim as shims
from mlbox.scheduler.executors.local import zygote

BUFFER_BYTES = 1 << 20
MOST_STARTING = max(4, 2 * (os.cpu_count() or 1))
"""Attempts that start at the same time: with more of them none would run sooner, and each would need a shim of its own."""
MOST_RESTING = 4 * MOST_STARTING
"""Shims that wait a moment for an attempt."""


class Shim:
    """A process that runs an attempt, and may have run others before."""

    def __init__(self, pid: int, pidfd: int, ref: Ref, link: socket.socket | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.ref: Ref | None = ref
        """What it runs."""
        self.link = link
        """By which it hears of another attempt; a shim of an earlier server has none, and ends with its attempt."""
        self.first = True
        """Whether it was forked for what it runs."""

    def give(self, ref: Ref, file: int) -> bool:
        """Give it another attempt; False where it is ending."""
        assert self.link is not None
        try:
            socket.send_fds(self.link, [b"next"], [file])
        except OSError:
            return False
        self.ref, self.first = ref, False
        return True

    def hear(self) -> tuple[str, str] | None:
        """What it says of its attempt, and why; None: it says no more.

        It is `taken`, `running`, `ended`, `left` undone because it was stopped, or could not even be taken (`failed`).
        """
        assert self.link is not None
        try:
            message = self.link.recv(shims.MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        what, _, why = message.decode(errors="replace").partition(" ")
        return (what, why) if message else None

    def hang_up(self) -> None:
        """It is to have no other attempt."""
        if self.link is not None:
            self.link.close()
            self.link = None


class Spawner:
    """Has attempts run in the order in which they come, by shims that have just ended others, or else by new ones.

    There is one zygote at a time. What was asked of one that died is asked of the next: of two shims, one runs the command.
    """

    def __init__(self, ground: dict[str, Any] | None = None) -> None:
        self._ground = ground
        """What the confinements of all attempts have in common, where they are confined."""
        self._lock = threading.Lock()
        self._asked: dict[Ref, int] = {}
        """By attempt, the file with the spec that no shim has taken yet, as far as is known."""
        self._waiting: deque[Ref] = deque()
        """Those of them that nobody was asked for."""
        self._forking: set[Ref] = set()
        """Those that the zygote was asked for."""
        self._starting: set[Ref] = set()
        """Attempts whose command does not run yet, though a shim was given or asked for."""
        self._resting: list[Shim] = []
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
            for ref in self._forking:
                self._ask(ref)

    def spawn(self, ref: Ref, spec: dict[str, Any]) -> None:
        """Have an attempt run, whose spec is on no disk, when it is its turn to be dispatched."""
        file = _file_of({**spec, "ref": ref})
        with self._lock:
            self._asked[ref] = file
            self._waiting.append(ref)

    def dispatch(self) -> list[Shim]:
        """Give attempts to shims that rest, or else ask the zygote, while not too many are starting; the shims that got one."""
        with self._lock:
            got = []
            while self._waiting and len(self._starting) < MOST_STARTING:
                ref = self._waiting.popleft()
                self._starting.add(ref)
                shim = self._give(ref)
                if shim is not None:
                    got.append(shim)
                else:
                    self._forking.add(ref)
                    self._ask(ref)
            return got

    def _give(self, ref: Ref) -> Shim | None:
        while self._resting:
            shim = self._resting.pop()
            if shim.give(ref, self._asked[ref]):
                return shim
        return None

    def again(self, ref: Ref) -> None:
        """A shim ended as it was given an attempt, and did not take it."""
        with self._lock:
            self._starting.discard(ref)
            if ref not in self._asked:
                return
            if os.fstat(self._asked[ref]).st_size:
                self._waiting.appendleft(ref)
            else:
                os.close(self._asked.pop(ref))

    def cancel(self, ref: Ref) -> None:
        """What no shim is known to have is not to run: whoever has it finds its spec empty before the command starts."""
        with self._lock:
            if (file := self._asked.get(ref)) is None:
                return
            os.ftruncate(file, 0)
            if ref in self._waiting:
                self._waiting.remove(ref)
                os.close(self._asked.pop(ref))

    def started(self, ref: Ref) -> None:
        """It is no more to be waited for until others may start."""
        with self._lock:
            self._starting.discard(ref)

    def rest(self, shim: Shim) -> bool:
        """Keep a shim without an attempt for the next one; False where there are enough of them."""
        with self._lock:
            if len(self._resting) >= MOST_RESTING:
                return False
            self._resting.append(shim)
            return True

    def forget(self, shim: Shim) -> None:
        """It takes no other attempt."""
        with self._lock:
            if shim in self._resting:
                self._resting.remove(shim)

    def pending(self, ref: Ref) -> bool:
        """Whether an attempt is to run, and no shim is known to have it."""
        return ref in self._asked

    def receive(self) -> Shim | None:
        """The next shim that the zygote forked; None when the zygote is gone."""
        assert self._socket is not None
        try:
            message, files, _, _ = socket.recv_fds(self._socket, shims.MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not message:
            return None
        said = json.loads(message)
        pidfd, link = files
        return Shim(said["pid"], pidfd, Ref(*said["forked"]), socket.socket(fileno=link))

    def answered(self, ref: Ref) -> None:
        """A shim has it: it need not be asked for again."""
        with self._lock:
            self._forking.discard(ref)
            if (file := self._asked.pop(ref, None)) is not None:
                os.close(file)

    def close(self) -> None:
        """End the zygote; its shims go on."""
        with self._lock:
            self._end()
            for file in self._asked.values():
                os.close(file)
            self._asked.clear()
            self._waiting.clear()

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
    left = memoryview(msgspec.json.encode(content))
    while left:
        left = left[os.write(file, left) :]
    return file
