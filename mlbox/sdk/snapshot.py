"""The code that a job runs: a folder as a tar.gz, and the commit that it is at."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pathspec

from mlbox.errors import InvalidInput, TooLarge

MAX_BYTES = 256 << 20
MAX_FILES = 50_000
IGNORE = ".mlboxignore"
SKIPPED = frozenset(
    {".git", ".venv", "venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules"}
)
DATA_DIRECTORY = "MLBOX_VERSION"
"""The file that marks a server's data directory. That is no code, and it holds what opens the box: it never travels."""
_IN_MEMORY = 16 << 20
_NAMED = 3


class Code(NamedTuple):
    """What would be sent of a folder."""

    folder: Path
    sizes: Mapping[str, int]
    """Bytes of each file, by its path below the folder."""

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(self.sizes.values())


def survey(folder: Path) -> Code:
    """A folder's files: in a git checkout those that git does not ignore, else all but caches.

    Never what .mlboxignore names, nor a server's data directory. Reads no file. Raises InvalidInput for a folder that is none or
    holds no code, TooLarge past 256 MiB or 50,000 files.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder.", hint="Give the folder that holds the code.", field="workdir")
    if (folder / DATA_DIRECTORY).exists():
        raise InvalidInput(
            f"{folder} is the data directory of a server.", hint="Give the folder that holds the code.", field="workdir"
        )
    ignored = _ignored(folder)
    sizes: dict[str, int] = {}
    for name in _names(folder, ignored):
        if not ignored.match_file(name):
            sizes[name] = (folder / name).stat().st_size
        if len(sizes) > MAX_FILES:
            raise _too_large(
                folder, f"has more than {MAX_FILES:,} files", Counter(map(_top, sizes)), "{:,} files".format
            )
    code = Code(folder, sizes)
    if code.size > MAX_BYTES:
        by_top: Counter[str] = Counter()
        for name, size in sizes.items():
            by_top[_top(name)] += size
        raise _too_large(folder, f"is {_size(code.size)} large, and {_size(MAX_BYTES)} is the most", by_top, _size)
    return code


def pack(code: Code) -> BinaryIO:
    """The files as a tar.gz, in memory or in a temporary file; the same files give the same bytes."""
    packed = cast(BinaryIO, tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 (whoever asks closes it)
    try:
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as stream,
            tarfile.open(fileobj=stream, mode="w", dereference=True) as archive,
        ):
            for name in sorted(code.sizes):
                archive.add(code.folder / name, arcname=name, recursive=False, filter=_plain)
    except OSError as err:
        packed.close()
        raise InvalidInput(
            f"{err.filename or code.folder} cannot be read: {err.strerror or err}.",
            hint=f"Name it in {IGNORE}, or let it be read.",
            field="code",
        ) from err
    packed.seek(0)
    return packed


def git_commit(folder: Path) -> str | None:
    """The commit that a folder is at, with `-dirty` where files differ from it; None outside git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if _git(folder, "status", "--porcelain", "--", ".") else "")


def _ignored(folder: Path) -> pathspec.GitIgnoreSpec:
    try:
        lines = (folder / IGNORE).read_text().splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as err:
        raise InvalidInput(
            f"{folder / IGNORE} cannot be read: {err}.", hint="Write it as .gitignore.", field=IGNORE
        ) from err
    return pathspec.GitIgnoreSpec.from_lines(lines)


def _names(folder: Path, ignored: pathspec.GitIgnoreSpec) -> Iterator[str]:
    listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    if listed:  # nothing is listed in a folder that git ignores as a whole: as if there were no git
        names = dict.fromkeys(listed.split("\0"))  # a file in conflict is listed for each side
        shut = tuple(name.removesuffix(DATA_DIRECTORY) for name in names if name.endswith(f"/{DATA_DIRECTORY}"))
        yield from (name for name in names if name and not name.startswith(shut) and (folder / name).is_file())
    else:
        yield from _walk(folder, "", ignored)


def _walk(folder: Path, below: str, ignored: pathspec.GitIgnoreSpec) -> Iterator[str]:
    with os.scandir(folder / below) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    if below and any(entry.name == DATA_DIRECTORY for entry in found):
        return
    for entry in found:
        name = below + entry.name
        if not entry.is_dir(follow_symlinks=False):
            if entry.is_file():
                yield name
        elif entry.name not in SKIPPED and not ignored.match_file(f"{name}/"):
            yield from _walk(folder, f"{name}/", ignored)


def _top(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first + slash


def _too_large(folder: Path, what: str, by_top: Counter[str], say: Callable[[int], str]) -> TooLarge:
    largest = by_top.most_common(_NAMED)
    said = [f"{name} ({say(n)})" for name, n in largest if n * 100 >= largest[0][1]]
    return TooLarge(
        f"The code in {folder} {what}: {', '.join(said)}.",
        hint=f"Leave data out: name it in {IGNORE} or .gitignore, and read it as a dataset.",
        field="code",
    )


def _size(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


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
