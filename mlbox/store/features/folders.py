"""Folders of the operator's that sources are fed from: a source names one and a pattern, `landing/orders/*.parquet`.

Nothing outside of a named folder is ever reached: the pattern cannot climb, and a link that leads out is passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from mlbox.errors import InvalidInput
from mlbox.records import FILE_FORMATS, Record

MAX_FILES = 100_000
"""Entries that one look at a folder goes through at most."""


class Found(Record, frozen=True, kw_only=True):
    """A file that is there: its path from the named folder's name on, and what changes when it is written to."""

    path: str
    at: Path
    size: int
    modified_ns: int

    @property
    def format(self) -> str:
        """What its name says that it holds."""
        return FILE_FORMATS[self.at.suffix.lower()]


class Folders:
    """The folders that the setting `source_folders` names."""

    def __init__(self, named: Mapping[str, Path] | None = None) -> None:
        self._named = dict(named or {})

    @classmethod
    def parse(cls, entries: Sequence[str]) -> Folders:
        """From `NAME=PATH` each; raises InvalidInput."""
        named = {}
        for entry in entries:
            name, sign, path = entry.partition("=")
            if not sign or not name.strip() or "/" in name or not Path(path).is_absolute():
                raise InvalidInput(
                    f"{entry!r} in source_folders names no folder.",
                    hint="Write NAME=/absolute/path.",
                    field="source_folders",
                )
            named[name.strip()] = Path(path)
        return cls(named)

    def check(self, pattern: str) -> None:
        """Raise InvalidInput where a pattern is of no named folder, or leads out of it."""
        name, *parts = PurePosixPath(pattern).parts or ("",)
        if name not in self._named:
            known = ", ".join(sorted(self._named))
            raise InvalidInput(
                f"{pattern!r} begins with no folder that files are taken from.",
                hint=f"Begin with one of: {known}." if known else "The operator names them in source_folders.",
                field="folder",
            )
        if not parts or ".." in parts or "**" in parts:
            raise InvalidInput(
                f"{pattern!r} is no pattern of files in {name}.",
                hint=f"Write one such as {name}/*.parquet, without `..` and `**`.",
                field="folder",
            )

    def files(self, pattern: str) -> Iterator[Found]:
        """The regular files of a checked pattern, in the order of their names; those being written by convention are not.

        A name that begins with `.` or `_`, or says no format that is read, is passed over.
        """
        name, *parts = PurePosixPath(pattern).parts
        if name not in self._named:  # the operator took it back
            return
        root = self._named[name].resolve()
        for number, path in enumerate(sorted(root.glob("/".join(parts)))):
            if number >= MAX_FILES:
                return
            if path.name.startswith((".", "_")) or path.suffix.lower() not in FILE_FORMATS:
                continue
            try:
                inside = path.resolve().is_relative_to(root)
                found = path.stat()
            except (OSError, RuntimeError):  # it went, or its links go in circles
                continue
            if inside and stat.S_ISREG(found.st_mode):
                relative = path.relative_to(root)
                yield Found(path=f"{name}/{relative}", at=path, size=found.st_size, modified_ns=found.st_mtime_ns)


def open_file(found: Found) -> int:
    """A descriptor of a file as it was found; raises OSError. It never waits, as a pipe in its place would have it do."""
    return os.open(found.at, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
