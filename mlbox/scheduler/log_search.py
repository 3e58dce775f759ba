"""Finding lines in a log that may be of any length: read part by part, from one place to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlbox.errors import InvalidInput
from mlbox.records import LogMatch, LogMatches

MOST_TEXT = 256
MOST_SHOWN = 300
"""Bytes of a line that a match shows, around what was found."""
LONGEST = 1 << 20
"""Bytes of a line."""
MOST_READ = 64 << 20
"""Bytes that are looked through at a time: a second of one thread, where the disk is slow."""


def find_lines(read: Callable[[int], bytes], text: str, *, after: int, limit: int) -> LogMatches:
    """The next lines that have a text, from the offset `after`; capitals count where the text has some.

    `read` gives a part of the log from an offset, and nothing at its end. Raises InvalidInput for no text, or too much.
    """
    if not 0 < len(text) <= MOST_TEXT:
        raise InvalidInput(
            "There is no text to look for, or too much.", hint=f"1 to {MOST_TEXT} letters.", field="text"
        )
    needle = text.encode(errors="replace")
    plain = needle.islower() or not any(chr(byte).isalpha() for byte in needle)
    found: list[LogMatch] = []
    for start, lines in _parts(read, after):
        looked = lines.lower() if plain else lines
        at = looked.find(needle)
        while at >= 0:
            first = lines.rfind(b"\n", 0, at) + 1
            last = lines.find(b"\n", at)
            last = len(lines) if last < 0 else last
            if len(found) == limit:
                return LogMatches(matches=tuple(found), next=start + first)
            shown = lines[max(first, at - MOST_SHOWN // 3) : last][:MOST_SHOWN]
            found.append(LogMatch(offset=start + first, text=shown.decode(errors="replace")))
            at = looked.find(needle, last)
        if start + len(lines) - after >= MOST_READ:
            return LogMatches(matches=tuple(found), next=start + len(lines))
    return LogMatches(matches=tuple(found), next=None)


def _parts(read: Callable[[int], bytes], offset: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines with where they begin; what is longer than `LONGEST` is cut there."""
    rest = b""
    while part := read(offset + len(rest)):
        lines = rest + part
        whole = lines.rfind(b"\n") + 1 or (len(lines) if len(lines) >= LONGEST else 0)
        if whole:
            yield offset, lines[:whole]
        rest, offset = lines[whole:], offset + whole
    if rest:
        yield offset, rest
