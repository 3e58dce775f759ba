"""The shim: a small process that runs one attempt of one job, and outlives the server.

It is started by path, with the standard library alone, in a session of its own. In the attempt's folder it
- claims the attempt (`claim`, made once): of two shims for one attempt only one runs the command;
- runs the command in a group of its own, output to `log`;
- lays out the datasets that the job named, and checks them (`mount.py`, loaded by path);
- masks in the log what it was told is secret (`mlbox/masking.py`, loaded by path);
- ends it on SIGTERM or at its time limit: SIGTERM to the group, SIGKILL after the grace;
- writes how it ended to `status.json`, complete and on disk or not at all.

What is secret (the job's token, its secrets) comes on standard input, from a file that is only in memory: `spec.json` holds
none of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

POLL_SECONDS = 0.2
PACKAGE = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
CLAIM, LOG, MARKS, SPEC, STATUS = "claim", "log", "log.times", "spec.json", "status.json"


def main(folder: str) -> int:
    """Run the attempt that is described in a folder."""
    os.chdir(folder)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # before the claim, by which the server finds whom to signal
        signal.signal(number, lambda received, _: stop.append(received))
    private = json.loads(sys.stdin.buffer.read() or b"{}")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if not claim():
        return 0
    with open(SPEC) as file:
        spec = json.load(file)
    spec["env"].update(private.get("env", {}))
    status = mounted(spec, stop)
    if not status:
        status = run_masked(spec, stop, private["mask"]) if private.get("mask") else run(spec, stop)
    write_whole(STATUS, json.dumps({**status, "ended": time.time()}).encode())
    os.unlink(SPEC)
    return 0


def mounted(spec: dict[str, Any], stop: list[int]) -> dict[str, Any]:
    """Lay out the datasets; how the attempt ended where that could not be done, which is then in the log too."""
    if not spec.get("mounts"):
        return {}
    mount = load("scheduler/mount.py")
    try:
        wrong = mount.lay(spec["mounts"], stop, link=bool(spec.get("confine")) or os.geteuid() != 0)
    except mount.Stopped:
        return {"exit_code": None, "stopped": True}
    if not wrong:
        return {}
    with open(LOG, "ab", buffering=0) as log:
        log.write(f"mlbox: {wrong}.\n".encode())
    return {"exit_code": 127, "error": wrong}


def run_masked(spec: dict[str, Any], stop: list[int], secrets: dict[str, str]) -> dict[str, Any]:
    """Run the command with its output through a pipe, from which it reaches the log without the secrets."""
    masking = load("masking.py")
    ended = threading.Event()
    reading, writing = os.pipe()
    with open(LOG, "ab", buffering=0) as log, open(reading, "rb") as pipe, open(writing, "wb") as output:
        arguments = (pipe.fileno(), log.fileno(), masking.Masker(secrets), ended.is_set)
        pump = threading.Thread(target=masking.pump, args=arguments)
        pump.start()
        try:
            return run(spec, stop, output)
        finally:
            ended.set()
            pump.join()


def load(file: str) -> Any:
    """A module of the package, by its file: the package is not on the path of a process that is started by path."""
    name = os.path.splitext(os.path.basename(file))[0]
    found = importlib.util.spec_from_file_location(name, os.path.join(PACKAGE, file))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def claim() -> bool:
    """Take the attempt; False if it was taken before. The claim appears whole: a link is made or is not."""
    own = f".{CLAIM}.{os.getpid()}"
    with open(own, "wb") as file:
        file.write(json.dumps({"pid": os.getpid(), "start": start_ticks(os.getpid())}).encode())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(own, CLAIM)
    except FileExistsError:
        return False
    finally:
        os.unlink(own)
    sync_here()
    return True


def run(spec: dict[str, Any], stop: list[int], output: BinaryIO | None = None) -> dict[str, Any]:
    """Run the command until it ends, is stopped or runs out of time; how it ended. It prints to the log, or to `output`."""
    limit = spec.get("timeout_seconds")
    end = time.monotonic() + limit if limit else None
    with open(LOG, "ab", buffering=0) as log:
        try:
            child = subprocess.Popen(
                confined(spec),
                cwd=spec["cwd"],
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=output or log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as err:
            log.write(f"mlbox: the command cannot be started: {err}\n".encode())
            return {"exit_code": 127, "error": f"the command cannot be started: {err}"}
        finally:
            if output is not None:
                output.close()  # so that the pipe ends with those who write to it
        timed_out = False
        marks = load("scheduler/executors/local/logtimes.py").Marks(LOG, MARKS)
        while child.poll() is None and not stop:
            timed_out = end is not None and time.monotonic() >= end
            if timed_out:
                break
            wait(child, POLL_SECONDS)
            marks.set()
        if child.poll() is None:
            terminate(child, spec["grace_seconds"])
        signal_group(child.pid, signal.SIGKILL)  # what the command left behind
        return {"exit_code": child.returncode, "timed_out": timed_out, "stopped": bool(stop) and not timed_out}


def confined(spec: dict[str, Any]) -> list[str]:
    """The command, behind `confine` where the attempt is to be confined; raises OSError where there is no such program."""
    command: list[str] = spec["command"]
    if not spec.get("confine"):
        return command
    found = shutil.which(
        os.path.join(spec["cwd"], command[0]) if "/" in command[0] else command[0], path=spec["env"]["PATH"]
    )
    if found is None:
        raise FileNotFoundError(2, "No such file or directory", command[0])
    program = os.path.join(PACKAGE, "scheduler", "confine.py")
    return [sys.executable, "-I", "-S", program, spec["confine"], *command]


def terminate(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """SIGTERM, then SIGKILL for what is still there after the grace."""
    signal_group(child.pid, signal.SIGTERM)
    wait(child, grace_seconds)
    if child.poll() is None:
        signal_group(child.pid, signal.SIGKILL)
        child.wait()


def wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the child's end, at most so long."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def signal_group(group: int, number: int) -> None:
    """Signal every process of a group that still has any."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid it names a process for good (proc(5), field 22)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def write_whole(name: str, content: bytes) -> None:
    """Write a file so that it is there whole, on disk, or not at all."""
    temporary = f".{name}.tmp"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, name)
    sync_here()


def sync_here() -> None:
    """Put the names in this folder on disk."""
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
