"""The shim: a small process that runs an attempt of a job, and outlives the server.

It is forked by the zygote, with the standard library alone. In the attempt's folder it
- claims the attempt (`claim`, made once): of two shims for one attempt only one runs the command;
- lays out the datasets that the job named, and checks them (`mount.py`);
- runs the command, or its ranks, in sessions of their own, confined, in a control group where there is one;
- passes what they print to `log`, masked, up to the most that a log may have;
- ends them on SIGTERM, at the time limit, or when they hold more memory than they may: SIGTERM to their groups, and after the
  grace SIGKILL to all that ever came from them. It is a subreaper, so that none of these is hidden from it;
- writes how it ended to `status.json`, complete or not at all, in space that it kept for that from the start. Its server puts
  that on disk with its own record, that of many attempts at once; without a server the shim does, before it ends.

Then nothing is left of the attempt, and the shim says so to its server. For a moment it waits to be given another one, because to
fork a process of Python, which writes to much of its memory, costs more than all that a short attempt has a shim do. Without its
server, after a signal, or with an end that it could not write down it takes no other.

What it is to do comes in a file that is only in memory, because it names the job's token and secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import time
from typing import Any

EVICTED = signal.SIGUSR1
"""The attempt has filled the disk, and is to end at once."""
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, EVICTED}
"""What the zygote blocks before it forks, so that nothing is missed."""
MESSAGE_BYTES = 4096
IDLE_SECONDS = 1.0
"""How long to wait for another attempt."""
MOST_ATTEMPTS = 200
"""Of one shim: it collects no garbage, so it is not to live for ever."""


class Parts:
    """What the shim is made of beside this file, loaded once, by the zygote."""

    def __init__(self, *modules: Any) -> None:
        self.attempt, self.processes, self.cgroups, self.logtimes, self.outputs, *others = modules
        self.confine, self.mount, self.masking = others
        self.places = self.cgroups.mounts()
        self.ground: Any = None
        """What confined attempts share, once the zygote knows it."""


class Shim:
    """This process, in a session of its own, with the signals blocked until it is made."""

    def __init__(self, parts: Parts, server: socket.socket) -> None:
        self.parts = parts
        self._server = server
        self._given = -1
        """The file with the spec of what it runs."""
        self.stop_asked = False
        """Somebody wants the attempt to end."""
        self.evicted = False
        """And at once, because it has filled the disk."""
        self._attended = True
        """Whether there is a server, which writes down how attempts ended."""
        self._root = "/"
        """Where attempts have their folders."""
        self.null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(self.null, target)
        parts.processes.prctl(parts.processes.SET_NAME, b"mlbox-shim")
        parts.processes.prctl(parts.processes.SET_CHILD_SUBREAPER, 1)
        pid, start = os.getpid(), parts.processes.start_ticks(os.getpid())
        self._claim = f"{pid} {start} {parts.processes.boot_id()}"
        self._group_name = parts.cgroups.name_of(pid, start)
        self._group: Any = None
        """The control group of the last attempt, if the next may have it."""
        self.waking, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._signalled)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if parts.ground is not None:
            parts.ground.forked()

    def _signalled(self, number: int, _: object) -> None:
        self.stop_asked = self.stop_asked or number != signal.SIGCHLD
        self.evicted = self.evicted or number == EVICTED

    def serve(self, given: int | None) -> None:
        """Run the attempt that a file describes, and then what else the server gives."""
        for _ in range(MOST_ATTEMPTS):
            if given is None:
                break
            self._given = given
            try:
                spec = read(given)
                written = not spec or self._run(spec)
            except Exception as err:  # it could not even be taken
                self.say(b"failed", str(err))
                break
            finally:
                self.let_go()
            if not (self.say(b"ended" if spec else b"left") and written):
                break
            given = self._next()
        if not self._attended:
            self.parts.processes.sync(self._root)
        if self._group is not None:
            self._group.remove()

    def let_go(self) -> None:
        """The file with the spec, which names secrets, is not needed any more."""
        if self._given >= 0:
            os.close(self._given)
            self._given = -1

    def group(self, spec: dict[str, Any]) -> Any:
        """A control group for an attempt: the last one's, where that holds as much and nothing was left in it."""
        group, self._group = self._group, None
        if group is not None and spec["grouped"] and group.memory_bytes == spec["memory_bytes"]:
            return group
        if group is not None:
            group.remove()
        return self.parts.cgroups.Group(
            self._group_name if spec["grouped"] else "", spec["memory_bytes"], self.parts.places
        )

    def keep(self, group: Any) -> None:
        """An attempt is over: the next may have its group."""
        if group.is_clean:
            self._group = group
        else:
            group.remove()

    def why_stopped(self) -> dict[str, bool]:
        """What its end says of why."""
        return {"disk_full": True} if self.evicted else {"stopped": True}

    def is_unwanted(self) -> bool:
        """Whether it was stopped before its command started: by a signal, or, when no shim was known yet, by an empty spec."""
        return self.stop_asked or not os.fstat(self._given).st_size

    def _run(self, spec: dict[str, Any]) -> bool:
        """Run one attempt, if it is not another shim's; whether its end is on disk, and nothing of it is left."""
        make(spec["folder"], 0o777)
        os.chdir(spec["folder"])
        self._root = os.path.dirname(os.path.dirname(spec["folder"]))
        status = self.parts.outputs.Status(spec["folder"])
        if not self._take():
            status.drop()
            return True
        try:
            for folder in spec["folders"]:
                make(folder, 0o700)
            ended = self._mounted(spec) or self.parts.attempt.Attempt(spec, self).run()
        except Exception as err:  # whatever it is, the attempt has an end
            ended = {"exit_code": None, "error": f"its shim failed: {err!r}"}
            self.stop_asked = True  # and this process does no more
        empty(spec["tmp"], stays=spec["tmp_stays"])
        written: bool = status.write({**ended, "ended": time.time()})
        return written and self.is_alone()

    def _take(self) -> bool:
        """Take the attempt; False if it was taken before. A link to nowhere: made whole, once, with all that names us in it."""
        try:
            os.symlink(self._claim, self.parts.outputs.CLAIM)
        except FileExistsError:
            return False
        return True

    def _mounted(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Lay out the datasets; how the attempt ended where that could not be done, which is then in the log too."""
        if not spec.get("mounts"):
            return {}
        self.say(b"taken")  # it may take long: nobody is to wait
        if self.parts.ground is not None:
            self.parts.ground.rest()
        link = bool(spec.get("confine")) or os.geteuid() != 0
        try:
            wrong = self.parts.mount.lay(spec["mounts"], self.is_unwanted, link=link)
        except self.parts.mount.Stopped:
            return {"exit_code": None, **self.why_stopped()}
        if not wrong:
            return {}
        log = self.parts.outputs.Log(spec, self.parts)
        log.say(wrong)
        log.finish()
        return {"exit_code": self.parts.attempt.CANNOT_START, "error": wrong}

    def is_alone(self) -> bool:
        """Whether nothing is left of what came from it: a subreaper without a child has no descendants either."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def say(self, what: bytes, why: str = "") -> bool:
        """Tell the server; False where it is gone. The next one looks for itself."""
        try:
            self._server.send(b"%s %s" % (what, why.encode()))
        except OSError:
            self._attended = False
        return self._attended

    def _next(self) -> int | None:
        """Another attempt, if there is one soon."""
        os.chdir("/")
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(self.waking, select.POLLIN)
        end = time.monotonic() + IDLE_SECONDS
        while not self.stop_asked:
            ready = [fd for fd, _ in poll.poll(max(0.0, end - time.monotonic()) * 1000)]
            if self.waking in ready:
                self.awake()
            elif ready:
                message, files = receive(self._server)
                self._attended = bool(message)
                return files[0] if files and not self.stop_asked else None  # what it leaves, another one is given
            else:
                return None
        return None

    def awake(self) -> None:
        """A signal was heard."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.waking, 512)


def receive(server: socket.socket) -> tuple[bytes, list[int]]:
    """A message, and the file that came along; nothing where the server is gone."""
    try:
        message, files, _, _ = socket.recv_fds(server, MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    return message, files


def read(given: int) -> Any:
    """What a file says that came along; None of one that was emptied since."""
    said = os.pread(given, os.fstat(given).st_size, 0)
    return json.loads(said) if said else None


def make(folder: str, mode: int) -> None:
    """Make a folder that may be there; mostly the one above it is."""
    try:
        os.mkdir(folder, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        make(os.path.dirname(folder), 0o777)
        make(folder, mode)


def empty(folder: str, *, stays: bool) -> None:
    """Remove a folder with what is in it, unless there is nothing and it `stays` then; what cannot be removed stays, too."""
    with contextlib.suppress(OSError):
        if os.listdir(folder):
            shutil.rmtree(folder, ignore_errors=True)
        elif not stays:
            os.rmdir(folder)
