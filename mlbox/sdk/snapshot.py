"""The code that a job runs: a folder as a tar.gz, and the commit that it is at."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mlbox.errors import InvalidInput, TooLarge

MAX_BYTES = 256 << 20
SKIPPED = frozenset(
    {".git", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules"}
)


def pack(folder: Path) -> bytes:
    """A folder's files as tar.gz: in a git checkout those that git does not ignore, else all but caches.

    The same files give the same bytes. Raises InvalidInput for a folder that is none, TooLarge past 256 MiB.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder.", hint="Give the folder that holds the code.", field="workdir")
    content = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=content, mode="w:gz", compresslevel=6, dereference=True) as archive:
        for path in sorted(_files(folder)):
            total += path.stat().st_size
            if total > MAX_BYTES:
                raise TooLarge(
                    f"The code in {folder} is larger than {MAX_BYTES >> 20} MiB.",
                    hint="Leave data out: name it in .gitignore, and read it as a dataset.",
                )
            archive.add(path, arcname=str(path.relative_to(folder)), recursive=False, filter=_plain)
    return _without_time(content.getvalue())


def git_commit(folder: Path) -> str | None:
    """The commit that a folder is at, with `-dirty` where files differ from it; None outside git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--", ".") else "")


def _files(folder: Path) -> Iterator[Path]:
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    if listed:  # nothing is listed in a folder that git ignores as a whole: as if there were no git
        paths = {folder / name for name in listed.split("\0") if name}  # a file in conflict is listed for each side
        yield from (path for path in paths if path.is_file())
        return
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        yield from (Path(root, name) for name in names if Path(root, name).is_file())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return os.fsdecode(done.stdout).strip("\n") if done.returncode == 0 else None


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whose and when: only names, modes and bytes count."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _without_time(packed: bytes) -> bytes:
    """The gzip header without the time of packing (RFC 1952: bytes 4 to 7)."""
    return packed[:4] + bytes(4) + packed[8:]
