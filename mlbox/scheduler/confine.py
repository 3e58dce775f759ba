"""Confinement: a command that reaches the files it is meant to, and no others. Landlock, which needs no privileges.

The standard library alone: the shim loads this file by its path, and the child that is to become the command confines itself.

Landlock's rules only allow, and what is below an allowed folder is allowed with it. To leave out the data directory, the plan
therefore allows everything beside the way from / to it, and of what is inside only what is named. A folder on that way cannot be
listed by a job, and what appears in it later cannot be reached; the next attempt can.

Sources: Linux, Documentation/userspace-api/landlock.rst; capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls; the numbers are the same on every architecture."""
VERSION_FLAG, PATH_BENEATH = 1, 1
NO_NEW_PRIVS, CAPBSET_DROP = 38, 24
MOST_CAPABILITIES = 64

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""Every right over files that a version knows; later versions add rights over devices' controls and the network."""
SCOPES = 0b11
"""From version 6: no signal to, and no abstract socket of, what is outside."""

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
    shut = {os.path.normpath(path) for path in closed}
    kept = shut | {os.path.normpath(path) for path in fixed}
    rules = dict.fromkeys(_beside("/", shut, children), READ)
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


def apply(rules: dict[str, int], abi: int) -> None:
    """Confine this process and all that come from it; raises OSError."""
    libc = _libc()
    rights = ALL[min(abi, 3)]
    attributes = struct.pack("=QQQ", rights, 0, SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _call(libc.syscall, CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for path, wanted in rules.items():
        _allow(libc, ruleset, path, wanted & rights)
    _call(libc.prctl, NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:  # root without capabilities is bound by the owners and modes of files, as others are
        for capability in range(MOST_CAPABILITIES):
            libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    _call(libc.syscall, RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(libc: Any, ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone since it was listed, or not ours to open: then it stays closed
        return
    try:
        mode = os.fstat(opened).st_mode
        if stat.S_ISLNK(mode):  # a way to what is allowed, or not, where it is
            return
        if not stat.S_ISDIR(mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, opened)
        if rights:
            arguments = (ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
            _call(libc.syscall, ADD_RULE, *arguments)
    finally:
        os.close(opened)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *arguments: Any) -> int:
    found: int = function(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


def confine(asked: dict[str, Any]) -> None:
    """Confine this process, and all that comes from it, as the isolation says; raises OSError."""
    writable = [*WRITABLE, *devices(), *asked["writable"]]
    rules = plan([*asked["closed"], "/dev"], asked["fixed"], writable, names_in, asked["readable"], asked["runnable"])
    apply(rules, version())
