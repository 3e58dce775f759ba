"""Mounts: the files of the dataset versions that a job named, laid out for it to read, and proven to be what they were.

`lay` runs in the shim, before the command, loaded by path, with the standard library alone: so neither hashing nor copying
holds up the scheduler. A file is a hard link where the job cannot write to it, because it is confined or because its user is
not the superuser; else a copy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

CHUNK_BYTES = 1 << 20
THREADS = 4


class Stopped(Exception):
    """The job was stopped before its command began."""


def lay(files: list[dict[str, str]], stop: Callable[[], bool], *, link: bool) -> str:
    """Put each file in its place; what is wrong, in words, or nothing. Raises Stopped."""

    def place(file: dict[str, str]) -> str:
        try:
            return _place(file, stop, link=link)
        except OSError as err:
            return f"{file['name']} cannot be mounted: {err}"

    from concurrent.futures import ThreadPoolExecutor  # imported late: most shims have nothing to mount

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        wrong = [said for said in pool.map(place, files) if said]
    return wrong[0] if wrong else ""


def _place(file: dict[str, str], stop: Callable[[], bool], *, link: bool) -> str:
    source, target = file["source"], file["target"]
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        os.unlink(target)
    if link:
        try:
            os.link(source, target)
            return _damage(file, _digest(target, stop))
        except OSError as err:
            if isinstance(err, FileNotFoundError):
                raise
    return _damage(file, _copy(source, target, stop))  # another file system, or one without links


def _damage(file: dict[str, str], found: str) -> str:
    if found == file["sha256"]:
        return ""
    return f"{file['name']} is damaged: it has not the hash that it is known by. Restore it from a backup"


def _digest(path: str, stop: Callable[[], bool]) -> str:
    with open(path, "rb") as file:
        return _through(file, None, stop)


def _copy(source: str, target: str, stop: Callable[[], bool]) -> str:
    with open(source, "rb") as file, open(target, "wb") as copy:
        found = _through(file, copy, stop)
        os.fchmod(copy.fileno(), 0o440)
    return found


def _through(file: Any, copy: Any, stop: Callable[[], bool]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        if stop():
            raise Stopped
        digest.update(chunk)
        if copy is not None:
            copy.write(chunk)
    return digest.hexdigest()
