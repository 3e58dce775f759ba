"""Backups: a copy of a data directory that is made while it is served, proven, and put into an empty folder again.

Invariants
- Each store is copied as it was at one moment: SQLite by its own backup, DuckDB after a checkpoint while nobody writes to it,
  files that never change under a name (artifacts, Parquet) as hard links where the disk is the same.
- A store is copied before what it refers to, so that nothing in the copy names what is not in it.
- `manifest.json` is written last and has the SHA-256 of every file: a folder without it is no backup.
- Keys and the first token stay out (see `keyfile`), and what the server can make again: environments, uploads under way.
- A restored folder becomes a data directory with its last file, so that one that was cut short is refused by `mlbox serve`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from mlbox import __version__
from mlbox.clock import Clock
from mlbox.errors import Conflict, InvalidInput, NotFound, Unavailable, said
from mlbox.records import Backup
from mlbox.store.datadir import LAYOUT_VERSION, sync_folder, write_atomic
from mlbox.store.offline.offline import Offline

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VERSION = "MLBOX_VERSION"
HEADS = "audit-heads"
_ORDER = ("monitoring", "registry", "jobs", "tracking", "datasets", "features", "secrets", "access")
"""Databases, each before those that it refers to."""
ARTIFACTS = "artifacts"
_NOT = frozenset(("lock", "admin-token"))
_NOT_ENDING = (".wal", "-wal", "-shm", ".tmp")
_CHUNK = 1 << 20
_PASSES = 20


class Content(msgspec.Struct, frozen=True):
    """One file of a backup."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is, and every file in it by its path."""

    made_at: datetime
    release: str
    layout: int
    files: dict[str, Content]


class Backups:
    """Makes backups of one served data directory in one folder."""

    def __init__(
        self, root: Path, folder: Path, offline: Offline, clock: Clock, *, keep_of_job: Callable[[Path], bool]
    ) -> None:
        self._root = root
        self._keep_of_job = keep_of_job
        """Whether a file of a job's folder is kept, by its path in there."""
        self._folder = folder
        self._offline = offline
        self._clock = clock
        self._lock = threading.Lock()

    def all(self) -> list[Backup]:
        """Those that are whole, the newest first."""
        found = sorted(self._folder.glob(f"*/{MANIFEST}"), reverse=True)
        return [_told(path.parent, _manifest(path.parent)) for path in found]

    def make(self) -> Backup:
        """Copy everything as it is now; raises Conflict while another is made, Unavailable where the disk will not take it."""
        if not self._lock.acquire(blocking=False):
            raise Conflict("A backup is being made.", hint="Wait until it is there: `mlbox backup ls`.")
        try:
            return self._make()
        except (OSError, sqlite3.Error, subprocess.CalledProcessError) as err:
            raise Unavailable(
                f"The backup was not made: {said(err)}.", hint="Check the disk that the setting backup_dir names."
            ) from err
        finally:
            self._lock.release()

    def _make(self) -> Backup:
        now = self._clock.real()
        former = next((Path(backup.path) for backup in self.all()), None)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for cut_short in self._folder.glob(".*.part"):
            shutil.rmtree(cut_short)
        target = self._folder / f"{now:%Y%m%dT%H%M%S.%fZ}"
        part = target.with_name(f".{target.name}.part")
        part.mkdir(mode=0o700)
        try:
            self._copy(part, former)
            manifest = Manifest(made_at=now, release=__version__, layout=LAYOUT_VERSION, files=_contents(part))
            write_atomic(part / MANIFEST, msgspec.json.encode(manifest))
            part.rename(target)
            sync_folder(self._folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return _told(target, manifest)

    def _copy(self, target: Path, former: Path | None) -> None:
        shutil.copy2(self._root / VERSION, target / VERSION)
        if (self._root / HEADS).exists():  # before the logs, which may be longer than a head says, and not shorter
            shutil.copytree(self._root / HEADS, target / HEADS)
        known = [name for name in _ORDER if (self._root / f"{name}.sqlite").exists()]
        others = {path.stem for path in self._root.glob("*.sqlite")} - set(known)
        for name in (*sorted(others), *known):
            _copy_sqlite(self._root / f"{name}.sqlite", target / f"{name}.sqlite")
        self._copy_features(target)
        _copy_kept(self._root / "jobs", target / "jobs", self._keep_of_job)
        _link_all(self._root / "predictions", target / "predictions", None, settled=True)
        _link_all(self._root / ARTIFACTS, target / ARTIFACTS, former and former / ARTIFACTS, settled=False)
        for path in self._root.iterdir():
            known_already = path.name in _NOT or path.name.endswith(_NOT_ENDING) or (target / path.name).exists()
            if path.is_file() and not known_already:
                shutil.copy2(path, target / path.name)

    def _copy_features(self, target: Path) -> None:
        if self._offline.used:
            self._offline.copy_to(target)
        cache = self._root / "online" / "cache.db"
        if cache.exists():
            (target / "online").mkdir()
            _copy_sqlite(cache, target / "online" / "cache.db")


def verify(folder: Path) -> Backup:
    """Read every file of a backup and compare it with the manifest; raises NotFound and Conflict."""
    manifest = _manifest(folder)
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    for name in sorted(manifest.files.keys() | present):
        if name not in manifest.files:
            raise Conflict(f"{name} is in the backup {folder} and not in its manifest.", hint="Use another backup.")
        _check(name, _digest(folder / name) if name in present else None, manifest, folder)
    return _told(folder, manifest)


def restore(folder: Path, target: Path) -> Backup:
    """Copy a backup into a new or empty folder, comparing each file on its way."""
    manifest = _manifest(folder)
    if manifest.layout > LAYOUT_VERSION:
        raise Conflict(f"{folder} is of a newer mlbox, {manifest.release}.", hint="Restore it with that release.")
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(target.iterdir()):
            raise InvalidInput(f"{target} is not empty.", hint="Name a new folder.", field="data_dir")
        for name in sorted(manifest.files, key=lambda name: name == VERSION):
            copy = _inside(target, name)
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check(name, _copied(folder / name, copy), manifest, folder)
        for place in (target, *(path for path in target.rglob("*") if path.is_dir())):
            sync_folder(place)
    except OSError as err:
        raise Unavailable(
            f"{err.filename or target} could not be restored: {said(err)}.", hint="Remove the folder and try again."
        ) from err
    return _told(folder, manifest)


def _inside(target: Path, name: str) -> Path:
    if name.startswith("/") or ".." in Path(name).parts:
        raise Conflict(f"The manifest names {name!r}, which is outside of the backup.", hint="Use another backup.")
    return target / name


def _check(name: str, found: Content | None, manifest: Manifest, folder: Path) -> None:
    if found is None:
        raise Conflict(f"{name} is missing from the backup {folder}.", hint="Use another backup.")
    if found != manifest.files[name]:
        raise Conflict(f"{name} is not what it was when the backup {folder} was made.", hint="Use another backup.")


def _manifest(folder: Path) -> Manifest:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as err:
        raise NotFound(f"{folder} is no backup: {said(err)}.", hint="`mlbox backup ls` lists them.") from err
    except msgspec.DecodeError as err:
        raise Conflict(f"The manifest of {folder} is damaged: {said(err)}.", hint="Use another backup.") from err


def _told(folder: Path, manifest: Manifest) -> Backup:
    return Backup(
        name=folder.name,
        path=str(folder.resolve()),
        made_at=manifest.made_at,
        release=manifest.release,
        files=len(manifest.files),
        size=sum(content.size for content in manifest.files.values()),
    )


# -- copying ----------------------------------------------------------------------------------------------------------


def _copy_sqlite(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as reader, contextlib.closing(sqlite3.connect(target)) as copy:
        reader.backup(copy)


def _copy_kept(source: Path, target: Path, kept: Callable[[Path], bool]) -> None:
    """Copy the files that are to be kept; what is removed meanwhile is left out, and so is what is no file of its own.

    The folders are written by jobs, which may put a link in the place of anything at any moment: none is followed.
    """
    if not source.exists():  # a box that never ran a job
        return
    for folder, _, names, at in os.fwalk(source):
        for name in names:
            relative = Path(folder, name).relative_to(source)
            if kept(relative):
                _copy_own(name, at, target / relative)


def _copy_own(name: str, at: int, copy: Path) -> None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            _log.warning("%s is not in the backup: %s", copy, said(err))
        return
    with open(descriptor, "rb") as reader:
        told = os.fstat(descriptor)
        if not stat.S_ISREG(told.st_mode):
            return
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
    os.utime(copy, ns=(told.st_atime_ns, told.st_mtime_ns))
    copy.chmod(stat.S_IMODE(told.st_mode) & 0o777)


def _link_all(source: Path, target: Path, former: Path | None, *, settled: bool) -> None:
    """Link, or copy, files that never change under their name; if `settled`, until what is there is what was linked.

    A merge replaces several files by one, so that a listing of one moment alone would miss rows, or have them twice.
    """
    linked: set[Path] = set()
    for _ in range(_PASSES if settled else 1):
        there = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
        there = {path for path in there if path.parts[0] != "tmp" and not any(p.startswith(".") for p in path.parts)}
        if there == linked:
            return
        for gone in linked - there:
            (target / gone).unlink()
        linked &= there
        for new in there - linked:
            (target / new).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                _link(source / new, target / new, former and former / new)
                linked.add(new)
    if settled:
        raise OSError(f"files in {source} came and went too quickly")


def _link(path: Path, copy: Path, former: Path | None) -> None:
    for one in (path, former):
        with contextlib.suppress(OSError):  # another disk, or one that has no hard links
            if one is not None:
                os.link(one, copy)
                return
    shutil.copy2(path, copy)


def _copied(source: Path, target: Path) -> Content | None:
    """Copy a file, on disk; what was read of it, or None where there is none."""
    if not source.is_file():
        return None
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as copy:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    shutil.copymode(source, target)
    return Content(size, digest.hexdigest())


def _digest(path: Path) -> Content:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Content(file.tell(), digest)


def _contents(folder: Path) -> dict[str, Content]:
    """Each file of a backup that is being made; when this returns, all of them are on disk."""
    found: dict[str, Content] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        name = str(path.relative_to(folder))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        of_name = path.parent.name + path.name
        is_named = (
            name.startswith(f"{ARTIFACTS}/") and len(of_name) == 64
        )  # by its content: it is read when it is verified
        found[name] = Content(path.stat().st_size, of_name) if is_named else _digest(path)
    sync_folder(folder)
    return found
