"""Which models are in memory: each looked at in a process that may die, loaded once, dropped when it is no longer used.

Invariants
- Nothing is loaded here before `check.inspect_onnx` accepted the same bytes, once since the server started.
- Of requests that want a version at the same time, one loads it and the others wait; other versions are not held up.
- A version that could not be loaded is not tried again for `RETRY_SECONDS`; one that found no room is, at its next request.
- What is in memory fits into what jobs leave; a version that gives way first answers what waits for it.
- Of each model the version that another replaced in Production stays, to go back to at once, and is the first to give way.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from mlbox.errors import MlboxError, NotFound, Unavailable
from mlbox.records import ModelVersion, ServingConfig, TensorSpec
from mlbox.serve.inference.check import ModelCheck, inspect_onnx
from mlbox.serve.inference.devices import Devices, choose
from mlbox.serve.inference.lanes import Lane
from mlbox.serve.inference.rows import Columns
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.warmup import Feeds, warm
from mlbox.serve.inference.watch import Watch
from mlbox.serve.inference.workers import Workers
from mlbox.store.artifacts import Artifacts
from mlbox.store.registry.model_folders import ModelFolders
from mlbox.store.registry.registry import Registry

RETRY_SECONDS = 30.0
LOADS_AT_ONCE = 2
"""Threads that load, as many as processes look at models: what each keeps of memory for the next load, a few keep."""
Name = tuple[str, int]
_log = logging.getLogger(__name__)


class Loaded:
    """A version in memory, and the way to it."""

    def __init__(self, version: ModelVersion, session: Session, lane: Lane, size: int, device: int) -> None:
        self.version = version
        self.size = size
        """Bytes of memory that it was measured to take."""
        self.device = device
        """The number of the one that it is on, if it is on any."""
        self.session = session
        self.lane = lane
        self.columns = Columns(version)
        self.inputs = inputs_of(version, session.inputs)
        self.takes = frozenset(spec.name for spec in self.inputs)
        self.outputs = tuple(session.output_types)
        """By name, in the model's order."""
        self.named = version.features if session.tabular else ()
        """The features whose values are in its input."""
        self.used = time.perf_counter()
        """When it was asked for last."""


class Holding(NamedTuple):
    """What a version takes; nothing, and nowhere, for one that is not in memory."""

    size: int = 0
    """Bytes."""
    providers: tuple[str, ...] = ()
    """Of onnxruntime, in order of preference."""
    device: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a device, as far as that can run it."""
        return bool(self.providers) and self.providers[0] not in CPU


def _give_back() -> None:
    """Have the C library give back what loading took for a while, and what models left that are gone."""
    with contextlib.suppress(AttributeError):  # not every C library does that
        ctypes.CDLL(None).malloc_trim(0)


def _no_room(version: ModelVersion, need: int, room: float) -> Unavailable:
    err = Unavailable(
        f"{version.ref} takes {need / 2**20:,.0f} MiB, and jobs and others leave {max(0.0, room) / 2**20:,.0f} MiB.",
        hint="Wait for a job to end, or give the box more memory.",
    )
    err.retry_seconds = int(RETRY_SECONDS)
    return err


def inputs_of(version: ModelVersion, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The tensors that a version takes: where it names features, as many columns as these, whatever its file leaves free."""
    if not version.features:
        return inputs
    return tuple(replace(spec, shape=(spec.shape[0], len(version.features))) for spec in inputs)


class Loader:
    """At most so many versions in memory; past that, the one that was not asked for the longest gives way."""

    def __init__(
        self,
        registry: Registry,
        artifacts: Artifacts,
        statistics: Statistics,
        *,
        configs: Callable[[str], ServingConfig],
        recorded: Callable[[str], Sequence[Feeds]],
        threads: int,
        most: int,
        workers: Workers | None = None,
        devices: Devices | None = None,
        arena: int = 0,
        check: Callable[[str, int], None] = lambda model, version: None,
    ) -> None:
        self._registry = registry
        self._folders = ModelFolders(artifacts)
        self._statistics = statistics
        self._configs = configs
        self._known_configs: dict[str, ServingConfig] = {}
        self._recorded = recorded
        self.room: Callable[[int], float] = lambda held: math.inf
        """Bytes that models may take in all, given what they take now: what jobs and others leave of the box's memory."""
        self._watch = Watch()
        self._threads = threads
        self._most = most
        self._workers = workers
        self._devices = devices or Devices()
        self._copies = max(1, workers.count) if workers else 1
        """Of each model in memory: one in every worker."""
        self._arena = arena // self._copies
        self._loads = ThreadPoolExecutor(LOADS_AT_ONCE, thread_name_prefix="mlbox-load")
        self._check = check
        """Raises why a version may not be loaded."""
        self._lock = threading.Lock()
        self._loaded: dict[Name, Loaded] = {}
        self.generation = 0
        """How often a version came into memory, or left it."""
        self._opening: dict[Name, threading.Lock] = {}
        self._put_out: set[Name] = set()
        """Those that somebody had unloaded, until they are loaded again."""
        self._former: dict[str, int] = {}
        """By model, the version that was replaced in Production last, and stays."""
        self._failed: dict[Name, tuple[float, MlboxError]] = {}
        self._checked: dict[Path, ModelCheck] = {}

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
        found = self._loaded.get(name)
        if found is not None:
            found.used = time.perf_counter()
        return found

    def _open_once(self, name: Name) -> Loaded:
        self._check(*name)
        self._raise_recent_failure(name)
        try:
            version = self._registry.version(*name)
            found = self._opened(version)
        except Unavailable as err:
            _log.warning("%s", err)
            if not err.retry_seconds:  # else nothing is wrong with it but that there was no room
                self._failed[name] = (time.monotonic(), err)
            raise
        with self._lock:
            self._failed.pop(name, None)
            self._put_out.discard(name)
            self._loaded[name] = found
            self.generation += 1
            while len(self._loaded) > self._most:
                self._take_oldest()[1].lane.close()
            self._opening.pop(name, None)
        found.lane.configure(self.config(name[0]))  # which may have changed meanwhile
        _give_back()
        return found

    def _opened(self, version: ModelVersion) -> Loaded:
        """As `_open`, in one of the few threads that load."""
        try:
            opening = self._loads.submit(contextvars.copy_context().run, self._open, version)
        except RuntimeError as err:
            raise Unavailable(f"{version.ref} is not loaded: the server ends.", hint="Ask again soon.") from err
        return opening.result()

    def _raise_recent_failure(self, name: Name) -> None:
        failed = self._failed.get(name)
        if failed is not None and time.monotonic() - failed[0] < RETRY_SECONDS:
            raise Unavailable(failed[1].message, hint=failed[1].hint)

    def _open(self, version: ModelVersion) -> Loaded:
        if version.artifact is None:
            raise NotFound(f"{version.ref} has no artifact to serve.", hint="Register it with one.", field="version")
        try:
            path = self._folders.of_version(self._registry, version, verify=True)
            check = self._checked.get(path)
            if check is None:
                check = self._checked[path] = inspect_onnx(path, width=len(version.features))
            self._make_room(version, check.memory * self._copies)
            device = self._device()
            return self._warmed(version, self._session(version, path, device), check, device)
        except Exception as err:
            if isinstance(err, MlboxError) and err.retry_seconds:
                raise
            words = err.message if isinstance(err, MlboxError) else f"{err}."
            raise Unavailable(f"{version.ref} cannot be loaded: {words}", hint="Register it again.") from err

    def _device(self) -> int:
        with self._lock:
            held = [(found.device, found.size) for found in self._loaded.values()]
        return choose(self._devices.numbers, held)

    def _session(self, version: ModelVersion, path: Path, device: int) -> Session:
        facts: dict[str, Any] = {
            "threads": self._threads,
            "providers": self._devices.providers,
            "device": device,
            "arena": self._arena,
        }
        if self._workers is None:
            return Session(path, **facts)
        return self._workers.open(version.model, version.version, path, facts)

    def _make_room(self, version: ModelVersion, need: int) -> None:
        """Drop the longest unused versions until another fits; raises Unavailable where it does not fit alone."""
        while True:
            with self._lock:
                held = sum(found.size for found in self._loaded.values())
                room = self.room(held)
                if held + need <= room:
                    return
                if not self._loaded:
                    raise _no_room(version, need, room)
                name, found = self._take_oldest()
            _log.info("%s/%s gives way to %s: %s MiB are wanted.", *name, version.ref, need >> 20)
            found.lane.close()

    def _take_oldest(self) -> tuple[Name, Loaded]:
        """Forget the version that was not asked for the longest, one that was replaced first; called under the lock."""
        name = min(self._loaded, key=lambda name: (self._former.get(name[0]) != name[1], self._loaded[name].used))
        self.generation += 1
        return name, self._loaded.pop(name)

    def _warmed(self, version: ModelVersion, session: Session, check: ModelCheck, device: int) -> Loaded:
        """A version that ran: on what its model was asked lately, where that was anything, before it is asked itself."""
        config = self.config(version.model)
        inputs, recorded = inputs_of(version, session.inputs), self._recorded(version.model)
        speed = warm(session, inputs, recorded, known=check.known, seconds=config.timeout_ms / 1000)
        if check.branches:  # then its timing says nothing of the next request, which must hold up nobody else
            speed = None
        lane = Lane(
            version.ref,
            session,
            config,
            self._statistics,
            self._watch,
            joins=check.joins,
            speed=speed,
            width=self._copies,
        )
        return Loaded(version, session, lane, check.memory * self._copies, device)

    def forget(self, model: str) -> None:
        """Read anew how a model is served, when it is asked for: there may be another of its name."""
        with self._lock:
            self._known_configs.pop(model, None)

    def config(self, model: str) -> ServingConfig:
        """How a model is served."""
        found = self._known_configs.get(model)
        return found if found is not None else self._configure(model)

    def _configure(self, model: str) -> ServingConfig:
        config = self._configs(model)
        with self._lock:  # unless it changed meanwhile
            return self._known_configs.setdefault(model, config)

    def configure(self, model: str, config: ServingConfig) -> None:
        """Have a model's versions go by another configuration from now on."""
        with self._lock:
            self._known_configs[model] = config
            for name, found in self._loaded.items():
                if name[0] == model:
                    found.lane.configure(config)

    def usual_seconds(self, model: str, rows: int | None) -> float:
        """What a request of so many rows usually takes the quickest version of a model in memory; 0 where that is not known."""
        with self._lock:
            every = [found.lane.usual_seconds(rows) for name, found in self._loaded.items() if name[0] == model]
        return min([seconds for seconds in every if seconds], default=0.0)

    def pending(self) -> dict[Name, int]:
        """Requests that wait, by version."""
        with self._lock:
            return {name: found.lane.pending for name, found in self._loaded.items()}

    def drop(self, model: str, version: int) -> None:
        """Free a version's memory; it is loaded again when it is asked for."""
        with self._lock:
            found = self._loaded.pop((model, version), None)
            self.generation += 1
            self._failed.pop((model, version), None)
            if self._former.get(model) == version:
                del self._former[model]
        if found is not None:
            found.lane.close()

    def keep_former(self, model: str, version: int, successor: int) -> None:
        """Keep a version that another replaced in Production, in place of the one that was kept for that before."""
        with self._lock:
            before = self._former.get(model, version)
            self._former[model] = version
        if before not in (version, successor):
            self.drop(model, before)

    def put_out(self, model: str, version: int) -> None:
        """As `drop`, because somebody wants it out."""
        with self._lock:
            self._put_out.add((model, version))
        self.drop(model, version)

    def is_put_out(self, model: str, version: int) -> bool:
        """Whether somebody wanted a version out, and nobody asked for it since."""
        return (model, version) in self._put_out

    def held(self, model: str, version: int) -> Holding:
        """What a version takes, and where it runs, while it is in memory."""
        found = self._loaded.get((model, version))
        return Holding() if found is None else Holding(found.size, found.session.providers, found.device)

    def loading(self) -> set[Name]:
        """The versions that are being loaded."""
        with self._lock:
            return {name for name, opening in self._opening.items() if opening.locked() and name not in self._loaded}

    def loaded(self) -> list[ModelVersion]:
        """The versions in memory that may be asked, the last used last."""
        with self._lock:
            kept = [found for name, found in self._loaded.items() if self._former.get(name[0]) != name[1]]
        return [found.version for found in sorted(kept, key=lambda one: one.used)]

    def size(self) -> int:
        """The bytes of all that is in memory."""
        with self._lock:
            return sum(found.size for found in self._loaded.values())

    def close(self) -> None:
        """Drop all, once what waits was answered."""
        with self._lock:
            for found in self._loaded.values():
                found.lane.close()
            self._loaded.clear()
            self.generation += 1
        self._loads.shutdown(wait=False)
        self._watch.close()
