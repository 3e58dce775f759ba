"""D as people read it: a number that was rounded onto a threshold would say nothing of the verdict beside it."""

from __future__ import annotations

DRIFT_BOUNDS = (0.1, 0.2)
"""D above the first is to be investigated, above the second it is an alert."""


def distance(value: float | None, digits: int = 3) -> str:
    """D with so many digits after the point, and with more where it takes them to see on which side of a threshold it lies."""
    if value is None:
        return "–"
    texts = (f"{value:.{number}f}" for number in range(digits, 18))
    return next((text for text in texts if is_on_its_side(text, value)), repr(value))


def is_on_its_side(text: str, value: float) -> bool:
    """Whether a number as it is written lies to the thresholds as the number itself does."""
    return all(_side(float(text), bound) == _side(value, bound) for bound in DRIFT_BOUNDS)


def _side(value: float, bound: float) -> int:
    return (value > bound) - (value < bound)
