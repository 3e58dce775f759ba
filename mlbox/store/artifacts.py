"""Artifacts: content-addressed files that are on disk before anyone hears of them.

A file's name is the SHA-256 of its content, so the same content is kept once and can be proven. It is written to a temporary
name, fsynced, renamed, and its folder fsynced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from mlbox.errors import InvalidInput, NotFound, TooLarge, Unavailable
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

    def __init__(self, root: Path, limit: int | None) -> None:
        self._root = root
        self._limit = limit
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
            raise TooLarge(f"The upload is larger than {self._limit:,} bytes.", hint="Split it, or raise the limit.")
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
        with _writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._place(self._root / digest[:2] / digest[2:])
        return digest, self._size

    def _place(self, target: Path) -> None:
        if target.exists():
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
        self._root = root
        temporary = root / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        for left_over in temporary.iterdir():
            left_over.unlink()

    def writer(self, limit: int | None = None) -> ArtifactWriter:
        """Begin an upload of at most `limit` bytes."""
        return ArtifactWriter(self._root, limit)

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

    def check(self) -> None:
        """Write and drop a byte: the folder takes uploads."""
        writer = self.writer()
        try:
            writer.write(b"0")
            writer.flush()
        finally:
            writer.abort()


def check_path(relative: str, *, field: str = "path") -> str:
    """A user's relative path in its plain form; raises InvalidInput for one that could lead elsewhere."""
    parts = PurePosixPath(relative).parts
    odd = any(part in ("..", ".", "/") or "\\" in part or any(ord(c) < 32 for c in part) for part in parts)
    if not parts or relative.startswith("/") or odd or len(relative) > 1000 or any(len(part) > 255 for part in parts):
        raise InvalidInput(
            f"{relative[:100]!r} is not a relative path.", hint="Use names joined by '/', without '..'.", field=field
        )
    return "/".join(parts)


def safe_join(root: Path, relative: str) -> Path:
    """The one function that turns a user's relative path into a file: below `root`, whatever links lie on the way."""
    path = (root / check_path(relative)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InvalidInput(
            f"{relative[:100]!r} leads out of its folder.", hint="Use a path without links.", field="path"
        )
    return path
