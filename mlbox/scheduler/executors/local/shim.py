"""The shim: a small process that runs an attempt of a job, and outlives the server.

It is forked by the zygote, with the standard library alone. In the attempt's folder it
- claims the attempt (`claim`, made once): of two shims for one attempt only one runs the command;
- lays out the datasets that the job named, and checks them (`mount.py`);
- runs the command, or its ranks, in sessions of their own, confined, in a control group where there is one;
- passes what they print to `log`, masked, up to the most that a log may have;
- ends them on SIGTERM, at the time limit, or when they hold more memory than they may: SIGTERM to their groups, and after the
  grace SIGKILL to all that ever came from them. It is a subreaper, so that none of these is hidden from it;
- writes how it ended to `status.json`, complete and on disk or not at all, in space that it kept for that from the start.

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
import subprocess
import threading
import time
from typing import Any

CANNOT_START = 127
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
"""What the zygote blocks before it forks, so that nothing is missed."""
MESSAGE_BYTES = 4096
READ_BYTES = 1 << 18
IDLE_SECONDS = 1.0
"""How long to wait for another attempt, and how long an attempt runs until what it needed to start is let go."""
MOST_ATTEMPTS = 200
"""Of one shim: it collects no garbage, so it is not to live for ever."""
WATCH_SECONDS = 0.5
"""Between two looks at the memory of a job that no control group holds to it."""
DRAIN_SECONDS = 1.0
KILL_SECONDS = 30.0
"""How long to try to kill what cannot be killed: a process that waits for a broken disk."""


class Parts:
    """What the shim is made of beside this file, loaded once, by the zygote."""

    def __init__(self, *modules: Any) -> None:
        self.processes, self.cgroups, self.logtimes, self.outputs, self.confine, self.mount, self.masking = modules
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
        self.null = os.open(os.devnull, os.O_RDWR)
        for target in (0, 1, 2):
            os.dup2(self.null, target)
        parts.processes.prctl(parts.processes.SET_NAME, b"mlbox-shim")
        parts.processes.prctl(parts.processes.SET_CHILD_SUBREAPER, 1)
        pid = os.getpid()
        self._claim = f"{pid} {parts.processes.start_ticks(pid)} {parts.processes.boot_id()}"
        self.waking, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._signalled)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if parts.ground is not None:
            parts.ground.forked()

    def _signalled(self, number: int, _: object) -> None:
        self.stop_asked = self.stop_asked or number != signal.SIGCHLD

    def serve(self, given: int | None) -> None:
        """Run the attempt that a file describes, and then what else the server gives."""
        for _ in range(MOST_ATTEMPTS):
            if given is None:
                return
            self._given = given
            try:
                spec = read(given)
                said = {"ended": spec["ref"]} if spec else {"left": True}
                written = not spec or self._run(spec)
            except Exception as err:  # it could not even be taken
                self.say(failed=str(err))
                return
            finally:
                os.close(given)
            if not (written and self.say(**said)):
                return
            given = self._next()

    def is_unwanted(self) -> bool:
        """Whether it was stopped before its command started: by a signal, or, when no shim was known yet, by an empty spec."""
        return self.stop_asked or not os.fstat(self._given).st_size

    def _run(self, spec: dict[str, Any]) -> bool:
        """Run one attempt, if it is not another shim's; whether its end is on disk, and nothing of it is left."""
        make(spec["folder"], 0o777)
        os.chdir(spec["folder"])
        status = self.parts.outputs.Status(spec["folder"])
        if not self._take():
            status.drop()
            return True
        try:
            for folder in spec["folders"]:
                make(folder, 0o700)
            ended = self._mounted(spec) or Attempt(spec, self).run()
        except Exception as err:  # whatever it is, the attempt has an end
            ended = {"exit_code": None, "error": f"its shim failed: {err!r}"}
            self.stop_asked = True  # and this process does no more
        remove(spec["tmp"])
        written: bool = status.write({**ended, "ended": time.time()})
        return written and self.is_alone()

    def _take(self) -> bool:
        """Take the attempt; False if it was taken before. A link to nowhere: made whole, once, with all that names us in it."""
        try:
            os.symlink(self._claim, self.parts.outputs.CLAIM)
        except FileExistsError:
            return False
        self.parts.outputs.sync_here()
        return True

    def _mounted(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Lay out the datasets; how the attempt ended where that could not be done, which is then in the log too."""
        if not spec.get("mounts"):
            return {}
        self.say(taken=spec["ref"])  # it may take long: nobody is to wait
        if self.parts.ground is not None:
            self.parts.ground.rest()
        link = bool(spec.get("confine")) or os.geteuid() != 0
        try:
            wrong = self.parts.mount.lay(spec["mounts"], self.is_unwanted, link=link)
        except self.parts.mount.Stopped:
            return {"exit_code": None, "stopped": True}
        if not wrong:
            return {}
        log = self.parts.outputs.Log(spec, self.parts)
        log.say(wrong)
        log.finish()
        return {"exit_code": CANNOT_START, "error": wrong}

    def is_alone(self) -> bool:
        """Whether nothing is left of what came from it: a subreaper without a child has no descendants either."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def say(self, **what: Any) -> bool:
        """Tell the server; False where it is gone. The next one looks for itself."""
        try:
            self._server.send(json.dumps(what).encode())
        except OSError:
            return False
        return True

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
                _, files = receive(self._server)
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
        os.makedirs(folder, mode, exist_ok=True)


def remove(folder: str) -> None:
    """Remove a folder, which is mostly empty; what cannot be removed stays."""
    try:
        os.rmdir(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


class Attempt:
    """A command, or its ranks, from their start until nothing is left of them."""

    def __init__(self, spec: dict[str, Any], shim: Shim) -> None:
        self._spec = spec
        self._shim = shim
        self._parts = parts = shim.parts
        self._log = parts.outputs.Log(spec, parts)
        self._group = parts.cgroups.Group(spec["name"] if spec["grouped"] else "", spec["memory_bytes"], parts.places)
        self._ranks: dict[int, int] = {}
        """By process id, those that have not ended."""
        self._exit_code: int | None = None
        self._ended: dict[str, Any] = {}
        """Why it is to end, once it is."""
        self._kill_at: float | None = None
        limit = spec.get("timeout_seconds")
        self._end_at = time.monotonic() + limit if limit else None
        self._look_at = 0.0
        """When to look at its memory, where nobody else does."""
        self._rest_at: float | None = None
        """When to let go what was needed to start it."""
        if spec["procs"] > 1:
            spec["master_port"] = free_port()

    def run(self) -> dict[str, Any]:
        """How it ended."""
        output, writing = os.pipe()
        try:
            if self._shim.is_unwanted():
                self._ended = {"stopped": True}
            else:
                self._start(writing)
        except Exception as err:
            self._log.say(f"the command cannot be started: {err}")
            self._exit_code, self._ended = CANNOT_START, {"error": f"the command cannot be started: {err}"}
            self._kill_at = time.monotonic()
        finally:
            os.close(writing)
        self._shim.say(running=self._spec["ref"])
        try:
            self._watch(output)
        finally:
            self._end_all()
            self._drain(output)
            os.close(output)
            self._log.finish()
        out_of_memory = self._ended.pop("out_of_memory", False) or self._group.out_of_memory()
        self._group.remove()
        return {"exit_code": self._exit_code, "out_of_memory": out_of_memory, **self._ended}

    # -- starting ---------------------------------------------------------------------------------------------------

    def _start(self, output: int) -> None:
        """Start the ranks, out of a thread; raises what kept one from starting.

        Group, capabilities and confinement are a thread's, and what it starts has them from it: so the thread takes them upon
        itself and ends, while the shim stays as it is. The command needs no process of Python before it then (vfork).
        """
        wrong: list[Exception] = []
        if self._parts.ground is not None:
            self._parts.ground.prepare()
            self._rest_at = time.monotonic() + IDLE_SECONDS
        thread = threading.Thread(target=self._start_ranks, args=(output, wrong))
        thread.start()
        thread.join()
        self._group.leave()
        if wrong:
            raise wrong[0]

    def _start_ranks(self, output: int, wrong: list[Exception]) -> None:
        try:
            self._group.join()
            if self._spec.get("confine"):
                self._parts.confine.confine(self._spec["confine"], self._parts.ground)
            for rank in range(self._spec["procs"]):
                self._ranks[self._spawn(rank, output)] = rank
        except Exception as err:
            wrong.append(err)

    def _spawn(self, rank: int, output: int) -> int:
        spec = self._spec
        process = subprocess.Popen(
            spec["command"],
            stdin=self._shim.null,
            stdout=output,
            stderr=output,
            cwd=spec["cwd"],
            env={**spec["env"], **(ranked(spec, rank) if spec["procs"] > 1 else {})},
            close_fds=False,  # none is inherited
            start_new_session=True,
        )
        process.returncode = 0  # it is not for this object to collect it
        return process.pid

    # -- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, output: int) -> None:
        """Until every rank has ended, or none may go on."""
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self._shim.waking, select.POLLIN)
        while self._reap():
            if self._shim.stop_asked:
                self._finish(stopped=True)
            for fd, _ in poll.poll(self._wait_ms()):
                if fd == self._shim.waking:
                    self._shim.awake()
                elif piece := os.read(output, READ_BYTES):
                    self._log.feed(piece)
                else:
                    poll.unregister(output)  # it closed its output, and goes on
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return
            self._check_limits()

    def _finish(self, **why: Any) -> None:
        """Have all ranks end: SIGTERM to their groups, and the kill after the grace."""
        if self._kill_at is None:
            self._ended = why
            self._kill_at = time.monotonic() + self._spec["grace_seconds"]
            for pid in self._ranks:
                self._parts.processes.send_group(pid, signal.SIGTERM)

    def _reap(self) -> bool:
        """Collect who has ended; whether a rank is left. A rank that failed ends the others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return bool(self._ranks)
            rank = self._ranks.pop(pid, None)
            if rank is not None:
                self._rank_ended(rank, os.waitstatus_to_exitcode(status))

    def _rank_ended(self, rank: int, code: int) -> None:
        if not self._exit_code:  # the first that failed is the one that counts
            self._exit_code = code
        if code and self._ranks and self._kill_at is None:
            self._log.say(f"rank {rank} ended with {code}, so the others are ended")
            self._finish()

    def _check_limits(self) -> None:
        if self._rest_at is not None and time.monotonic() >= self._rest_at:
            self._rest_at = None
            self._parts.ground.rest()
        if self._end_at is not None and time.monotonic() >= self._end_at:
            self._end_at = None
            self._finish(timed_out=True)
        if not self._group.bounds_memory and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + WATCH_SECONDS
            held = self._parts.processes.memory_of(self._parts.processes.descendants(os.getpid()))
            if held > self._spec["memory_bytes"]:
                self._ended = {"out_of_memory": True}
                self._kill_at = time.monotonic()

    def _wait_ms(self) -> float | None:
        now = time.monotonic()
        due = [at - now for at in (self._end_at, self._kill_at, self._rest_at, self._log.mark()) if at is not None]
        if not self._group.bounds_memory:
            due.append(WATCH_SECONDS)
        return max(0.0, min(due)) * 1000 + 1 if due else None

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        """Kill all that is left, whatever session it fled to, and collect it."""
        if not self._shim.is_alone():
            self._group.kill()
            self._parts.processes.kill_all(self._left, KILL_SECONDS)
        if self._spec.get("after"):
            self._run_after(self._spec["after"])

    def _left(self) -> list[int]:
        self._reap()
        found: list[int] = self._parts.processes.children(os.getpid())
        return found

    def _run_after(self, command: list[str]) -> None:
        """What is to be run in the end: the removal of a container, which is no child of ours."""
        null = self._shim.null
        with contextlib.suppress(OSError):
            subprocess.run(
                command, env=self._spec["env"], stdin=null, stdout=null, stderr=null, close_fds=False, check=False
            )

    def _drain(self, output: int) -> None:
        """The rest of what was printed; what cannot be killed may hold the pipe open for ever."""
        end = time.monotonic() + DRAIN_SECONDS
        poll = select.poll()
        poll.register(output, select.POLLIN)
        while poll.poll(max(0.0, end - time.monotonic()) * 1000):
            piece = os.read(output, READ_BYTES)
            if not piece:
                return
            self._log.feed(piece)


def free_port() -> int:
    """A port for the ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ranked(spec: dict[str, Any], rank: int) -> dict[str, str]:
    """What torchrun tells each of its ranks (PyTorch, Elastic Launch, Environment Variables)."""
    count = str(spec["procs"])
    return {
        "OMP_NUM_THREADS": spec["env"].get("OMP_NUM_THREADS", "1"),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "ROLE_RANK": str(rank),
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "ROLE_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(spec["master_port"]),
        "TORCHELASTIC_RUN_ID": spec["name"],
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
