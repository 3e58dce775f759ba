"""Which models are in memory: each looked at in a process that may die, loaded once, dropped when it is no longer used.

Invariants
- Nothing is loaded here before `check.inspect_onnx` accepted the same bytes, once since the server started.
- Of requests that want a version at the same time, one loads it and the others wait; other versions are not held up.
- A version that could not be loaded is not tried again for `RETRY_SECONDS`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

from msgspec.structs import replace

from mlbox.errors import MlboxError, NotFound, Unavailable
from mlbox.records import ModelVersion, TensorSpec
from mlbox.serve.check import inspect_onnx
from mlbox.serve.rows import Columns
from mlbox.serve.runtime import Session
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry import Registry

RETRY_SECONDS = 30.0
Name = tuple[str, int]
_log = logging.getLogger(__name__)


class Loaded:
    """A version in memory."""

    def __init__(self, version: ModelVersion, session: Session, size: int) -> None:
        self.version = version
        self.size = size
        """Bytes of its file, which its weights take in memory as well."""
        self.session = session
        self.columns = Columns(version)
        self.inputs = inputs_of(version, session.inputs)


def inputs_of(version: ModelVersion, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The tensors that a version takes: where it names features, as many columns as these, whatever its file leaves free."""
    if not version.features:
        return inputs
    return tuple(replace(spec, shape=(spec.shape[0], len(version.features))) for spec in inputs)


class Loader:
    """At most so many versions in memory; past that, the one that was not asked for the longest gives way."""

    def __init__(self, registry: Registry, artifacts: Artifacts, *, threads: int, most: int) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._threads = threads
        self._most = most
        self._lock = threading.Lock()
        self._loaded: OrderedDict[Name, Loaded] = OrderedDict()
        self._opening: dict[Name, threading.Lock] = {}
        self._failed: dict[Name, tuple[float, MlboxError]] = {}
        self._checked: set[str] = set()

    def get(self, model: str, version: int) -> Loaded:
        """A version, loaded; raises NotFound, or Unavailable for one that cannot be."""
        name = (model, version)
        found = self._known(name)
        if found is not None:
            return found
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            found = self._known(name)
            if found is None:
                found = self._open_once(name)
            return found

    def known(self, model: str, version: int) -> Loaded | None:
        """A version, if it is loaded."""
        return self._known((model, version))

    def _known(self, name: Name) -> Loaded | None:
        with self._lock:
            found = self._loaded.get(name)
            if found is not None:
                self._loaded.move_to_end(name)
            return found

    def _open_once(self, name: Name) -> Loaded:
        self._raise_recent_failure(name)
        try:
            found = self._open(self._registry.version(*name))
        except Unavailable as err:
            _log.warning("%s", err)
            self._failed[name] = (time.monotonic(), err)
            raise
        with self._lock:
            self._failed.pop(name, None)
            self._loaded[name] = found
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
            self._opening.pop(name, None)
        return found

    def _raise_recent_failure(self, name: Name) -> None:
        failed = self._failed.get(name)
        if failed is not None and time.monotonic() - failed[0] < RETRY_SECONDS:
            raise Unavailable(failed[1].message, hint=failed[1].hint)

    def _open(self, version: ModelVersion) -> Loaded:
        if version.artifact is None:
            raise NotFound(f"{version.ref} has no artifact to serve.", hint="Register it with one.", field="version")
        try:
            path = self._artifacts.verified(version.artifact)
            if version.artifact not in self._checked:
                inspect_onnx(path, width=len(version.features))
                self._checked.add(version.artifact)
            return Loaded(version, Session(path, threads=self._threads), path.stat().st_size)
        except Exception as err:
            words = err.message if isinstance(err, MlboxError) else f"{err}."
            raise Unavailable(f"{version.ref} cannot be loaded: {words}", hint="Register it again.") from err

    def drop(self, model: str, version: int) -> None:
        """Free a version's memory; it is loaded again when it is asked for."""
        with self._lock:
            self._loaded.pop((model, version), None)
            self._failed.pop((model, version), None)

    def loaded(self) -> list[ModelVersion]:
        """The versions in memory, the last used last."""
        with self._lock:
            return [found.version for found in self._loaded.values()]

    def size(self) -> int:
        """The bytes of all that is in memory."""
        with self._lock:
            return sum(found.size for found in self._loaded.values())

    def close(self) -> None:
        """Drop all."""
        with self._lock:
            self._loaded.clear()
