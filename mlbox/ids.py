"""Sortable identifiers."""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0
_ready: list[bytes] = []


def _random() -> bytes:
    """8 random bytes, of many that are asked for at once: asking the system takes longer than all else here."""
    try:
        return _ready.pop()
    except IndexError:
        some = os.urandom(8 * 256)
        _ready.extend(some[at : at + 8] for at in range(8, len(some), 8))
        return some[:8]


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 lower-case hex digits, strictly increasing within this process.

    The 12 bits after the millisecond hold a sub-millisecond fraction (RFC 9562 section 6.2, method 3), so that ids
    sort in the order in which they were made.
    """
    return new_ids(1)[0]


def new_ids(count: int) -> list[str]:
    """Several of them, in their order."""
    global _last
    with _lock:
        first = max((time.time_ns() << 12) // 1_000_000, _last + 1)
        _last = first + count - 1
    return [_written(stamp) for stamp in range(first, first + count)]


def _written(stamp: int) -> str:
    tail = int.from_bytes(_random(), "big") & (1 << 62) - 1 | 1 << 63
    return f"{stamp >> 12:012x}7{stamp & 0xFFF:03x}{tail:016x}"
