"""The shim: a small process that runs one attempt of one job, and outlives the server.

It is forked by the zygote, with the standard library alone. In the attempt's folder it
- claims the attempt (`claim`, made once): of two shims for one attempt only one runs the command;
- lays out the datasets that the job named, and checks them (`mount.py`);
- runs the command, or its ranks, in sessions of their own, confined, in a control group where there is one;
- passes what they print to `log`, masked, up to the most that a log may have;
- ends them on SIGTERM, at the time limit, or when they hold more memory than they may: SIGTERM to their groups, and after the
  grace SIGKILL to all that ever came from them. It is a subreaper, so that none of these is hidden from it;
- writes how it ended to `status.json`, complete and on disk or not at all, in space that it kept for that from the start.

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

CANNOT_START = 127
BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
"""What the zygote blocks before it forks, so that nothing is missed."""
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and a command would go on to ignore; signals with a handler are the command's own again by themselves."""
READ_BYTES = 1 << 18
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


def main(spec: dict[str, Any], parts: Parts, tell: socket.socket) -> None:
    """Run the attempt that a spec describes. The signals are blocked, and the process is in a session of its own."""
    make(spec["folder"], 0o777)
    os.chdir(spec["folder"])
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(parts.outputs.ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, errors), (2, errors)):
        os.dup2(source, target)
    os.close(null)
    os.close(errors)
    parts.processes.prctl(parts.processes.SET_NAME, b"mlbox-shim")
    parts.processes.prctl(parts.processes.SET_CHILD_SUBREAPER, 1)
    status = parts.outputs.Status(spec["folder"])
    if not claim(parts):
        status.drop()
        return
    try:
        lay_out(spec)
        ended = mounted(spec, parts) or Attempt(spec, parts, tell).run()
    except Exception as err:  # whatever it is, the attempt has an end
        ended = {"exit_code": None, "error": f"its shim failed: {err!r}"}
    remove(spec["tmp"])
    status.write({**ended, "ended": time.time()})


def lay_out(spec: dict[str, Any]) -> None:
    """Make the folders of the attempt that are not there yet."""
    for folder in spec["folders"]:
        make(folder, 0o700)


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


def claim(parts: Parts) -> bool:
    """Take the attempt; False if it was taken before. A link to nowhere: it is made whole, once, with all that names us in it."""
    try:
        start, boot = parts.processes.start_ticks(os.getpid()), parts.processes.boot_id()
        os.symlink(f"{os.getpid()} {start} {boot}", parts.outputs.CLAIM)
    except FileExistsError:
        return False
    parts.outputs.sync_here()
    return True


def stop_asked() -> bool:
    """Whether somebody wants the attempt to end; the signal stays pending."""
    return bool(signal.sigpending() & {signal.SIGTERM, signal.SIGINT})


def mounted(spec: dict[str, Any], parts: Parts) -> dict[str, Any]:
    """Lay out the datasets; how the attempt ended where that could not be done, which is then in the log too."""
    if not spec.get("mounts"):
        return {}
    try:
        wrong = parts.mount.lay(spec["mounts"], stop_asked, link=bool(spec.get("confine")) or os.geteuid() != 0)
    except parts.mount.Stopped:
        return {"exit_code": None, "stopped": True}
    if not wrong:
        return {}
    parts.outputs.Log(spec, parts).say(wrong)
    return {"exit_code": CANNOT_START, "error": wrong}


class Attempt:
    """A command, or its ranks, from their start until nothing is left of them."""

    def __init__(self, spec: dict[str, Any], parts: Parts, tell: socket.socket) -> None:
        self._spec = spec
        self._parts = parts
        self._tell = tell
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
        if spec["procs"] > 1:
            spec["master_port"] = free_port()

    def run(self) -> dict[str, Any]:
        """How it ended."""
        output, writing = os.pipe()
        try:
            for rank in range(self._spec["procs"]):
                self._ranks[self._spawn(rank, writing)] = rank
        except OSError as err:
            self._log.say(f"the command cannot be started: {err}")
            self._exit_code, self._ended = CANNOT_START, {"error": f"the command cannot be started: {err}"}
            self._kill_at = time.monotonic()
        finally:
            os.close(writing)
            if self._parts.ground is not None:
                self._parts.ground.rest()
        self._say_that_it_runs()
        try:
            self._watch(output)
        finally:
            self._end_all()
            self._drain(output)
            self._log.finish()
        out_of_memory = self._ended.pop("out_of_memory", False) or self._group.out_of_memory()
        self._group.remove()
        return {"exit_code": self._exit_code, "out_of_memory": out_of_memory, **self._ended}

    # -- starting ---------------------------------------------------------------------------------------------------

    def _spawn(self, rank: int, output: int) -> int:
        """Start one rank; raises the OSError that kept it from starting."""
        failed, telling = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(failed)
                self._become(rank, output)
            except OSError as err:
                os.write(telling, f"{err.errno} {err.filename or self._spec['command'][0]}".encode())
            finally:
                os._exit(CANNOT_START)
        os.close(telling)
        with open(failed, "rb") as answer:
            said = answer.read().decode(errors="replace")
        if said:
            os.waitpid(pid, 0)
            number, _, name = said.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), name)
        return pid

    def _become(self, rank: int, output: int) -> None:
        """In the child: everything that the command is to find, and then the command."""
        spec = self._spec
        os.setsid()
        self._parts.processes.prctl(self._parts.processes.SET_NAME, b"mlbox-job")
        self._group.join()
        os.dup2(output, 1)
        os.dup2(output, 2)
        env: dict[str, str] = {**spec["env"], **(ranked(spec, rank) if spec["procs"] > 1 else {})}
        os.chdir(spec["cwd"])
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if spec.get("confine"):
            self._parts.confine.confine(spec["confine"], self._parts.ground)
        os.execvpe(spec["command"][0], spec["command"], env)  # noqa: S606 (this is the job's command)

    def _say_that_it_runs(self) -> None:
        with contextlib.suppress(OSError):  # the server is gone; the next one looks for itself
            self._tell.send(json.dumps({"running": self._spec["ref"]}).encode())
        self._tell.close()

    # -- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, output: int) -> None:
        """Until every rank has ended, or none may go on."""
        poll = select.poll()
        poll.register(output, select.POLLIN)
        waking, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        poll.register(waking, select.POLLIN)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in BLOCKED:
            signal.signal(number, self._signalled)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while self._reap():
            for fd, _ in poll.poll(self._wait_ms()):
                if fd == waking:
                    os.read(waking, 512)
                elif piece := os.read(output, READ_BYTES):
                    self._log.feed(piece)
                else:
                    poll.unregister(output)  # it closed its output, and goes on
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                return
            self._check_limits()

    def _signalled(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._finish(stopped=True)

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
        due = [at - now for at in (self._end_at, self._kill_at, self._log.mark()) if at is not None]
        if not self._group.bounds_memory:
            due.append(WATCH_SECONDS)
        return max(0.0, min(due)) * 1000 + 1 if due else None

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        """Kill all that is left, whatever session it fled to, and collect it."""
        if not self._is_alone():
            self._group.kill()
            self._parts.processes.kill_all(self._left, KILL_SECONDS)
        if self._spec.get("after"):
            self._run_after(self._spec["after"])

    def _is_alone(self) -> bool:
        """Whether nothing is left of what came from it: a subreaper without a child has no descendants either."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def _left(self) -> list[int]:
        self._reap()
        found: list[int] = self._parts.processes.children(os.getpid())
        return found

    def _run_after(self, command: list[str]) -> None:
        """What is to be run in the end: the removal of a container, which is no child of ours."""
        pid = os.fork()
        if pid == 0:
            try:
                os.execvpe(command[0], command, self._spec["env"])  # noqa: S606 (our own command)
            finally:
                os._exit(CANNOT_START)
        os.waitpid(pid, 0)

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
