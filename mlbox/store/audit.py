"""The audit log's proof: each event holds a hash over itself and over the one before it.

So a byte that was changed, a row that was removed or put elsewhere breaks the chain from there on. A tail that was cut off
leaves a whole chain, so the last hash is written elsewhere too: into a file beside the databases, after each commit. A file may
be behind its chain, when the server was killed between the two, and never ahead of it.

Who can write to both files can make another log. `mlbox audit verify` therefore prints the last hashes, to be kept out of that
person's reach, and takes them again with `--head`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mlbox.errors import InvalidInput, NotFound
from mlbox.records import ChainReport

HEADS = "audit-heads"
FIRST = "0" * 64
"""What stands before the first event."""
COLUMNS = ("seq", "id", "type", "subject", "actor", "token_id", "at_us", "domain_us", "data")
_ROWS = f"SELECT {', '.join(COLUMNS)}, previous, hash FROM event ORDER BY seq"
_encode = msgspec.json.Encoder().encode


class Head(NamedTuple):
    """The last link of a chain."""

    seq: int
    hash: str


def head_of(text: str) -> Head:
    """A head as `NUMBER:HASH`, as verification prints it; raises InvalidInput."""
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or len(seq) > 18 or len(digest) != len(FIRST):
        raise InvalidInput(f"{text[:80]!r} is no head.", hint="ROOM=NUMBER:HASH, as verify prints it.", field="head")
    return Head(int(seq), digest)


def link(previous: str, values: Sequence[Any]) -> str:
    """The hash of an event with these values, in the order of `COLUMNS`, that follows one with the hash `previous`."""
    return hashlib.sha256(_encode((previous, *values))).hexdigest()


class HeadFile:
    """Where a room's last hash stands outside of its database. A write is one call of the kernel, and is not waited for.

    What a power failure takes away of it, verification finds as a file that is behind, which is no fault.
    """

    def __init__(self, folder: Path, room: str) -> None:
        folder.mkdir(exist_ok=True, mode=0o700)
        self._file = os.open(folder / room, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, head: Head) -> None:
        """Say where the chain ends now."""
        os.pwrite(self._file, f"{head.seq:020} {head.hash}\n".encode(), 0)

    def close(self) -> None:
        """Close it."""
        os.close(self._file)


def read_head(folder: Path, room: str) -> Head | None:
    """The last hash that was written down for a room; None where there is none."""
    try:
        seq, digest = (folder / room).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return Head(int(seq), digest)


def rooms(data_dir: Path) -> list[str]:
    """The rooms of a data directory."""
    found = sorted(path.stem for path in data_dir.glob("*.sqlite"))
    if not found:
        raise NotFound(
            f"{data_dir} is no data directory.", hint="Name the one that `mlbox serve` uses.", field="data_dir"
        )
    return found


def verify(data_dir: Path, kept: Mapping[str, Head] = {}) -> list[ChainReport]:
    """Walk every room's chain, in a server's own data directory or in one that nobody serves.

    `kept` are heads by room that were written down elsewhere; each must be part of its chain.
    """
    return [verify_room(data_dir, room, kept.get(room)) for room in rooms(data_dir)]


def verify_room(data_dir: Path, room: str, kept: Head | None = None) -> ChainReport:
    """Walk one room's chain, and say what is wrong with it first."""
    wanted = [head for head in (read_head(data_dir / HEADS, room), kept) if head is not None]
    seq, previous, problem, missing = 0, FIRST, "", {head.seq: head.hash for head in wanted}
    with reading(data_dir / f"{room}.sqlite") as file:
        for row in file.execute(_ROWS):
            problem = problem_of(row, seq, previous)
            if problem:
                break
            seq, previous = row[0], row[-1]
            if missing and missing.pop(seq, previous) != previous:
                problem = f"event {row[1]} (number {seq}) is not the one whose hash was kept elsewhere"
                break
    if not problem and missing and max(missing) > seq:
        problem = f"the end is missing: number {max(missing)} was there, and the last one now is {seq}"
    return ChainReport(room=room, events=seq, head=f"{seq}:{previous}", problem=problem)


def problem_of(row: Sequence[Any], seq: int, previous: str) -> str:
    """What is wrong with an event that follows another; nothing for one that is as it was written."""
    if row[0] != seq + 1:
        return f"an event is missing between the numbers {seq} and {row[0]}"
    if row[-2] != previous:
        return f"event {row[1]} (number {row[0]}) does not follow the one before it"
    if link(previous, row[:-2]) != row[-1]:
        return f"event {row[1]} (number {row[0]}) was changed"
    return ""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A database of a room, for reading only."""
    file = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        yield file
    finally:
        file.close()


def export(data_dir: Path) -> Iterator[bytes]:
    """Every event of every room with its hashes, room by room and oldest first, as lines of JSON."""
    for room in rooms(data_dir):
        with reading(data_dir / f"{room}.sqlite") as file:
            for row in file.execute(_ROWS):
                values = dict(zip((*COLUMNS, "previous", "hash"), row, strict=True))
                values["data"] = msgspec.Raw(values["data"].encode())
                yield _encode({"room": room, **values}) + b"\n"
