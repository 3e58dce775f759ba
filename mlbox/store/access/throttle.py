"""How often someone may be wrong: waits that double for an account, an allowance a minute for an address.

An attempt counts as a failure from its start, and is taken back when it succeeds: many at once get no more tries than one after
the other. Memory is bounded: past `most` keys the one that was touched longest ago is forgotten.
"""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from mlbox.clock import Clock
from mlbox.errors import TooMany

T = TypeVar("T")
FORGET_SECONDS = 3600.0
"""An account's failures are forgotten when it was left alone for so long after its last wait."""
_MOST_DOUBLINGS = 32


class _Table(Generic[T]):
    """The latest keys, and what is known of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[str, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> T | None:
        return self._known.get(key)

    def put(self, key: str, value: T) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def drop(self, key: str) -> None:
        self._known.pop(key, None)


class _Failures(NamedTuple):
    times: int
    ready: float
    """When the next attempt is taken, in seconds since the epoch."""


class Backoff:
    """A few free attempts, then waits of 1, 2, 4, ... seconds up to the longest."""

    def __init__(self, clock: Clock, *, tries: int, longest_seconds: float, most: int = 10_000) -> None:
        self._clock = clock
        self._tries = tries
        self._longest = longest_seconds
        self._lock = threading.Lock()
        self._table: _Table[_Failures] = _Table(most)

    def __len__(self) -> int:
        return len(self._table)

    def begin(self, key: str) -> None:
        """Count an attempt; raises TooMany, which says when to come back, without counting it."""
        with self._lock:
            now = self._clock.real().timestamp()
            count, ready = self._table.get(key) or _Failures(0, 0.0)
            if now < ready:
                raise _too_many("This account saw too many wrong passwords.", ready - now)
            if now >= ready + FORGET_SECONDS:
                count = 0
            count += 1
            wait = min(self._longest, 2.0 ** min(count - self._tries, _MOST_DOUBLINGS)) if count >= self._tries else 0.0
            self._table.put(key, _Failures(count, now + wait))

    def succeeded(self, key: str) -> None:
        """Forget the failures."""
        with self._lock:
            self._table.drop(key)


class _Bucket(NamedTuple):
    left: float
    at: float


class Allowance:
    """A number of failures a minute, as a bucket that fills up again steadily."""

    def __init__(self, clock: Clock, *, per_minute: int, most: int = 10_000) -> None:
        self._clock = clock
        self._size = float(per_minute)
        self._rate = per_minute / 60
        self._lock = threading.Lock()
        self._table: _Table[_Bucket] = _Table(most)

    def __len__(self) -> int:
        return len(self._table)

    def begin(self, key: str) -> None:
        """Count a failure, or an attempt that may become one; raises TooMany, which says when to come back."""
        with self._lock:
            now = self._clock.real().timestamp()
            left = self._left(key, now)
            if left < 1:
                raise _too_many("Too many wrong credentials came from this address.", (1 - left) / self._rate)
            self._table.put(key, _Bucket(left - 1, now))

    def succeeded(self, key: str) -> None:
        """Take back the one attempt: what the address failed at before still counts."""
        with self._lock:
            now = self._clock.real().timestamp()
            left = min(self._size, self._left(key, now) + 1)
            if left >= self._size:
                self._table.drop(key)
            else:
                self._table.put(key, _Bucket(left, now))

    def _left(self, key: str, now: float) -> float:
        known = self._table.get(key)
        return self._size if known is None else min(self._size, known.left + max(0.0, now - known.at) * self._rate)


def network_of(address: str) -> str:
    """The key of a peer: an IPv4 address, or the /64 that one IPv6 customer has to himself."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


def _too_many(what: str, seconds: float) -> TooMany:
    whole = max(1, math.ceil(seconds))
    err = TooMany(
        f"{what} It may try again in {whole:,} seconds.",
        hint="Tokens and open sessions work meanwhile.",
    )
    err.retry_seconds = whole
    return err
