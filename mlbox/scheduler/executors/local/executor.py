"""The executor of this machine: each attempt a folder and a shim, which outlives the server."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil

from mlbox.records import JobSpec
from mlbox.scheduler.executors.base import ABSENT, STARTING, Ended, Launch, Observed, Ref, Supply
from mlbox.scheduler.executors.local import shim
from mlbox.scheduler.executors.local.folder import Folder, environment
from mlbox.scheduler.executors.local.logtimes import last_lines, printed_since
from mlbox.scheduler.gpus import Inventory
from mlbox.scheduler.isolation import NOT_ISOLATED, Isolation
from mlbox.scheduler.policy import Box, Device

CLAIM_SECONDS = 0.01
"""How often to look whether a shim that was started has claimed its attempt."""


class Local:
    """Attempts as processes of this machine."""

    def __init__(
        self,
        root: Path,
        inventory: Inventory,
        *,
        cpus: float = 0,
        memory_gb: float = 0,
        isolation: Isolation = NOT_ISOLATED,
    ) -> None:
        self.isolation = isolation
        self._root = root
        gpus = tuple(inventory.gpus())
        box = Box(
            devices=tuple(Device(str(gpu.index), gpu.index, gpu.memory_gb) for gpu in gpus),
            cpus=cpus or float(os.cpu_count() or 1),
            memory_gb=memory_gb or psutil.virtual_memory().total / 2**30,
        )
        self._supply = Supply(box, gpus, getattr(inventory, "missing", ""))
        self._changed: Callable[[Ref], None] = lambda ref: None
        self._lock = threading.Lock()
        self._watched: dict[Ref, int] = {}
        """The pidfd of each shim that lives."""
        self._children: dict[Ref, subprocess.Popen[bytes]] = {}
        """Shims of this server, until their end is collected."""
        self._starting: set[Ref] = set()
        """Those that may not have claimed their attempt yet."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="mlbox-shims", daemon=True)

    def open(self, changed: Callable[[Ref], None]) -> None:
        """Begin to listen for the ends of shims."""
        self._changed = changed
        self._thread.start()

    def capacity(self) -> Supply:
        """What this machine has, or as much of it as its operator gives."""
        return self._supply

    def check(self, spec: JobSpec) -> None:
        """Nothing so far that this machine can never do."""

    def start(self, launch: Launch) -> None:
        """Lay out the folder and start a shim in it."""
        if self.state(launch.ref) != ABSENT:
            return
        folder = self._folder(launch.ref)
        spec = launch.spec
        env = environment(spec.env, launch.env, launch.devices)
        limits = {"timeout_seconds": spec.timeout_seconds, "grace_seconds": launch.grace_seconds}
        folder.prepare(spec.command, env, launch.snapshot, limits, self.isolation, launch.mounts)
        process = folder.start(launch.private, launch.mask)
        with self._lock:
            self._children[launch.ref] = process
            self._starting.add(launch.ref)
        self._watch(launch.ref, process.pid)

    def state(self, ref: Ref) -> Observed:
        """As the folder and the processes say."""
        folder = self._folder(ref)
        ended = folder.ended()
        if ended is None and folder.claimed():
            pid = folder.shim_pid()
            if pid is not None:
                self._watch(ref, pid)
                return Observed("running", pid)
            ended = folder.ended() or Ended(exit_code=None, lost=True)  # it may have ended between the two looks
        elif ended is None:
            child = self._children.get(ref)
            if child is None:
                return ABSENT
            if child.poll() is None or folder.claimed():
                return STARTING
            ended = Ended(exit_code=None, error=f"its shim could not start, see {folder.path}/shim.log")
        return Observed("ended", ended=ended)

    def stop(self, ref: Ref) -> None:
        """Tell the shim."""
        self._folder(ref).stop()

    def log(self, ref: Ref, offset: int, limit: int) -> bytes:
        """From the file that the attempt prints to."""
        try:
            with self._folder(ref).log.open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def log_start(self, ref: Ref, *, lines: int | None = None, since: datetime | None = None) -> int:
        """Found in the file, and in the marks beside it."""
        log, marks = str(self._folder(ref).log), str(self._folder(ref).path / shim.MARKS)
        starts = [0]
        if since is not None:
            starts.append(printed_since(log, marks, since.timestamp()))
        if lines is not None:
            starts.append(last_lines(log, lines))
        return max(starts)

    def clear(self, ref: Ref) -> None:
        """Remove temporary files and the datasets' names."""
        self._unwatch(ref)
        self._folder(ref).clear()

    def say(self, ref: Ref, line: str) -> None:
        """Write to the file that the attempt would print to."""
        self._folder(ref).say(line)

    def close(self) -> None:
        """Stop listening; running attempts go on under their shims."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        for ref in list(self._watched):
            self._unwatch(ref)
        for process in self._children.values():
            process.returncode = 0  # it goes on without us, and is no leak
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _folder(self, ref: Ref) -> Folder:
        return Folder(self._root, ref)

    # -- watching ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _listen(self) -> None:
        while not self._closing:
            starting = list(self._starting)
            for key, _ in self._selector.select(CLAIM_SECONDS if starting else None):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                else:
                    self._unwatch(key.data)
                    self._changed(key.data)
            for ref in starting:
                if self._folder(ref).claimed():
                    self._starting.discard(ref)
                    self._changed(ref)

    def _watch(self, ref: Ref, pid: int) -> None:
        """Hear of a shim's end, whoever started it."""
        with self._lock:
            if ref in self._watched or self._closing:
                return
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._changed(ref)
                return
            self._watched[ref] = fd
            self._selector.register(fd, selectors.EVENT_READ, ref)
        self._wake()

    def _unwatch(self, ref: Ref) -> None:
        with self._lock:
            fd = self._watched.pop(ref, None)
            self._starting.discard(ref)
            if fd is not None:
                self._selector.unregister(fd)
                os.close(fd)
            child = self._children.get(ref)
            if child is not None and child.poll() is not None:
                del self._children[ref]
