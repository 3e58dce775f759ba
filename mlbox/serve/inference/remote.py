"""A session in the workers: to the lane before it, it is a session like any other."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.records import TensorSpec
from mlbox.serve.inference.runtime import Session

if TYPE_CHECKING:
    import numpy as np

    from mlbox.serve.inference.slots import Held
    from mlbox.serve.inference.workers import Workers

HANG_SECONDS = 5.0
"""How long a run that nobody waits for may go on after it was told to end; then its process ends."""


class Died(Exception):
    """The process that ran this died of it, or was killed meanwhile."""


class RemoteSession(Session):
    """One model, held by every worker, and let go of by all when this is."""

    apart = True

    def __init__(self, workers: Workers, held: Held, facts: Mapping[str, Any]) -> None:
        self._workers = workers
        self._held = held
        self._describe(
            msgspec.convert(facts["inputs"], type=tuple[TensorSpec, ...]),
            msgspec.convert(facts["outputs"], type=tuple[TensorSpec, ...]),
            facts["providers"],
        )
        weakref.finalize(self, workers.let_go, held)

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] = (), options: Any = None) -> list[np.ndarray]:
        """As `Session.run`; raises Died where the worker did."""
        return self._workers.run(self._held, feeds, list(wanted or self.output_types), options)

    def options(self) -> Stop:
        """As `Session.options`."""
        return Stop()


class Stop:
    """What a run is given so that it can be ended: told to, and where it does not listen with its process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = 0.0
        self._tell: Callable[[], None] | None = None
        self._kill: Callable[[], None] | None = None
        self.killed = False
        """Whether its process was ended by this, which no run is to blame for that would have ended after its operator."""

    def bind(self, tell: Callable[[], None], kill: Callable[[], None] | None = None) -> None:
        """How the run is ended from now on."""
        with self._lock:
            self._tell, self._kill = tell, kill
            wanted = self._since > 0
        if wanted:
            tell()

    def free(self) -> None:
        """The run is over, and what ends it would end another."""
        with self._lock:
            self._tell = self._kill = None

    @property
    def terminate(self) -> bool:
        """Whether it is to end."""
        return self._since > 0

    @terminate.setter
    def terminate(self, value: bool) -> None:
        """Set again and again by whoever watches, as long as the run goes on."""
        with self._lock:
            first = not self._since
            if first:
                self._since = time.monotonic()
            hangs = time.monotonic() - self._since > HANG_SECONDS
            do = self._tell if first else self._kill if hangs else None
            if do is not None:
                self.killed = not first
                do()
