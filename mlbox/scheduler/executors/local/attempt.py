"""One attempt: a command, or its ranks, from their start until nothing is left of them.

The standard library alone: shims load this file by its path.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any

CANNOT_START = 127
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""By Python, and not to be by the command."""
READ_BYTES = 1 << 18
REST_SECONDS = 1.0
"""How long an attempt runs until what it needed to start is let go."""
SOON_SECONDS = 0.01
"""What has ended by then is never said to run: a busy server has half as much to hear of very short attempts."""
WATCH_SECONDS = 0.5
"""Between two looks at the memory of a job that no control group holds to it."""
DRAIN_SECONDS = 1.0
KILL_SECONDS = 30.0
"""How long to try to kill what cannot be killed: a process that waits for a broken disk."""


class CannotStart(Exception):
    """There is no such program, or it is none: why, and what to do."""


class Attempt:
    """A command, or its ranks, from their start until nothing is left of them."""

    def __init__(self, spec: dict[str, Any], shim: Any) -> None:
        self._spec = spec
        self._shim = shim
        self._parts = parts = shim.parts
        self._log = parts.outputs.Log(spec, parts)
        self._group = shim.group(spec)
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
        self._say_at: float | None = None
        """When to say that it runs."""
        self._rest_at: float | None = None
        """When to let go what was needed to start it."""
        if spec["procs"] > 1:
            spec["master_port"] = free_port()

    def run(self) -> dict[str, Any]:
        """How it ended."""
        output, writing = os.pipe()
        try:
            if self._shim.is_unwanted():
                self._ended = self._shim.why_stopped()
            else:
                self._shim.let_go()
                self._start(writing)
        except Exception as err:
            self._log.say(f"the command cannot be started: {err}")
            self._exit_code, self._ended = CANNOT_START, {"error": f"the command cannot be started: {err}"}
            self._kill_at = time.monotonic()
        finally:
            os.close(writing)
        self._say_at = time.monotonic() + SOON_SECONDS
        try:
            self._watch(output)
        finally:
            self._end_all()
            self._drain(output)
            os.close(output)
            self._log.finish()
        out_of_memory = self._ended.pop("out_of_memory", False) or self._group.out_of_memory()
        self._shim.keep(self._group)
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
            self._rest_at = time.monotonic() + REST_SECONDS
        os.chdir(self._spec["cwd"])
        try:
            done = _thread.allocate_lock()
            done.acquire()
            _thread.start_new_thread(self._start_ranks, (output, wrong, done))
            done.acquire()
        finally:
            os.chdir(self._spec["folder"])
        self._group.leave()
        if wrong:
            raise wrong[0]

    def _start_ranks(self, output: int, wrong: list[Exception], done: _thread.LockType) -> None:
        try:
            self._group.join()
            if self._spec.get("confine"):
                self._parts.confine.confine(self._spec["confine"], self._parts.ground)
            for rank in range(self._spec["procs"]):
                self._ranks[self._spawn(rank, output)] = rank
        except Exception as err:
            wrong.append(err)
        finally:
            done.release()

    def _spawn(self, rank: int, output: int) -> int:
        """Start the command; no file of ours is inherited but these. The signals that Python ignores are as they were."""
        spec = self._spec
        env = {**spec["env"], **ranked(spec, rank)} if spec["procs"] > 1 else spec["env"]
        files = [(os.POSIX_SPAWN_DUP2, file, at) for at, file in enumerate((self._shim.null, output, output))]
        word, path = spec["command"][0], env.get("PATH", os.defpath)
        wrong: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), word)
        for file in programs(word, path):
            try:
                return os.posix_spawn(file, spec["command"], env, file_actions=files, setsid=True, setsigdef=IGNORED)
            except OSError as err:  # there may be another, as execvp(3) has it
                wrong = err
        raise CannotStart(obstacle(word, path, wrong)) from wrong

    # -- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, output: int) -> None:
        """Until every rank has ended, or none may go on."""
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(self._shim.waking, select.POLLIN)
        while self._reap():
            if self._shim.evicted:
                self._ended, self._kill_at = self._shim.why_stopped(), time.monotonic()
            elif self._shim.stop_asked:
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

    def _say(self) -> None:
        if self._say_at is not None:
            self._say_at = None
            self._shim.say(b"running")

    def _check_limits(self) -> None:
        if self._say_at is not None and time.monotonic() >= self._say_at:
            self._say()
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
        due = [
            at - now
            for at in (self._end_at, self._kill_at, self._say_at, self._rest_at, self._log.mark())
            if at is not None
        ]
        if not self._group.bounds_memory:
            due.append(WATCH_SECONDS)
        return max(0.0, min(due)) * 1000 + 1 if due else None

    # -- ending -----------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        """Kill all that is left, whatever session it fled to, and collect it."""
        if not self._shim.is_alone():
            self._say()
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


def programs(word: str, path: str) -> list[str]:
    """The files that a command's first word may name."""
    if "/" in word:
        return [word]
    return [file for folder in path.split(os.pathsep) if os.path.isfile(file := os.path.join(folder, word))]


def obstacle(word: str, path: str, wrong: OSError) -> str:
    """Why a program could not be started from the present folder, and what to do about it."""
    if wrong.errno == errno.ENOENT and "/" not in word:
        if os.path.isfile(word):
            return f"there is no program {word!r} on its PATH, but such a file in its folder: call it './{word}'"
        known = "give its path, or have it in the job's environment"
        return f"there is no program {word!r} on its PATH ({path}): look for a slip of the pen, {known}"
    if wrong.errno == errno.ENOENT and os.path.exists(word):
        return f"the first line of {word!r} names an interpreter that is not there: correct it, or begin the command with one"
    if wrong.errno == errno.ENOENT:
        return f"there is no file {word!r} in {os.getcwd()!r}: was it left out of the snapshot (.mlboxignore)?"
    if wrong.errno == errno.EACCES:
        return f"{word!r} may not be executed: `chmod +x` it, or begin the command with its interpreter, such as python"
    if wrong.errno == errno.ENOEXEC:
        return f"{word!r} is no program of this machine: begin a script with a line such as '#!/bin/sh', or the command with sh"
    return f"{word!r}: {wrong.strerror}"


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
