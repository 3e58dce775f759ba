"""Long work in a thread that leaves the event loop its turn.

Of two threads that want Python's interpreter the one that has it keeps it for 5 ms, so each time that the loop wakes up it waits
that long for a thread that computes, and longer where a call in C is under way. Whoever computes for tens of milliseconds, and is
waited for by nobody in a hurry, steps aside every half a millisecond instead. It has to sleep for that: who merely lets go takes
the interpreter again before another thread has woken up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
STEPS = 50
"""Small steps, of about 10 µs, between two pauses."""
HISTOGRAMS = 8
"""The same of histograms, each of a dozen samples."""
SECONDS = 0.0001


def unhurried(items: Iterable[T], steps: int = STEPS) -> Iterator[T]:
    """The same items, with a pause after so many of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % steps == 0:
            pause()


def pause() -> None:
    """Let another thread have the interpreter."""
    time.sleep(SECONDS)


class Unhurried(list[T]):
    """A list that is gone through with pauses, for whoever takes a list."""

    def __iter__(self) -> Iterator[T]:
        return unhurried(super().__iter__())
