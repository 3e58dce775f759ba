"""Sortable identifiers."""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0


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
    tail = int.from_bytes(os.urandom(8), "big") & (1 << 62) - 1
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail
    return f"{value:032x}"
