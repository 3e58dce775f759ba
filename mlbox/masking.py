"""Secrets taken out of what a job prints, on its way to the log: `***NAME***` stands where a value was.

The standard library alone, because the shim loads this file by its path. Masking is done where the log is written, not where
it is read: so nothing lies in clear on disk, a log's offsets are those of the file, and an old log stays masked after a secret
was changed or removed, or its key lost.

What is found is what a value looks like when it is printed, line by line for a value of several lines: itself, in base64 (alone,
or inside a longer text such as `user:password`), URL-encoded, and as a string of JSON or Python. A job that wants to show a
secret (reversed, in hexadecimal) still can: it runs as code of its author.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus

SHORTEST = 4
"""Characters of the shortest text that is masked: shorter ones are in everything."""
SHORTEST_INSIDE = 8
"""The same for the base64 of a value inside a longer text, which loses its first and last characters."""
READ_BYTES = 1 << 16
DRAIN_MILLISECONDS = 200
"""How long to wait for more once the command has ended: what it left behind may hold the pipe open for ever."""


def lines_of(value: str) -> list[str]:
    """The parts of a value that can be masked: its lines, without what is too short to tell from other text."""
    return [line for line in (line.strip() for line in value.splitlines()) if len(line) >= SHORTEST]


def forms(text: str) -> set[bytes]:
    """What a text looks like when it is printed as it is, in base64, URL-encoded or as a string of JSON or Python."""
    raw = text.encode()
    shown = {text, quote(text, safe=""), quote(text), quote_plus(text), json.dumps(text)[1:-1], repr(text)[1:-1]}
    shown |= {_lower_escapes(encoded) for encoded in list(shown)}
    return {found.encode() for found in shown} | _base64_forms(raw)


def _lower_escapes(encoded: str) -> str:
    """`%2F` as `%2f`, as some encoders write it."""
    first, *rest = encoded.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _base64_forms(raw: bytes) -> set[bytes]:
    found = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found |= {encode(raw), encode(raw).rstrip(b"=")}
        for before in range(3):
            # Characters that also hold bits of a neighbour, before or behind, are not the value's own.
            first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            inside = encode(b"\0" * before + raw)[first:last]
            if len(inside) >= SHORTEST_INSIDE:
                found.add(inside)
    return found


class Masker:
    """Replaces secrets in a stream, however it is cut into pieces. Give it each piece, and `finish` it.

    It holds back no more than what may be the beginning of a secret. What it looks for is made with the first piece: much of
    what runs prints nothing.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._held = b""
        self._covered = 0
        """So many of the held bytes belong to a secret whose mask was written already."""

    @functools.cached_property
    def _patterns(self) -> list[tuple[bytes, str]]:
        """What is looked for, shortest first, and the name that replaces it."""
        secrets = self._secrets.items()
        names = {form: name for name, value in secrets for line in lines_of(value) for form in forms(line)}
        return sorted(names.items(), key=lambda item: len(item[0]))

    @functools.cached_property
    def _longest(self) -> int:
        return max((len(form) for form, _ in self._patterns), default=0)

    def feed(self, piece: bytes) -> bytes:
        """What of the stream so far is safe to write and was not written yet."""
        text = self._held + piece
        return self._write(text, self._unsure_from(text))

    def finish(self) -> bytes:
        """What was held back, when no more comes."""
        if not self._held:
            return b""
        return self._write(self._held, len(self._held))

    def _write(self, text: bytes, end: int) -> bytes:
        """The text up to an end, masked; the rest is held. A secret that crosses the end gets its mask now."""
        written, at, covered = [], 0, self._covered
        for start, stop, name in self._found(text):
            if start >= end:
                break
            if name:
                written += [text[at:start], b"***", name.encode(), b"***"]
            at, covered = stop, max(0, stop - end)
        written.append(text[at:end])
        self._held, self._covered = text[end:], covered
        return b"".join(written)

    def _found(self, text: bytes) -> list[tuple[int, int, str]]:
        """Where secrets are, in order and apart; those that overlap are one, under the name of the longest."""
        spans = [(0, self._covered, "")] if self._covered else []
        spans += ((at, at + len(form), name) for form, name in self._patterns for at in _all_of(form, text))
        spans.sort(key=lambda span: (span[0], span[2] != "", -span[1]))
        joined: list[tuple[int, int, str]] = []
        for start, stop, name in spans:
            if joined and start < joined[-1][1]:
                first, former, known = joined[-1]
                longer = bool(known) and stop - start > former - first
                joined[-1] = (first, max(former, stop), name if longer else known)
            else:
                joined.append((start, stop, name))
        return joined

    def _unsure_from(self, text: bytes) -> int:
        """Where the longest end of the text begins that a secret may begin with."""
        first = max(0, len(text) - self._longest + 1)
        return min((_begins(form, text, first) for form, _ in self._patterns), default=len(text))


def _all_of(form: bytes, text: bytes) -> Iterator[int]:
    at = text.find(form)
    while at >= 0:
        yield at
        at = text.find(form, at + 1)


def _begins(form: bytes, text: bytes, first: int) -> int:
    """Where an end of the text begins that is a beginning of the form, but not all of it."""
    size = len(text)
    at = text.find(form[:1], max(first, size - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return at
        at = text.find(form[:1], at + 1)
    return size


def pump(source: int, target: int, masker: Masker, ended: Callable[[], bool]) -> None:
    """Pass everything from a pipe to a file, masked, until it is closed, or the command has ended and nothing more comes."""
    poll = select.poll()
    poll.register(source, select.POLLIN | select.POLLHUP)
    for piece in _pieces(source, poll, ended):
        _write_all(target, masker.feed(piece))
    _write_all(target, masker.finish())


def _pieces(source: int, poll: select.poll, ended: Callable[[], bool]) -> Iterable[bytes]:
    while True:
        over = ended()  # asked before looking: what was printed before the end is then there to be read
        if poll.poll(DRAIN_MILLISECONDS):
            piece = os.read(source, READ_BYTES)
            if not piece:
                return
            yield piece
        elif over:
            return


def _write_all(target: int, text: bytes) -> None:
    """Write, or on a full disk drop it: a command must not wait for ever for someone to read what it prints."""
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(target, text) :]
