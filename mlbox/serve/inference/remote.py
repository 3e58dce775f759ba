"""A session in the workers: to the lane before it, it is a session like any other."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.records import TensorSpec
from mlbox.serve.inference.runtime import LONGEST_SECONDS, Session

if TYPE_CHECKING:
    import numpy as np

    from mlbox.serve.inference.slots import Held
    from mlbox.serve.inference.workers import Workers


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
        return self._workers.run(self._held, feeds, list(wanted or self.output_types), options or self.options())

    def options(self, seconds: float = LONGEST_SECONDS) -> Stop:
        """As `Session.options`."""
        return Stop(seconds)


class Stop:
    """What a run is given so that it can be told to end, and the seconds that it may take from when it began."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._terminate = False
        self._tell: Callable[[], None] | None = None

    def bind(self, tell: Callable[[], None]) -> None:
        """How the run is told from now on."""
        with self._lock:
            self._tell = tell
            wanted = self._terminate
        if wanted:
            tell()

    def free(self) -> None:
        """The run is over, and what is told would end another."""
        with self._lock:
            self._tell = None

    @property
    def terminate(self) -> bool:
        """Whether it is to end."""
        return self._terminate

    @terminate.setter
    def terminate(self, value: bool) -> None:
        """Set again and again by whoever watches, as long as the run goes on; told once."""
        with self._lock:
            first, self._terminate = not self._terminate, True
            if first and self._tell is not None:
                self._tell()
