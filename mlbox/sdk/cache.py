"""The cache of fetched files: by hash, checked on arrival, bounded, shared by all processes of a user.

Invariants
- A file's name in the cache stands for the whole file: it arrives under another name, is checked, and is then renamed.
- Of many processes that want a file one fetches it. Its lock is on the unfinished file, and goes with the process.
- What is to arrive is reserved on disk before the first byte, under the lock of the cache: the bound counts it, and a disk
  that has no room for it says so at once.
- What somebody holds is not removed. All else goes when room is needed, the longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import DataFile

LIMIT, DEFAULT_GB = "MLBOX_CACHE_GB", 50.0
HELD, LOCK, PARTIAL = "held", "lock", ".part"
_KEPT = re.compile(r"[0-9a-f]{64}(\.\w+)?")


class Kept(NamedTuple):
    """A file in the cache."""

    used: float
    size: int
    path: Path


def folder() -> Path:
    """Where the cache of this user is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlbox"


def limit_bytes() -> int:
    """The most that the cache is to take; raises InvalidInput."""
    text = os.environ.get(LIMIT) or str(DEFAULT_GB)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise InvalidInput(f"{LIMIT} is {text[:40]!r}.", hint="Give gigabytes, such as 50.", field=LIMIT)
    return int(found * 1e9)


class Hold:
    """Files that stay in the cache until this is released, or is forgotten, or its process ends."""

    def __init__(self, marker: Path, lock: BinaryIO) -> None:
        self.release = weakref.finalize(self, _let_go, marker, lock, os.getpid())


def _let_go(marker: Path, lock: BinaryIO, owner: int) -> None:
    if os.getpid() == owner:  # a fork shares the lock, and must not end it
        marker.unlink(missing_ok=True)
    lock.close()


class Cache:
    """A folder of files by hash, and the most bytes that are kept in it."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def path(self, sha256: str) -> Path:
        """Where a file is, once it is here."""
        return self.root / sha256[:2] / f"{sha256}.parquet"

    def fetch(self, file: DataFile, content: Callable[[], Iterable[bytes]]) -> Path:
        """Where a file lies; `content` yields its bytes, and is asked only if it is not here.

        Raises what `content` raises, and MlboxError where the bytes are not the file's or do not fit on the disk; nothing
        is left of them then.
        """
        target = self.path(file.sha256)
        if _use(target, file.size):
            return target
        with self._saying_what_is_full(file):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(target.name + PARTIAL)
            with _alone(unfinished) as partial:
                if not _use(target, file.size):
                    self._reserve(partial, file.size)
                    _receive(partial, file, content())
                    unfinished.rename(target)
        return target

    def hold(self, digests: Iterable[str]) -> Hold:
        """Keep these files, those that are yet to come too."""
        names = "\n".join(digests).encode()
        with self._locked():
            (self.root / HELD).mkdir(exist_ok=True)
            fd, marker = tempfile.mkstemp(dir=self.root / HELD)
            lock = os.fdopen(fd, "wb")
            fcntl.flock(lock, fcntl.LOCK_SH)
            lock.write(names)
            lock.flush()
        return Hold(Path(marker), lock)

    def kept(self) -> list[Kept]:
        """Every file in the cache, the longest unused first; what is only half here counts by what it will be."""
        found = []
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if _KEPT.fullmatch(path.name.removesuffix(PARTIAL)):
                with contextlib.suppress(FileNotFoundError):
                    state = path.stat()
                    found.append(Kept(state.st_mtime, state.st_size, path))
        return sorted(found)

    def _reserve(self, partial: BinaryIO, size: int) -> None:
        with self._locked():
            partial.truncate(0)
            self._make_room(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(partial.fileno(), 0, size)

    def _make_room(self, size: int) -> None:
        held = self._held()
        kept = self.kept()
        free = os.statvfs(self.root)
        over = max(sum(one.size for one in kept) + size - self.limit, size - free.f_bavail * free.f_frsize)
        for one in kept:
            if one.path.name.endswith(PARTIAL):
                over -= one.size if _drop_abandoned(one.path) else 0
            elif over > 0 and one.path.stem not in held:
                one.path.unlink(missing_ok=True)
                over -= one.size

    def _held(self) -> set[str]:
        """What is held by those who still live; the marks of the others are removed."""
        found: set[str] = set()
        for marker in (self.root / HELD).glob("*"):
            with contextlib.suppress(FileNotFoundError), marker.open("rb") as file:
                if _is_locked(file):
                    found.update(file.read().decode().split())
                else:
                    marker.unlink()
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the cache, for as long as it takes to look at it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _saying_what_is_full(self, file: DataFile) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise MlboxError(
                f"{file.path} ({file.size / 1e6:,.1f} MB) cannot be kept in {self.root}: {err.strerror or err}.",
                hint="Make room there, or name a folder on another disk with XDG_CACHE_HOME.",
            ) from err


def _use(path: Path, size: int) -> bool:
    """Whether a file is here whole, which from now on is the one that was used last."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _receive(partial: BinaryIO, file: DataFile, content: Iterable[bytes]) -> None:
    digest, size = hashlib.sha256(), 0
    for chunk in content:
        size += len(chunk)
        if size > file.size:
            break
        digest.update(chunk)
        partial.write(chunk)
    partial.flush()
    if digest.hexdigest() != file.sha256:
        cut_off = f": only {size:,} of its {file.size:,} bytes came" if size < file.size else ""
        raise MlboxError(
            f"{file.path} arrived damaged{cut_off}.", hint="Try again; if it stays so, check the box's disk."
        )
    os.fchmod(partial.fileno(), 0o400)
    os.fsync(partial.fileno())


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """A file, made if need be, that nobody else writes; what is still under its name at the end was not finished, and goes."""
    with _opened_alone(path) as file:
        try:
            yield file
        finally:
            if _is_at(file, path):
                path.unlink()


def _opened_alone(path: Path) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, path):
            return file
        file.close()  # whoever had it finished it, or gave it up


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _drop_abandoned(partial: Path) -> bool:
    """Remove an unfinished file, unless somebody is at it."""
    with contextlib.suppress(FileNotFoundError), partial.open("rb") as file:
        if _is_locked(file):
            return False
        partial.unlink()
    return True
