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
    global _last
    with _lock:
        stamp = max((time.time_ns() << 12) // 1_000_000, _last + 1)
        _last = stamp
    milliseconds, fraction = stamp >> 12, stamp & 0xFFF
    tail = int.from_bytes(_random(), "big") & (1 << 62) - 1
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail
    return f"{value:032x}"
