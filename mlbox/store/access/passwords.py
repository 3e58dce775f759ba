"""Passwords as argon2id hashes, at most two computed at a time.

The parameters are the second profile of RFC 9106, section 4: 64 MiB, three passes, four lanes. Two at a time bound what sign-ins
cost the box at 128 MiB, however many arrive; further ones wait their turn, and past a short line they are told to come back.
"""

from __future__ import annotations

import base64
import os
import unicodedata
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from argon2 import Parameters, PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from mlbox.errors import InvalidInput, TooMany

T = TypeVar("T")
AT_A_TIME = 2
MOST_WAITING = 30
LONGEST = 1024
"""Characters of a password: a longer one is a mistake, or someone who wants the server to work."""


class Passwords:
    """Hashes and verifies passwords on threads of its own; `close` ends them."""

    def __init__(self, *, shortest: int = 12, parameters: Parameters = RFC_9106_LOW_MEMORY) -> None:
        self.shortest = shortest
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._nobody = _unmatched(parameters)
        self._pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="mlbox-password")
        self._lock = Lock()
        self._waiting = 0

    def check_room(self) -> None:
        """Raise TooMany when the line is full."""
        if self._waiting >= AT_A_TIME + MOST_WAITING:
            err = TooMany("Too many people sign in with a password just now.", hint="Try again in a few seconds.")
            err.retry_seconds = 5
            raise err

    def hash(self, password: str) -> Future[str]:
        """The hash to store; raises InvalidInput for a password that will not do, and TooMany when the line is full."""
        plain = _normal(password)
        if not self.shortest <= len(plain) <= LONGEST:
            raise InvalidInput(
                f"A password has {self.shortest} to {LONGEST:,} characters, and this one {len(plain):,}.",
                hint="Four or five random words do well.",
                field="password",
            )
        if plain.startswith("mlb_"):
            raise InvalidInput(
                "A password does not begin with mlb_: tokens do.", hint="Choose another.", field="password"
            )
        self._queue()
        return self._watched(self._pool.submit(self._hasher.hash, plain))

    def verify(self, stored: str | None, password: str) -> Future[bool]:
        """Whether a password fits a hash; with None it never does, and takes the same work to say so."""
        self._queue()
        return self._watched(self._pool.submit(self._verify, stored or self._nobody, _normal(password)[: LONGEST + 1]))

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _queue(self) -> None:
        with self._lock:
            self.check_room()
            self._waiting += 1

    def _watched(self, future: Future[T]) -> Future[T]:
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._pool.shutdown(cancel_futures=True)


def _normal(password: str) -> str:
    """The same characters however a keyboard composes them (NIST SP 800-63B, 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


def _unmatched(parameters: Parameters) -> str:
    """A hash that no password is known for, with the same parameters: what an unknown account is verified against."""

    def text(size: int) -> str:
        return base64.b64encode(os.urandom(size)).decode().rstrip("=")

    cost = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    return f"$argon2id$v={parameters.version}${cost}${text(parameters.salt_len)}${text(parameters.hash_len)}"
