"""What a run logs, on disk before it is sent: nothing that was logged depends on the box, or on this process, staying there.

A spool is a folder: `ops.jsonl`, to which each operation is appended in order; `done`, the offset up to which the box has taken
them; `files`, copies of artifacts that wait; `refused.jsonl`, what the box would not take and why; and a lock that is held by
whoever sends. Every operation may arrive twice and count once, so after a crash all after `done` is sent again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mlbox.errors import Conflict
from mlbox.ids import new_id

FOLDER = "MLBOX_SPOOL"
READ_BYTES = 1 << 20
COMPACT_BYTES = 8 << 20
"""A file of operations that were all taken is emptied beyond this."""


def spool_root() -> Path:
    """The folder of all spools: `MLBOX_SPOOL`, else one below the user's state directory."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "mlbox" / "spool"


class Spool:
    """The spool of one run. Raises Conflict while another process sends from it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            self._lock.close()
            raise Conflict(f"Another process sends from {folder}.", hint="Wait until it has ended.") from err
        self._mutex = threading.Lock()
        self._path = folder / "ops.jsonl"
        self._ops = self._path.open("ab", buffering=0)
        self._drop_torn_line()
        done = folder / "done"
        self._offset = int(done.read_text()) if done.exists() else 0

    def _drop_torn_line(self) -> None:
        """A process that was killed may have left half a line, which was never acknowledged to anyone."""
        with self._path.open("rb") as file:
            text = file.read() if self._path.stat().st_size < READ_BYTES else _tail(file)
        if text and not text.endswith(b"\n"):
            keep = self._path.stat().st_size - len(text) + text.rfind(b"\n") + 1
            os.truncate(self._path, keep)

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, op: dict[str, Any]) -> None:
        """Append an operation; it is kept from here on, whatever becomes of this process."""
        line = msgspec.json.encode(op) + b"\n"
        with self._mutex:
            self._ops.write(line)

    def keep(self, content: Path | bytes) -> str:
        """Copy an artifact that waits; its name in the spool."""
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        name = new_id()
        if isinstance(content, bytes):
            (files / name).write_bytes(content)
        else:
            shutil.copyfile(content, files / name)
        return name

    # -- sending ----------------------------------------------------------------------------------------------------

    def pending(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Operations that the box has not taken, oldest first, each with the offset after it; about a megabyte at most."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read(READ_BYTES)
            while text and b"\n" not in text and (more := file.read(READ_BYTES)):
                text += more
        offset = self._offset
        for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
            offset += len(line)
            yield offset, msgspec.json.decode(line)

    def taken(self, offset: int) -> None:
        """The box has taken everything up to an offset."""
        with self._mutex:
            if offset >= COMPACT_BYTES and offset == self._path.stat().st_size:
                offset = 0
            self._write_done(offset)  # before the file is emptied: a crash in between sends again, and skips nothing
            if offset == 0:
                os.truncate(self._path, 0)
        self._offset = offset

    def _write_done(self, offset: int) -> None:
        fresh = self.folder / ".done"
        fresh.write_text(str(offset))
        fresh.replace(self.folder / "done")

    def refuse(self, op: dict[str, Any], why: str) -> None:
        """Keep an operation that the box would not take, with the reason."""
        with (self.folder / "refused.jsonl").open("ab") as file:
            file.write(msgspec.json.encode({"why": why, "op": op}) + b"\n")

    @property
    def empty(self) -> bool:
        """True when the box has taken everything."""
        with self._mutex:
            return self._ops.closed or self._offset == self._path.stat().st_size

    @property
    def refused(self) -> bool:
        """True when something was not taken."""
        return (self.folder / "refused.jsonl").exists()

    def close(self) -> None:
        """Let go of the folder, and remove it when nothing in it is needed any more."""
        if self._ops.closed:
            return
        done = self.empty and not self.refused
        self._ops.close()
        if done:
            shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._lock.close()


def _tail(file: Any) -> bytes:
    file.seek(-READ_BYTES, os.SEEK_END)
    found: bytes = file.read()
    return found


def left_over(root: Path | None = None) -> list[Path]:
    """The spools that have something to send, oldest first; those in use by a process are its own affair."""
    root = root or spool_root()
    return sorted(path.parent for path in root.glob("*/ops.jsonl"))
