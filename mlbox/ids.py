"""Sortable identifiers."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime

_lock = threading.Lock()
_last = 0
_HOUR = 3_600_000 << 12
_END = (1 << 60) - (_HOUR << 12)
"""No id of a clock that ever was; there must be room after it."""
_ready: list[str] = []
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The digit of the variant, whose first two bits are fixed, for a random one."""


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 lower-case hex digits, strictly increasing within this process.

    The 12 bits after the millisecond hold a sub-millisecond fraction (RFC 9562 section 6.2, method 3), so that ids
    sort in the order in which they were made.
    """
    return new_ids(1)[0]


def go_on_after(known: str) -> None:
    """Make later ids than one of a former process, though the clock was put back meanwhile: what is newest is told by ids.

    That may not have been the last one, so an hour lies between, in which the former process had others.
    """
    global _last
    stamp = int(known[:12], 16) << 12 | int(known[13:16], 16)
    with _lock:
        if (time.time_ns() << 12) // 1_000_000 < stamp < _END:
            _last = max(_last, stamp + _HOUR)


def first_of(moment: datetime) -> str:
    """What is not above any id that is made from a moment on, and above every one from before its millisecond."""
    return f"{max(0, int(moment.timestamp() * 1000)):012x}"


def new_ids(count: int) -> list[str]:
    """Several of them, in their order."""
    global _last
    with _lock:
        first = max((time.time_ns() << 12) // 1_000_000, _last + 1)
        _last = first + count - 1
    return [f"{stamp >> 12:012x}7{stamp & 0xFFF:03x}{_random()}" for stamp in range(first, first + count)]


def _random() -> str:
    """62 random bits behind the variant; many are asked for at once, as asking the system takes longer than all else here."""
    try:
        return _ready.pop()
    except IndexError:
        some = os.urandom(8 * 256).hex()
        _ready.extend([_VARIANT[some[at]] + some[at + 1 : at + 16] for at in range(16, len(some), 16)])
        return _VARIANT[some[0]] + some[1:16]
