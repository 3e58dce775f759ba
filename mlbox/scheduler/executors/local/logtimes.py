"""Where in a log is what: its last lines, and, by marks that the shim leaves beside it, what was printed since a moment.

The shim loads this by path: the standard library alone.
"""

from __future__ import annotations

import os
import struct
import time

BLOCK = 1 << 16
MARK = struct.Struct("<dQ")
"""A time in seconds since 1970, and how large the log was then."""
MARK_SECONDS = 2.0


class Marks:
    """Marks beside a log that grows: one every two seconds at most, and none while nothing is printed."""

    def __init__(self, log: str, marks: str) -> None:
        self._log, self._marks = log, marks
        self._size, self.due = 0, 0.0

    def set(self) -> None:
        """Leave one, if it is time and something was printed since the last."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + MARK_SECONDS
        try:
            size = os.stat(self._log).st_size
            if size == self._size:
                return
            with open(self._marks, "ab", buffering=0) as file:
                file.write(MARK.pack(time.time(), size))
            self._size = size
        except OSError:  # a full disk costs the marks, not the job
            return


def printed_since(log: str, marks: str, moment: float) -> int:
    """The offset of what was printed since a moment, or up to two seconds before it; the log's end where that is nothing."""
    try:
        size = os.stat(log).st_size
        touched = os.stat(log).st_mtime
    except FileNotFoundError:
        return 0
    before = 0
    try:
        with open(marks, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        content = b""
    whole = len(content) - len(content) % MARK.size
    for at, end in MARK.iter_unpack(content[:whole]):
        if at > moment:
            return before
        before = end
    return size if touched < moment else min(before, size)


def last_lines(log: str, lines: int) -> int:
    """The offset of the last lines; a line that has not ended counts."""
    try:
        with open(log, "rb") as file:
            at = size = file.seek(0, os.SEEK_END)
            left = lines
            while at > 0 and lines:
                start = max(0, at - BLOCK)
                file.seek(start)
                block = file.read(at - start)
                end = len(block) - (at == size and block.endswith(b"\n"))
                while (newline := block.rfind(b"\n", 0, end)) >= 0:
                    left -= 1
                    if not left:
                        return start + newline + 1
                    end = newline
                at = start
            return 0 if lines else size
    except FileNotFoundError:
        return 0
