"""The disposable process that compares two codes of jobs, each a tar.gz (see `workers`): a unified diff, as git writes one.

An archive may swell without end, and two texts may be made so that comparing them takes for ever. Here it takes nothing with it.
"""

from __future__ import annotations

import difflib
import hashlib
import sys
import tarfile
from collections.abc import Collection, Iterator
from typing import IO, NamedTuple

import msgspec

from mlbox.records import Record
from mlbox.store.sandbox.parse_worker import limit

MOST_DIFF = 512_000
"""Letters of a diff; what is past them is left out."""
MOST_FILE = 512_000
"""Bytes of a file whose lines are compared, of a larger one only whether it differs."""
MOST_LINES = 20_000
MOST_TEXT = 32 << 20
"""Bytes of all such files of an archive."""
MOST_UNPACKED = 2 << 30
MOST_FILES = 50_000
_PIECE = 1 << 20
_NUL_WITHIN = 8000
"""Bytes, as git looks whether a file is binary."""
_CONTROL = {code: 0x2400 + code for code in range(32)} | {127: 0x2421}
"""A name with a new line in it would read as another file's."""


class CodeDiffRequest(Record, frozen=True, kw_only=True):
    """Two archives, and what comparing them may take."""

    before: str
    after: str
    memory_bytes: int
    cpu_seconds: int


class CodeDiff(Record, frozen=True, kw_only=True):
    """In what the code after differs from the code before, or why nobody can say."""

    text: str = ""
    changed: int = 0
    """Files that are in both."""
    added: int = 0
    removed: int = 0
    is_cut: bool = False
    error: str = ""


class Entry(NamedTuple):
    """What is known of a file without its content."""

    sha256: str
    size: int
    mode: str


class TooMuch(Exception):
    """An archive is larger than anything that is code."""


def compare(before: str, after: str) -> CodeDiff:
    """Compare the archives at two paths: every file by its content, texts by their lines."""
    old, new = _entries(before), _entries(after)
    differ = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    texts = _contents(before, old, differ), _contents(after, new, differ)
    parts: list[str] = []
    left = MOST_DIFF
    for name in differ:
        for line in _file(name, old.get(name), new.get(name), texts[0].get(name), texts[1].get(name)):
            left -= len(line) + 1
            if left < 0:
                break
            parts.append(line)
        if left < 0:
            break
    return CodeDiff(
        text="\n".join(parts),
        changed=sum(name in old and name in new for name in differ),
        added=sum(name not in old for name in differ),
        removed=sum(name not in new for name in differ),
        is_cut=left < 0,
    )


# -- archives -----------------------------------------------------------------------------------------------------------


def _files(path: str) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
    """The files of an archive as they lie in it, which nothing is unpacked of."""
    with tarfile.open(path, mode="r|gz") as archive:
        for place, member in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # or it would keep each that it has passed
            if place >= MOST_FILES:
                raise TooMuch(f"it has more than {MOST_FILES:,} files")
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield _name(member), member, content


def _name(member: tarfile.TarInfo) -> str:
    name = member.name.removeprefix("./").translate(_CONTROL)
    return name.encode("utf-8", "backslashreplace").decode()  # one that is no UTF-8 has no JSON


def _entries(path: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    left = MOST_UNPACKED
    for name, member, content in _files(path):
        digest = hashlib.sha256()
        while piece := content.read(_PIECE):
            digest.update(piece)
            left -= len(piece)
            if left < 0:
                raise TooMuch(f"it is larger than {MOST_UNPACKED >> 30} GiB unpacked")
        found[name] = Entry(digest.hexdigest(), member.size, "100755" if member.mode & 0o100 else "100644")
    return found


def _contents(path: str, entries: dict[str, Entry], names: Collection[str]) -> dict[str, bytes]:
    """What of these files can be compared by lines."""
    wanted = {name for name in names if name in entries and entries[name].size <= MOST_FILE}
    found: dict[str, bytes] = {}
    left = MOST_TEXT
    for name, _, content in _files(path) if wanted else ():
        if name in wanted and left > 0:
            found[name] = content.read()
            left -= len(found[name])
    return found


# -- one file -----------------------------------------------------------------------------------------------------------


def _file(name: str, old: Entry | None, new: Entry | None, before: bytes | None, after: bytes | None) -> Iterator[str]:
    yield f"diff --git a/{name} b/{name}"
    if old is None or new is None:
        yield f"new file mode {new.mode}" if new else f"deleted file mode {old.mode if old else ''}"
    elif old.mode != new.mode:
        yield from (f"old mode {old.mode}", f"new mode {new.mode}")
    if old and new and old.sha256 == new.sha256:
        return
    names = "/dev/null" if old is None else f"a/{name}", "/dev/null" if new is None else f"b/{name}"
    lines = [_lines(b"" if entry is None else text) for entry, text in ((old, before), (new, after))]
    if lines[0] is None or lines[1] is None:
        yield f"Files {names[0]} and {names[1]} differ: {_size(old)}, then {_size(new)}"
        return
    yield from difflib.unified_diff(lines[0], lines[1], *names, lineterm="")


def _lines(content: bytes | None) -> list[str] | None:
    """A text by its lines; None for what is no text, or too long."""
    if content is None or b"\0" in content[:_NUL_WITHIN] or content.count(b"\n") > MOST_LINES:
        return None
    lines = content.decode("utf-8", "backslashreplace").split("\n")
    last = lines.pop()
    return [*lines, f"{last}\n\\ No newline at end of file"] if last else lines


def _size(entry: Entry | None) -> str:
    return "nothing" if entry is None else f"{entry.size:,} bytes"


def answer(request: CodeDiffRequest) -> CodeDiff:
    """Compare, and put whatever goes wrong into words."""
    limit(request.memory_bytes, request.cpu_seconds, 1 << 20)
    try:
        return compare(request.before, request.after)
    except MemoryError:
        return CodeDiff(error="It takes too much memory to be compared.")
    except TooMuch as err:
        return CodeDiff(error=f"A code cannot be compared: {err}.")
    except Exception as err:  # whatever a reader says of a file that is none
        return CodeDiff(error=f"A code cannot be read as a tar.gz: {str(err)[:300] or type(err).__name__}.")


def main() -> None:
    """Answer the one request."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=CodeDiffRequest)
    sys.stdout.buffer.write(answer(request).to_json())
