"""Control groups: a job's processes as one, whose memory is bounded and who are killed at once, where this machine lets us.

The standard library alone: shims load this file by its path. Of the two versions of control groups a machine may have either, or
both at a time, each with some controllers. Where version 1 has the limits of memory and of processes, a group is of version 1: a
process moves there at once, but into a group of version 2, after a while without such moves, only when every CPU has been through
its scheduler, some 10 ms later. Else it is of version 2, which can also kill all of it at once. Where neither is to be had, the
shim watches and walks instead.

Sources: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable

MOST_PROCESSES = 16384
"""And threads, of one attempt."""
PREFIX = "mlbox-shim-"
MOST_LEFT = 16 << 20
"""Bytes."""
GONE_SECONDS = 1.0
READ_BYTES = 1 << 16
USED = {2: ("memory.current", "memory.events"), 1: ("memory.usage_in_bytes", "memory.oom_control")}
LIMITS = {2: {"memory": "memory.max", "pids": "pids.max"}, 1: {"memory": "memory.limit_in_bytes", "pids": "pids.max"}}


Places = dict[str, tuple[int, str]]
"""By controller, and `unified` for version 2: the version, and the folder of our own group."""


def mounts() -> Places:
    """Where this process's own groups are; nowhere, on a machine without any."""
    if not os.path.exists("/proc/self/cgroup"):
        return {}
    places: Places = {}
    own: dict[str, str] = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            own |= dict.fromkeys(controllers.split(",") if controllers else ["unified"], path)
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            root, mount = fields.split()[3:5]
            kind, _, options = rest.split()[:3]
            names = {"cgroup2": ["unified"], "cgroup": options.split(",")}.get(kind, [])
            for name in names:
                if name in own:
                    path = os.path.relpath(own[name], root)
                    places[name] = (2 if kind == "cgroup2" else 1, os.path.normpath(os.path.join(mount, path)))
    return places


def delegate() -> None:
    """Let what is below our own group of version 2 have limits, where it was delegated to us (systemd: Delegate=yes).

    A group with processes in it hands no controllers down, so they go into one below: the server, and what it started.
    """
    version, folder = mounts().get("unified", (0, ""))
    with contextlib.suppress(OSError):
        missing = {"memory", "pids"} & _words(folder, "cgroup.controllers") - _words(folder, "cgroup.subtree_control")
        if not version or not missing or os.stat(folder).st_uid != os.geteuid():
            return
        if not os.path.exists(os.path.join(folder, "cgroup.type")):  # the root: it may have processes of its own
            return
        there = _words(folder, "cgroup.procs")
        if not there <= {"1", str(os.getpid())}:  # somebody's session, which is not ours to rearrange
            return
        inner = os.path.join(folder, "mlbox-server")
        os.makedirs(inner, exist_ok=True)
        for pid in there:
            _write(inner, "cgroup.procs", pid)
        _write(folder, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def name_of(pid: int, start: int) -> str:
    """What the group is called in which a shim runs its attempts, one after the other."""
    return f"{PREFIX}{pid}-{start}"


class Group:
    """The group of an attempt, in as many hierarchies as it takes; without a name, in none.

    To make one and to remove it costs the kernel more than all that a short attempt does, so the next attempt that may hold as
    much has it, too, if the last one left nothing in it.
    """

    def __init__(self, name: str, memory_bytes: int, places: Places) -> None:
        self.memory_bytes = memory_bytes
        self._ended_for_memory = 0
        """How many of its processes the kernel has killed for want of memory."""
        self._folders: list[str] = []
        self._home = places.get("unified", (2, ""))[1]
        self._unified = ""
        self._memory = ""
        self._version = 1
        places = places if name else {}
        if "unified" in places and not _writable(places, LIMITS[1]):
            self._unified = self._make(os.path.join(_base(places["unified"][1]), name))
        for controller, limit in (("memory", memory_bytes), ("pids", MOST_PROCESSES)):
            folder = self._limit(controller, limit, name, places)
            if controller == "memory":
                self._memory = folder
                self._version = 2 if folder == self._unified else 1

    @property
    def kills(self) -> bool:
        """Whether all of it can be killed at once (Linux 5.14 and newer)."""
        return bool(self._unified) and os.path.exists(os.path.join(self._unified, "cgroup.kill"))

    @property
    def bounds_memory(self) -> bool:
        """Whether the kernel holds it to its memory."""
        return bool(self._memory)

    def _make(self, folder: str) -> str:
        try:
            os.mkdir(folder)
        except FileExistsError:
            pass
        except OSError:
            return ""
        self._folders.append(folder)
        return folder

    def _limit(self, controller: str, limit: int, name: str, places: Places) -> str:
        """Bound something; the folder that does, or nothing."""
        folder, version = self._unified, 2
        if not folder or not os.path.exists(os.path.join(folder, LIMITS[2][controller])):
            version, above = places.get(controller, (0, ""))
            if version != 1 or not (folder := self._make(os.path.join(above, name))):
                return ""
        try:
            _write(folder, LIMITS[version][controller], str(limit))
        except OSError:
            return ""
        if controller == "memory":  # no way out into the swap, where it is counted
            with contextlib.suppress(OSError):
                _write(
                    folder, *(("memory.swap.max", "0") if version == 2 else ("memory.memsw.limit_in_bytes", str(limit)))
                )
        return folder

    def join(self) -> None:
        """Put the calling thread in, and with it all that will come from it; in version 2 its whole process has to go along."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                _write(folder, "cgroup.procs" if folder == self._unified else "tasks", "0")

    def leave(self) -> None:
        """Out again, after a thread has joined: what it started stays in."""
        if self._unified:
            with contextlib.suppress(OSError):
                _write(self._home, "cgroup.procs", "0")

    def kill(self) -> None:
        """Kill all at once, where that can be done."""
        if self.kills:
            with contextlib.suppress(OSError):
                _write(self._unified, "cgroup.kill", "1")

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed one of its processes for want of memory since this was asked the last time."""
        if not self._memory:
            return False
        with contextlib.suppress(OSError):
            counts = _read(self._memory, USED[self._version][1])
            at = counts.rfind("oom_kill ")  # older kernels do not count them
            before, self._ended_for_memory = self._ended_for_memory, int(counts[at + 9 :].split()[0]) if at >= 0 else 0
            return self._ended_for_memory > before
        return False

    @property
    def is_clean(self) -> bool:
        """Whether next to nothing is charged to it: what is left in memory, as files in /dev/shm, would be the next one's."""
        if not self._memory:
            return True
        with contextlib.suppress(OSError):
            return int(_read(self._memory, USED[self._version][0])) <= min(MOST_LEFT, self.memory_bytes // 2)
        return False

    def remove(self) -> None:
        """Remove it, once nothing lives in it."""
        _remove(self._folders)


def sweep(lives: Callable[[int, int], bool]) -> None:
    """Remove the groups of shims that were killed between two attempts; `lives` tells of a process id and its start."""
    for folder in {os.path.dirname(folder) for folder in _folders_of("")}:
        for name in os.listdir(folder):
            pid, _, start = name.removeprefix(PREFIX).partition("-")
            if name.startswith(PREFIX) and pid.isdigit() and start.isdigit() and not lives(int(pid), int(start)):
                with contextlib.suppress(OSError):  # something is left in it: it is found with its attempt
                    os.rmdir(os.path.join(folder, name))


def members(name: str) -> list[int]:
    """The processes in the group of an attempt whose shim is gone."""
    found: set[int] = set()
    for folder in _folders_of(name):
        with contextlib.suppress(OSError):
            found.update(map(int, _words(folder, "cgroup.procs")))
    return sorted(found)


def kill(name: str) -> None:
    """Kill all in such a group at once, where that can be done."""
    for folder in _folders_of(name):
        if os.path.exists(os.path.join(folder, "cgroup.kill")):
            with contextlib.suppress(OSError):
                _write(folder, "cgroup.kill", "1")


def remove(name: str) -> None:
    """Remove such a group, once nothing lives in it."""
    _remove(_folders_of(name))


def _folders_of(name: str) -> list[str]:
    folders = [
        os.path.join(_base(above) if controller == "unified" else above, name)
        for controller, (_, above) in mounts().items()
        if controller in ("unified", *LIMITS[1])
    ]
    return [folder for folder in folders if os.path.isdir(folder)]


def _remove(folders: list[str]) -> None:
    """The kernel may take a moment to see that nothing lives in them."""
    end = time.monotonic() + GONE_SECONDS
    for folder in folders:
        while os.path.isdir(folder):
            try:
                os.rmdir(folder)
            except OSError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.01)


def _writable(places: Places, controllers: Iterable[str]) -> bool:
    """Whether groups of version 1 can be made for all of these."""
    found = [places.get(controller, (0, "")) for controller in controllers]
    return all(version == 1 and os.access(folder, os.W_OK) for version, folder in found)


def _base(folder: str) -> str:
    """Where jobs' groups are: beside the server's own, if it was put into one."""
    return os.path.dirname(folder) if os.path.basename(folder) == "mlbox-server" else folder


def _words(folder: str, file: str) -> set[str]:
    return set(_read(folder, file).split())


def _read(folder: str, file: str) -> str:
    """The whole of a file of the kernel's; without Python's layers, which cost a shim more than the rest of it."""
    source = os.open(f"{folder}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(source, READ_BYTES).decode()
    finally:
        os.close(source)


def _write(folder: str, file: str, text: str) -> None:
    target = os.open(f"{folder}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(target, text.encode())
    finally:
        os.close(target)
