"""Artifacts: content-addressed files that are on disk before anyone hears of them.

A file's name is the SHA-256 of its content, so the same content is kept once and can be proven. It is written to a temporary
name, fsynced, renamed, and its folder fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mlbox.errors import InvalidInput, MlboxError, NotFound, TooLarge, Unavailable
from mlbox.store.datadir import sync_folder

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """A disk that fails is this store's fault, by name, and not the request's."""
    try:
        yield
    except OSError as err:
        raise Unavailable(
            f"The artifacts store could not write: {err.strerror or err}.",
            hint="Check the disk that holds the data directory.",
        ) from err


class ArtifactWriter:
    """One upload: write chunks, then commit or abort."""

    def __init__(self, root: Path, limit: int | None, setting: str, lock: threading.Lock) -> None:
        self._root = root
        self._lock = lock
        self._limit = limit
        self._setting = setting
        self._hash = hashlib.sha256()
        self._size = 0
        with _writing():
            fd, name = tempfile.mkstemp(dir=root / "tmp")
        self._temporary = Path(name)
        self._file = os.fdopen(fd, "wb")

    def write(self, chunk: bytes) -> None:
        """Add bytes; raises TooLarge, and drops what was written, past the limit."""
        self._size += len(chunk)
        if self._limit is not None and self._size > self._limit:
            self.abort()
            raise TooLarge(
                f"The upload is larger than {self._limit:,} bytes.",
                hint=f"Split it, or raise the setting {self._setting}.",
                field=self._setting,
            )
        self._hash.update(chunk)
        with _writing():
            self._file.write(chunk)

    def flush(self) -> None:
        """Hand what is buffered to the disk's cache: a full disk says so here."""
        with _writing():
            self._file.flush()

    def commit(self) -> tuple[str, int]:
        """Put the file in its place, on disk; its SHA-256 and size in bytes."""
        digest = self._hash.hexdigest()
        target = self._root / digest[:2] / digest[2:]
        with _writing():
            self._file.flush()
            is_new = not target.exists()  # what is there is on disk
            if is_new:
                os.fsync(self._file.fileno())
            self._place(target, synced=is_new)
            self._file.close()
        return digest, self._size

    def _place(self, target: Path, *, synced: bool) -> None:
        with self._lock:
            if not target.exists() and not synced:  # it was removed meanwhile
                os.fsync(self._file.fileno())
            if target.exists():
                os.utime(target)
                self._temporary.unlink()
            else:
                target.parent.mkdir(exist_ok=True)
                self._temporary.chmod(0o440)
                self._temporary.rename(target)
        # Also for content that was there: whoever put it there may not have come to this yet, or was killed before it.
        for folder in (target.parent, self._root):
            sync_folder(folder)

    def abort(self) -> None:
        """Forget the upload."""
        with contextlib.suppress(OSError):  # closing writes what is buffered, which a full disk refuses again
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class Artifacts:
    """A folder of content-addressed files."""

    def __init__(self, root: Path) -> None:
        root = root.resolve()  # its paths go to processes that run elsewhere
        self.root = self._root = root
        self._lock = threading.Lock()
        """Held while a file is put in its place, told to be in use, or removed."""
        temporary = root / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        for left_over in temporary.iterdir():
            left_over.unlink()

    def writer(self, limit: int | None = None, *, setting: str = "max_artifact") -> ArtifactWriter:
        """Begin an upload of at most `limit` bytes, which is what a setting says."""
        return ArtifactWriter(self._root, limit, setting, self._lock)

    def put(self, chunks: Iterable[bytes], *, limit: int | None = None) -> tuple[str, int]:
        """Keep the chunks as one file; its SHA-256 and size in bytes."""
        writer = self.writer(limit)
        try:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()
        except BaseException:
            writer.abort()
            raise

    def put_file(self, path: Path) -> tuple[str, int]:
        """Keep a copy of a file of ours."""
        with path.open("rb") as file:
            return self.put(iter(lambda: file.read(CHUNK_BYTES), b""))

    def path(self, sha256: str) -> Path:
        """Where a file lies; raises NotFound."""
        path = self._root / sha256[:2] / sha256[2:]
        if not _DIGEST.fullmatch(sha256) or not path.is_file():
            raise NotFound(f"There is no artifact {sha256[:80]!r}.", hint="It may never have been uploaded.")
        return path

    def read(self, sha256: str) -> bytes:
        """A file's content."""
        return self.path(sha256).read_bytes()

    def verified(self, sha256: str) -> Path:
        """Where a file lies, once all of it was read and found to be what it was; raises NotFound, or Unavailable."""
        path = self.path(sha256)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise Unavailable(
                    f"The file {sha256} is not what it was when it was kept.",
                    hint="Restore it from a backup: the disk may be failing.",
                )
        return path

    def keep(self, digests: Iterable[str]) -> None:
        """Say that these files are about to be named, so that they are not removed meanwhile; raises NotFound."""
        with self._lock:
            for sha256 in digests:
                os.utime(self.path(sha256))

    def unused_since(self, limit: float) -> Iterator[str]:
        """The files that were put here, or about to be named, no later than this by the disk's own clock (see `now`)."""
        for folder in self._root.iterdir():
            if len(folder.name) == 2:
                yield from (folder.name + file.name for file in folder.iterdir() if file.stat().st_mtime <= limit)

    def remove(self, sha256: str, *, unused_since: float, dry_run: bool = False) -> int | None:
        """Remove a file, unless it came into use again; the bytes that it took on disk, or None."""
        path = self._root / sha256[:2] / sha256[2:]
        with self._lock, _writing():
            try:
                found = path.stat()
            except FileNotFoundError:
                return None
            if found.st_mtime > unused_since:
                return None
            if not dry_run:
                path.unlink()
        return found.st_blocks * 512

    def now(self) -> float:
        """The time by the clock that the files' times are of."""
        probe = self._root / "tmp" / "clock"
        with _writing():
            probe.touch()
            return probe.stat().st_mtime

    def check(self) -> None:
        """Write and drop a byte: the folder takes uploads."""
        writer = self.writer()
        try:
            writer.write(b"0")
            writer.flush()
        finally:
            writer.abort()


_DRIVE = re.compile(r"[A-Za-z]:")
_MOST_PATH, _MOST_PART = 1000, 255


def check_path(relative: str, *, field: str = "path") -> str:
    """A user's relative path in its plain form; raises InvalidInput for one that could lead elsewhere.

    It was decoded once, by whatever read the request. A `%` that is still there would mean something else to whoever decodes
    once more, so it is refused, with backslashes, control characters, `..`, absolute paths and drive letters.
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if not parts or relative.startswith("/") or _size(relative) > _MOST_PATH or any(map(_is_odd, parts)):
        raise InvalidInput(
            f"{relative[:100]!r} is not a relative path.",
            hint="Use names joined by '/', without '..', '%', a backslash or a drive letter, and at most 1,000 bytes.",
            field=field,
        )
    return "/".join(parts)


def _is_odd(part: str) -> bool:
    size = _size(part)
    controls = any(ord(c) < 32 or ord(c) == 127 for c in part)
    return part == ".." or "%" in part or "\\" in part or controls or size > _MOST_PART or bool(_DRIVE.match(part))


def _size(text: str) -> int:
    """Bytes on disk; what is no Unicode, and so could not be a name there, counts as too long."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return _MOST_PATH + 1


def open_below(root: Path, relative: str, *, mode: int | None = None) -> BinaryIO:
    """The one function that turns a user's relative path into a file: read it, or with a mode make it anew.

    It goes down component by component and follows no link, so nothing that lies below `root`, or is put there meanwhile,
    can lead out of it. To make a file makes its folders. Raises InvalidInput, or NotFound when reading.
    """
    *folders, name = check_path(relative).split("/")
    flags = os.O_RDONLY if mode is None else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    folder = _descend(root, folders, relative, make=mode is not None)
    try:
        # Without O_NONBLOCK a named pipe that lies there would hold this thread for ever.
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as err:
        raise _no_way(relative, err) from err
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_way(relative)
    if mode is not None:
        os.fchmod(fd, mode)
    return os.fdopen(fd, "rb" if mode is None else "wb")


def make_below(root: Path, relative: str) -> None:
    """Make a folder, and those above it, as `open_below` would."""
    os.close(_descend(root, check_path(relative).split("/"), relative, make=True))


def _descend(root: Path, folders: Sequence[str], relative: str, *, make: bool) -> int:
    """A descriptor of the last of some folders, each opened from the one above it."""
    here = os.open(root, os.O_DIRECTORY | os.O_CLOEXEC)
    for folder in folders:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=here)
            below = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        except OSError as err:
            raise _no_way(relative, err) from err
        finally:
            os.close(here)
        here = below
    return here


_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)
"""A link, a file where a folder should be, a folder where a file should be, a pipe."""


def _no_way(relative: str, err: OSError | None = None) -> MlboxError:
    if isinstance(err, FileNotFoundError):
        return NotFound(f"There is no file {relative[:100]!r}.", hint="Check its path.", field="path")
    if err is None or err.errno in _IN_THE_WAY:
        return InvalidInput(
            f"{relative[:100]!r} leads over something that is no plain file or folder.",
            hint="Use a path without links.",
            field="path",
        )
    return Unavailable(f"{relative[:100]!r} cannot be opened: {err.strerror or err}.", hint="Check the disk.")
