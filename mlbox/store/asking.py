"""Who asks: a context variable that the web sets for each request and carries to the threads that work for it.

The stores use it to leave out what is private to others and to say in the audit log by which token something was done. Where
nobody asks (the scheduler, the gates, the monitor), everything is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from mlbox.records import Principal

NOBODY = Principal(name="", role="viewer")
"""Who asks without credentials: sees what is shared, as public answers do."""

_asking: ContextVar[Principal | None] = ContextVar("mlbox_asking", default=None)


def who() -> Principal | None:
    """Whoever asks in this context; None for the box itself."""
    return _asking.get()


def set_asking(principal: Principal) -> None:
    """From here on this context works for this principal."""
    _asking.set(principal)


@contextlib.contextmanager
def asking(principal: Principal | None) -> Iterator[None]:
    """Work for a principal, or with None for the box itself, for the length of a block."""
    before = _asking.set(principal)
    try:
        yield
    finally:
        _asking.reset(before)
