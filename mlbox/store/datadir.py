"""The data directory: one folder, one lock, one version file.

Invariants
- Two servers never share a directory: an exclusive `flock` on `lock` is held while it is open.
- A directory of a newer version is refused; one of an older version is snapshotted before anything is migrated.
- A directory that already holds something else is refused, never adopted.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

import msgspec

from mlbox.clock import Clock, ReplayClock, SystemClock, from_us, parse_time, to_us
from mlbox.errors import StartupError

LAYOUT_VERSION = 2
"""Raised by one whenever a migration is added."""
BEFORE = frozenset(("lock", "keys", "lost+found"))
"""What may be there before the first start: our lock, keys that an operator laid there, and what a new disk begins with."""


class _Manifest(msgspec.Struct):
    layout: int
    replay_us: int | None = None


class DataDir:
    """An opened and locked data directory."""

    def __init__(self, root: Path, *, replay_clock: str = "") -> None:
        self.root = root
        self._lock_fd = self._lock(root)
        try:
            self.fresh = not self._manifest_path.exists()
            self._manifest = self._start(replay_clock) if self.fresh else self._resume(replay_clock)
        except BaseException:
            self.close()
            raise

    @property
    def _manifest_path(self) -> Path:
        return self.root / "MLBOX_VERSION"

    @staticmethod
    def _lock(root: Path) -> int:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise StartupError(
                f"The data directory {root} cannot be used: {err.strerror}.",
                hint="Give a folder that you may write with --data-dir.",
            ) from err
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(fd)
            raise StartupError(
                f"The data directory {root} is in use by another mlbox server.",
                hint="Stop that server, or give another --data-dir.",
            ) from err
        return fd

    def _start(self, replay_clock: str) -> _Manifest:
        strangers = sorted(p.name for p in self.root.iterdir() if p.name not in BEFORE)
        if strangers:
            raise StartupError(
                f"The folder {self.root} is not a data directory of mlbox: it holds {strangers[0]!r}.",
                hint="Give an empty or a new folder with --data-dir.",
            )
        manifest = _Manifest(layout=LAYOUT_VERSION)
        if replay_clock:
            manifest.replay_us = to_us(parse_time(replay_clock, field="replay_clock"))
        self._write(manifest)
        write_atomic(self.root / ".gitignore", b"*\n")  # a box's data and its admin's token belong in no repository
        return manifest

    def _resume(self, replay_clock: str) -> _Manifest:
        try:
            manifest = msgspec.json.decode(self._manifest_path.read_bytes(), type=_Manifest)
        except (OSError, msgspec.DecodeError) as err:
            raise StartupError(
                f"{self._manifest_path} cannot be read: {err}.", hint="Restore the file from a backup."
            ) from err
        if manifest.layout > LAYOUT_VERSION:
            raise StartupError(
                f"The data directory {self.root} was written by a newer mlbox (layout {manifest.layout}, this one knows "
                f"{LAYOUT_VERSION}).",
                hint="Install that release again, or restore a snapshot of this one.",
            )
        if replay_clock and manifest.replay_us is None:
            raise StartupError(
                f"The data directory {self.root} already runs on real time.",
                hint="--replay-clock is for a new data directory.",
            )
        if manifest.layout < LAYOUT_VERSION:
            self._snapshot(manifest.layout)
            manifest.layout = LAYOUT_VERSION
            self._write(manifest)
        return manifest

    def _snapshot(self, layout: int) -> None:
        """Copy every SQLite file aside, consistently, before its migrations run."""
        target = self.root / "snapshots" / f"layout-{layout}"
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.root.glob("*.sqlite")):
            source, copy = sqlite3.connect(path), sqlite3.connect(target / path.name)
            with source, copy:
                source.backup(copy)
            source.close()
            copy.close()

    def _write(self, manifest: _Manifest) -> None:
        write_atomic(self._manifest_path, msgspec.json.encode(manifest))

    def clock(self) -> Clock:
        """The clock that this directory was started with; a replayed one remembers how far it was advanced."""
        if self._manifest.replay_us is None:
            return SystemClock()
        return _PersistentReplay(self)

    def close(self) -> None:
        """Release the lock."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


class _PersistentReplay(ReplayClock):
    """A replay clock whose moment is on disk before it is answered."""

    def __init__(self, home: DataDir) -> None:
        super().__init__(from_us(home._manifest.replay_us or 0))
        self._home = home

    def _moved(self) -> None:
        manifest = self._home._manifest
        manifest.replay_us = to_us(self.now())
        self._home._write(manifest)


def write_atomic(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file so that after a crash it is whole: the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in this folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
