"""Processes of this machine, as /proc knows them. The standard library alone: shims load this file by its path.

A process id names a process only while it lives. With when it started, in clock ticks since boot, and the id of the boot it
names one for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable

SET_NAME, SET_CHILD_SUBREAPER = 15, 36
"""prctl(2)."""
ROUND_SECONDS = 0.02
READ_BYTES = 1 << 16
LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: object) -> None:
    """One call of prctl(2); raises OSError."""
    if LIBC.prctl(option, value, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def sync(folder: str) -> None:
    """Put on disk what was written to the file system of a folder (syncfs(2))."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            LIBC.syncfs(file)
        finally:
            os.close(file)


def boot_id() -> str:
    """This boot of the machine."""
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def stat_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat behind the name, from the state (field 3) on; raises OSError."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()


def start_ticks(pid: int) -> int:
    """When a process started (field 22)."""
    return int(stat_of(pid)[19])


def lives(pid: int, start: int) -> bool:
    """Whether the process is there that had this id and started then."""
    with contextlib.suppress(OSError):
        return start_ticks(pid) == start
    return False


def children(pid: int) -> list[int]:
    """The children of all threads of a process; none where there is no such process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def descendants(pid: int) -> list[int]:
    """The processes below one. Below a subreaper that is all that ever came from it, whatever its parents did."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def memory_of(pids: Iterable[int]) -> int:
    """Bytes that processes hold in memory; what they share counts once for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


def _read(path: str) -> bytes:
    """The whole of a file of the kernel's; without Python's layers, which cost a shim more than the rest of it."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = piece = os.read(source, READ_BYTES)
        while piece:
            text += (piece := os.read(source, READ_BYTES))
        return text
    finally:
        os.close(source)


def send(pid: int, number: int) -> None:
    """Signal a process, if it is still there and ours."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group(group: int, number: int) -> None:
    """Signal every process of a group that still has any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_all(roots: Callable[[], list[int]], seconds: float) -> bool:
    """Kill some processes and all below them until there are none, for so many seconds at most; whether there are none.

    They are stopped before they are killed, each before its children are looked for: what is stopped forks no more, and so a fork
    bomb cannot outrun this.
    """
    end = time.monotonic() + seconds
    while found := roots():
        stopped: set[int] = set()
        while new := [pid for pid in found if pid not in stopped]:
            for pid in new:
                send(pid, signal.SIGSTOP)
                new += children(pid)
            stopped.update(new)
            found = roots()
        for pid in stopped:
            send(pid, signal.SIGKILL)
        if time.monotonic() >= end:
            return False
        time.sleep(ROUND_SECONDS)
    return True


def of_attempt(job_id: str, number: int) -> list[int]:
    """The living processes whose environment says that they belong to an attempt, whoever their parents are now."""
    marks = {f"MLBOX_JOB_ID={job_id}".encode(), f"MLBOX_ATTEMPT={number}".encode()}
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if marks <= set(file.read().split(b"\0")):
                found.append(int(name))
    return found
