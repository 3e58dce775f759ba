"""Many things done together, each with an outcome of its own: its value, or the exception that says why it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def each(fn: Callable[[A], T], given: Iterable[A | Exception]) -> list[T | Exception]:
    """What a function makes of each of these; one that failed before is passed on."""
    return [one if isinstance(one, Exception) else _tried(fn, one) for one in given]


def only(outcomes: Sequence[T | Exception]) -> T:
    """The value of the only one; raises why it has none."""
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _tried(fn: Callable[[A], T], given: A) -> T | Exception:
    try:
        return fn(given)
    except Exception as err:
        return err
