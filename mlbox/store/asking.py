"""Who asks, and whether he still waits: context variables that the web sets for each request and carries to the threads that work
for it.

The stores use it to leave out what is private to others and to say in the audit log by which token something was done. Where
nobody asks (the scheduler, the gates, the monitor), everything is seen.
"""

from __future__ import annotations

from contextvars import ContextVar

from mlbox.records import Principal

NOBODY = Principal(name="", role="viewer")
"""Who asks without credentials: sees what is shared, as public answers do."""

_asking: ContextVar[Principal | None] = ContextVar("mlbox_asking", default=None)


class Presence:
    """Whether somebody is there to be answered."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = False


THERE = Presence()
"""Of the box itself, which always waits."""
_presence: ContextVar[Presence] = ContextVar("mlbox_presence", default=THERE)


def presence() -> Presence:
    """Of whoever asks in this context."""
    return _presence.get()


def set_presence(of: Presence) -> None:
    """From here on this context works for somebody who may go."""
    _presence.set(of)


def who() -> Principal | None:
    """Whoever asks in this context; None for the box itself."""
    return _asking.get()


def set_asking(principal: Principal) -> None:
    """From here on this context works for this principal."""
    _asking.set(principal)


class asking:
    """Work for a principal, or with None for the box itself, for the length of a block."""

    __slots__ = ("_before", "_principal")

    def __init__(self, principal: Principal | None) -> None:
        self._principal = principal

    def __enter__(self) -> None:
        self._before = _asking.set(self._principal)

    def __exit__(self, *_: object) -> None:
        _asking.reset(self._before)


class waiting:
    """For the length of a block somebody waits for what is worked on in it, and for nothing of it afterwards, however it ends."""

    __slots__ = ("_before", "_own")

    def __enter__(self) -> None:
        self._own = Presence()
        self._before = _presence.set(self._own)

    def __exit__(self, *_: object) -> None:
        self._own.gone = True
        _presence.reset(self._before)
