"""The files that an attempt leaves: what it printed, and how it ended.

The standard library alone: shims load this file by its path.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any

CLAIM, LOG, MARKS, ERRORS, STATUS = "claim", "log", "log.times", "shim.log", "status.json"
STATUS_BYTES = 4096
DISK_SECONDS = 60.0
"""How long to try to write the status to a disk that will not take it."""


class Log:
    """The file that the attempt prints to: masked, no larger than it may be, and never what holds the attempt up."""

    def __init__(self, spec: dict[str, Any], parts: Any) -> None:
        self._file = -1
        self._left: int = spec["log_bytes"]
        self._most: int = spec["log_bytes"]
        self._masker = parts.masking.Masker(spec["mask"]) if spec.get("mask") else None
        self._dropped = 0
        self._full = ""
        self._marks = parts.logtimes.Marks(LOG, MARKS)
        self._unmarked = False
        self._amid_line = False

    def feed(self, piece: bytes) -> None:
        """What was printed next."""
        self._write(self._masker.feed(piece) if self._masker is not None else piece)
        self._unmarked = True

    def mark(self) -> float | None:
        """Leave a mark of when what was printed, if it is time; when it will be, where one is still to be left."""
        if self._unmarked and time.monotonic() >= self._marks.due:
            self._marks.set()
            self._unmarked = False
        due: float = self._marks.due
        return due if self._unmarked else None

    def finish(self) -> None:
        """No more is printed: say what is missing."""
        if self._masker is not None:
            self._write(self._masker.finish())
        if self._dropped:
            self.say(f"{self._dropped} more bytes were printed and are not here: {self._full}")
        if self._file >= 0:
            os.close(self._file)

    def say(self, line: str) -> None:
        """A line of ours, on a line of its own."""
        self._put(b"\n" * self._amid_line + f"mlbox: {line}.\n".encode())

    def _write(self, text: bytes) -> None:
        kept = text[: self._left]
        self._left -= len(kept)
        lost = len(kept) - self._put(kept) if kept else 0
        if lost or len(text) > len(kept):
            if not self._full:
                self._full = "the disk is full" if lost else f"a log has {self._most} bytes at most"
                self.say(f"what is printed from here on is not kept: {self._full}")
            self._dropped += lost + len(text) - len(kept)

    def _put(self, text: bytes) -> int:
        """Write; on a full disk less than all of it is written."""
        done = 0
        try:
            if self._file < 0:  # what prints nothing needs no file
                self._file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            while done < len(text):
                done += os.write(self._file, text[done:])
        except OSError:
            pass
        if done:
            self._amid_line = text[done - 1 : done] != b"\n"
        return done


class Status:
    """How the attempt ended, in space on the disk that is kept for it from the start."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._temporary = f".{STATUS}.{os.getpid()}"
        self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self._file, 0, STATUS_BYTES)

    def drop(self) -> None:
        """There is nothing to say: the attempt is another shim's."""
        os.close(self._file)
        os.unlink(self._temporary)

    def write(self, ended: dict[str, Any]) -> bool:
        """Write it whole, or not at all; tried for a while where the disk will not have it. Whether it is there.

        Who has a server to tell leaves it to that one to put the end on disk; else see `processes.sync`.
        """
        content = json.dumps(ended).encode()[:STATUS_BYTES]
        end = time.monotonic() + DISK_SECONDS
        while True:
            try:
                self._write(content)
                return True
            except OSError as err:
                complain(f"The status cannot be written: {err}")
                if time.monotonic() >= end:
                    return False
            time.sleep(1)
            self._again()

    def _write(self, content: bytes) -> None:
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))
        os.rename(self._temporary, STATUS)
        os.close(self._file)

    def _again(self) -> None:
        """The job may have removed its own folder."""
        try:
            os.makedirs(self._folder, exist_ok=True)
            os.chdir(self._folder)
            self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            complain(f"The folder cannot be made: {err}")


def complain(line: str) -> None:
    """Leave word of what is wrong with the shim itself, for whoever looks into the folder."""
    with contextlib.suppress(OSError), open(ERRORS, "a") as file:
        file.write(line + "\n")
