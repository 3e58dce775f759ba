"""Confinement: a command that reaches the files it is meant to, and no others. Landlock, which needs no privileges.

The standard library alone: the shim loads this file by its path, and the thread that is to start the command confines itself.

Landlock's rules only allow, and what is below an allowed folder is allowed with it. To leave out the data directory, the plan
therefore allows everything beside the way from / to it, and of what is inside only what is named. A folder on that way cannot be
listed by a job, and what appears in it later cannot be reached; the next attempt can.

Sources: Linux, Documentation/userspace-api/landlock.rst; capabilities(7).
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import select
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls; the numbers are the same on every architecture."""
VERSION_FLAG, PATH_BENEATH = 1, 1
NO_NEW_PRIVS, SET_SECUREBITS, CAP_AMBIENT, CLEAR_ALL = 38, 28, 47, 4
NOROOT = 0b11
"""To be root gives no capabilities at the start of a program, and that is locked."""

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""Every right over files that a version knows; later versions add rights over devices' controls and the network."""
SCOPES = 0b11
"""From version 6: no signal to, and no abstract socket of, what is outside."""

MOST_OPEN = 600
"""Paths of shared rules that are kept open: a process may have 1,024 files."""
FIRST_OPEN = 300
"""They have the numbers from here on, if they are free: then a shim closes them all with one call."""
RULE = struct.Struct("=Qi")
"""Rights, and the file that they are for."""
SURE_NS = 100_000_000
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "stdin", "stdout", "stderr")
DEVICE_PREFIXES = ("nvidia", "dri", "kfd", "infiniband")
"""GPUs and their network; no disks, no memory."""
WRITABLE = ("/tmp", "/var/tmp", "/proc", "/run/lock")  # noqa: S108 (these very folders, for what programs expect there)


def version() -> int:
    """Landlock's version in this kernel; 0 where it is missing or switched off."""
    found: int = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    return max(0, found)


def plan(
    closed: Iterable[str],
    fixed: Iterable[str],
    writable: Iterable[str],
    children: Callable[[str], Sequence[str]],
    readable: Iterable[str] = (),
    runnable: Iterable[str] = (),
) -> dict[str, int]:
    """Rights by path: everything may be read but what is closed, and what is writable be written but what is fixed.

    Pure: `children` tells the names in a folder. A readable or writable path inside a closed one is open all the same; of a
    runnable one programs may be run, too.
    """
    closed = set(closed)
    everyones = dict.fromkeys(_beside("/", set(map(os.path.normpath, closed)), children), READ)
    return everyones | beyond(closed, fixed, writable, children, readable, runnable)


def beyond(
    closed: Iterable[str],
    fixed: Iterable[str],
    writable: Iterable[str],
    children: Callable[[str], Sequence[str]],
    readable: Iterable[str] = (),
    runnable: Iterable[str] = (),
) -> dict[str, int]:
    """What a plan has beside what everyone may read."""
    shut = {os.path.normpath(path) for path in closed}
    kept = shut | {os.path.normpath(path) for path in fixed}
    rules: dict[str, int] = {}
    rules |= {path: READ_FILE | READ_DIR for path in map(os.path.normpath, readable) if _inside(path, shut)}
    rules |= {path: READ for path in map(os.path.normpath, runnable) if _inside(path, shut)}
    for path in map(os.path.normpath, writable):
        if _inside(path, shut):
            rules[path] = ALL[3]
        elif not _inside(path, kept):
            rules |= dict.fromkeys(_beside(path, kept, children), ALL[3])
    return rules


def _inside(path: str, folders: set[str]) -> bool:
    return any(path == folder or is_below(path, folder) for folder in folders)


def _beside(folder: str, shut: set[str], children: Callable[[str], Sequence[str]]) -> Iterator[str]:
    """The paths that together are all of a folder but what is shut."""
    if folder in shut:
        return
    if not any(is_below(path, folder) for path in shut):
        yield folder
        return
    for name in children(folder):
        yield from _beside(os.path.join(folder, name), shut, children)


def is_below(path: str, folder: str) -> bool:
    """True for a path in a folder or in one below it."""
    return path.startswith(folder.rstrip("/") + "/")


def names_in(folder: str) -> list[str]:
    """The entries of a folder; none of one that cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def devices() -> list[str]:
    """What a job has use for in /dev."""
    names = [name for name in names_in("/dev") if name in DEVICES or name.startswith(DEVICE_PREFIXES)]
    return [os.path.join("/dev", name) for name in names]


def apply(rules: dict[str, int], abi: int, opened: Iterable[bytes] = ()) -> None:
    """Confine this thread and all that come from it; raises OSError. `opened` are rules whose paths are open."""
    libc = _libc()
    rights = ALL[min(abi, 3)]
    attributes = struct.pack("=QQQ", rights, 0, SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _call(libc.syscall, CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    add = _adder(libc, ruleset)
    for rule in opened:
        add(rule)
    for path, wanted in rules.items():
        file, rule = _open(path, wanted & rights)
        if rule:
            add(rule)
        if file >= 0:
            os.close(file)
    _call(libc.prctl, NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:  # root without capabilities is bound by the owners and modes of files, as others are
        libc.prctl(SET_SECUREBITS, NOROOT, 0, 0, 0)  # and gets none back, since there are no new privileges
        libc.prctl(CAP_AMBIENT, CLEAR_ALL, 0, 0, 0)
    _call(libc.syscall, RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _open(path: str, rights: int) -> tuple[int, bytes]:
    """A path, opened, and the rule about it; no file where it cannot be, and no rule where there is none."""
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone since it was listed, or not ours to open: then it stays closed
        return -1, b""
    mode = os.fstat(file).st_mode
    if not stat.S_ISDIR(mode):  # a link is a way to what is allowed, or not, where it is
        rights &= 0 if stat.S_ISLNK(mode) else OF_FILES
    return file, RULE.pack(rights, file) if rights else b""


def _adder(libc: Any, ruleset: int) -> Callable[[bytes], object]:
    """Adds a rule. There may be hundreds of them for each attempt, so what they have in common is made once."""
    call, number = libc.syscall, ctypes.c_long(ADD_RULE)
    into, kind, flags = ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), ctypes.c_uint32(0)
    return lambda rule: _call(call, number, into, kind, rule, flags)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *arguments: Any) -> int:
    found: int = function(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


class Ground:
    """The rules that all attempts of a server share, with their paths open: made once for attempts that follow one another.

    They are made anew as soon as a folder that was listed for them, or what is mounted, has changed. What is open keeps a file
    system from being unmounted, so whoever has nothing to start any more lets it `rest`.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self.rules: list[bytes] = []
        """None where they are not ready, or too many to be kept open: then each attempt makes its own."""
        self._files: list[int] = []
        self._listed: dict[str, int] = {}
        """When each folder that was listed had changed for the last time."""
        self._made_at = 0
        self._mountinfo = -1
        self.forked()

    def forked(self) -> None:
        """In a child: what is told of mounts is told once to each file that was opened for it."""
        if self._mountinfo >= 0:
            os.close(self._mountinfo)
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._mounts = select.poll()
        self._mounts.register(self._mountinfo, select.POLLPRI)

    def prepare(self) -> None:
        """Make the rules, where they are not what they would be now."""
        mounted = bool(self._mounts.poll(0))
        if self.rules and not mounted and self._is_current():
            return
        self.rest()
        self._made_at, self._listed = time.time_ns(), {}
        self._changed("/dev")
        closed, writable = [*self._asked["closed"], "/dev"], [*WRITABLE, *devices(), *self._asked["writable"]]
        rules = plan(closed, self._asked["fixed"], writable, self._names_in)
        if len(rules) > MOST_OPEN:
            return
        rights = ALL[min(version(), 3)]
        for path, wanted in rules.items():
            file, rule = _open(path, wanted & rights)
            if rule:
                self._files.append(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, FIRST_OPEN))
                self.rules.append(RULE.pack(RULE.unpack(rule)[0], self._files[-1]))
            if file >= 0:
                os.close(file)

    def rest(self) -> None:
        """Close what is open."""
        files, self._files, self.rules = self._files, [], []
        if files and files[-1] - files[0] == len(files) - 1:
            os.closerange(files[0], files[-1] + 1)
        else:
            for file in files:
                os.close(file)

    def _names_in(self, folder: str) -> list[str]:
        self._changed(folder)  # looked at first: what is made while it is listed is seen the next time
        return names_in(folder)

    def _changed(self, folder: str) -> None:
        self._listed[folder] = _changed_at(folder)

    def _is_current(self) -> bool:
        """Whether no folder has changed; one that had just changed may have again, unseen, in the same tick of the clock."""
        sure = self._made_at - SURE_NS
        return all(at < sure and _changed_at(folder) == at for folder, at in self._listed.items())


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder).st_ctime_ns
    except OSError:
        return 0


def confine(asked: dict[str, Any], ground: Ground | None = None) -> None:
    """Confine this thread, and all that comes from it, as the isolation says; raises OSError."""
    closed, more = [*asked["closed"], "/dev"], (names_in, asked["readable"], asked["runnable"])
    if ground is not None and ground.rules:
        apply(beyond(closed, asked["fixed"], asked["own"], *more), version(), ground.rules)
        return
    writable = [*WRITABLE, *devices(), *asked["writable"], *asked["own"]]
    apply(plan(closed, asked["fixed"], writable, *more), version())
