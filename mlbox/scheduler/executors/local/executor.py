"""The executor of this machine: each attempt a folder and a shim, which outlives the server."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from mlbox.records import JobSpec
from mlbox.scheduler.devices import Devices, Ledger
from mlbox.scheduler.executors.base import ABSENT, STARTING, Ended, Launch, Observed, Ref, Supply
from mlbox.scheduler.executors.local import cgroups, containers, outputs, processes
from mlbox.scheduler.executors.local.environment import environment
from mlbox.scheduler.executors.local.folder import Claim, Folder, link_modules, readable
from mlbox.scheduler.executors.local.logtimes import last_lines, printed_since
from mlbox.scheduler.executors.local.meter import Meter
from mlbox.scheduler.executors.local.spawner import Forked, Spawner
from mlbox.scheduler.gpus import NO_DEVICE, Inventory
from mlbox.scheduler.isolation import NOT_ISOLATED, Isolation
from mlbox.scheduler.machine import this_machine

HARD_LIMIT = 2.0
"""How often what a job asked for of memory it may hold at most."""
CHECKPOINT_SECONDS = 5.0
"""Between two looks at a job's checkpoints."""
RESTART_SECONDS = 1.0
REMAINS_SECONDS = 4.0
LOG_BYTES = 1 << 30
_log = logging.getLogger(__name__)


class Local:
    """Attempts as processes of this machine."""

    def __init__(
        self,
        root: Path,
        inventory: Inventory,
        *,
        cpus: float = 0,
        memory_gb: float = 0,
        log_bytes: int = LOG_BYTES,
        groups: bool = True,
        isolation: Isolation = NOT_ISOLATED,
        ledger: Ledger | None = None,
    ) -> None:
        self._isolation = isolation
        self._root = root
        self._log_bytes = log_bytes
        self._groups = groups
        """Whether attempts get control groups; without, they are watched and walked, as where there are none."""
        self._devices = Devices(
            inventory,
            cpus=cpus or float(os.cpu_count() or 1),
            memory_gb=memory_gb or psutil.virtual_memory().total / 2**30,
            ledger=ledger,
        )
        self._meter = Meter()
        self._engine = containers.engine()
        self._changed: Callable[[Ref], None] = lambda ref: None
        self._lock = threading.RLock()
        self._watched: dict[Ref, int] = {}
        """The pidfd of each shim that lives, as far as was heard."""
        self._over: set[Ref] = set()
        """Attempts whose shim ended."""
        self._checkpoints: dict[Ref, tuple[float, datetime | None]] = {}
        self._spawner = Spawner(isolation.rules(isolation.writable) if isolation.confined else None)
        self._site: Path | None = None
        """Where confined jobs find modules in folders that they cannot list."""
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="mlbox-shims", daemon=True)

    def open(self, changed: Callable[[Ref], None]) -> None:
        """Start the zygote, and listen to it and for the ends of shims."""
        self._changed = changed
        if self._isolation.confined:
            self._site = link_modules(self._root.parent / "site", self._isolation.importable())
        if self._groups:
            cgroups.delegate()
        self._spawner.start()
        self._register_spawner()
        self._thread.start()

    @property
    def zygote(self) -> int:
        """The process that forks shims."""
        return self._spawner.pid

    def capacity(self, held: Collection[str] = ()) -> Supply:
        """What this machine has, or as much of it as its operator gives, but for what others use."""
        gpus = self._devices.look(held)
        return Supply(self._devices.box(gpus), gpus, self._devices.missing, this_machine())

    def check(self, spec: JobSpec) -> None:
        """An image needs a container engine."""
        containers.check(spec, self._engine)

    # -- attempts ---------------------------------------------------------------------------------------------------

    def start(self, launch: Launch) -> None:
        """Lay out the folder, and have a shim forked for it."""
        if self.state(launch.ref) != ABSENT:
            return
        folder = self._folder(launch.ref)
        laid_out = folder.prepare(launch, self._isolation, self._site)
        spec = {
            **laid_out,
            "env": environment(launch, laid_out["env"]),
            "command": list(launch.spec.command),
            "mask": dict(launch.mask),
            "procs": launch.spec.procs,
            "timeout_seconds": launch.spec.timeout_seconds,
            "grace_seconds": launch.grace_seconds,
            "name": _name(launch.ref),
            "grouped": self._groups,
            "memory_bytes": self._memory_bytes(launch.spec),
            "log_bytes": self._log_bytes,
        }
        if launch.spec.image:
            self._contain(spec, launch, folder)
        self._spawner.spawn(launch.ref, spec)

    def _memory_bytes(self, spec: JobSpec) -> int:
        most = self._devices.memory_gb
        return int(min(HARD_LIMIT * (spec.memory_gb or most), most) * 2**30)

    def _contain(self, spec: dict[str, Any], launch: Launch, folder: Folder) -> None:
        assert self._engine is not None
        spec["command"] = containers.wrap(
            self._engine,
            spec["name"],
            launch.spec,
            spec["env"],
            folders=[folder.work, folder.path / "spool", folder.checkpoints, folder.tmp],
            readable=[folder.datasets] if launch.mounts else [],
            cwd=spec["cwd"],
            devices=[device for device in launch.devices if not device.startswith(NO_DEVICE)],
            memory_bytes=spec["memory_bytes"],
        )
        spec["env"] |= containers.client_environment()
        spec["after"] = containers.remove(self._engine, spec["name"])
        spec.pop("confine", None)

    def state(self, ref: Ref) -> Observed:
        """As the folder and the processes say."""
        folder = self._folder(ref)
        claim = folder.claim()
        lives = claim is not None and self._lives(ref, claim)
        ended = None if lives else folder.ended()  # asked after the process, which may have ended in between
        if lives and claim is not None:
            return Observed("running", claim.pid, checkpoint_at=self._checkpoint_at(ref, folder))
        if ended is not None:
            return Observed("ended", claim.pid if claim else None, ended)
        if claim is not None:
            return Observed("ended", claim.pid, self._lost(ref, claim))
        if self._spawner.pending(ref) or ref in self._watched:
            return STARTING
        if ref in self._over:
            return Observed("ended", ended=Ended(None, error=f"its shim could not start: {folder.complaint()}"))
        return ABSENT

    def _lives(self, ref: Ref, claim: Claim) -> bool:
        """Whether the shim that claimed an attempt is there; if so, its end will be heard of."""
        with self._lock:
            fd = self._watched.get(ref)
            if fd is not None and not readable(fd):
                return True
            self._unwatch(ref)
            fd = claim.lives()
            if fd is None:
                return False
            self._watch(ref, fd)
            return True

    def _lost(self, ref: Ref, claim: Claim) -> Ended:
        """The shim is gone and left no status: what it ran must not run on beside another attempt."""
        if claim.boot != processes.boot_id():
            return Ended(None, lost=True, error="the machine was restarted while it ran")
        name = _name(ref)
        cgroups.kill(name)
        if not processes.kill_all(lambda: [*processes.of_attempt(*ref), *cgroups.members(name)], REMAINS_SECONDS):
            _log.warning("Processes of %s could not be killed.", ref)
        cgroups.remove(name)
        return Ended(None, lost=True, error="its shim was killed, and its processes with it")

    def _checkpoint_at(self, ref: Ref, folder: Folder) -> datetime | None:
        due, known = self._checkpoints.get(ref, (0.0, None))
        if time.monotonic() >= due:
            known = folder.checkpoint_at()
            self._checkpoints[ref] = (time.monotonic() + CHECKPOINT_SECONDS, known)
        return known

    def stop(self, ref: Ref) -> None:
        """Tell the shim; one that is not there yet is told when it is."""
        with self._lock:
            fd = self._watched.get(ref)
            if fd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGTERM)

    def measure(self, ref: Ref, devices: Sequence[str]) -> Mapping[str, float]:
        """Of all processes below its shim, and of its GPUs."""
        claim = self._folder(ref).claim()
        if claim is None or ref not in self._watched:
            return {}
        return self._meter.measure(ref, claim.pid, self._devices.of(devices))

    def log(self, ref: Ref, offset: int, limit: int) -> bytes:
        """From the file that the attempt prints to."""
        try:
            with self._folder(ref).log.open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def log_start(self, ref: Ref, *, lines: int | None = None, since: datetime | None = None) -> int:
        """Found in the file, and in the marks beside it."""
        log, marks = str(self._folder(ref).log), str(self._folder(ref).path / outputs.MARKS)
        starts = [0]
        if since is not None:
            starts.append(printed_since(log, marks, since.timestamp()))
        if lines is not None:
            starts.append(last_lines(log, lines))
        return max(starts)

    def clear(self, ref: Ref) -> None:
        """Remove temporary files and the datasets' names."""
        with self._lock:
            self._unwatch(ref)
            self._over.discard(ref)
            self._checkpoints.pop(ref, None)
            self._meter.forget(ref)
        self._folder(ref).clear()

    def discard(self, job_id: str, attempts: int, *, checkpoints: bool, logs: bool = False) -> None:
        """Remove folders, but for the few files that tell of an attempt."""
        for number in range(1, attempts + 1):
            folder = self._folder(Ref(job_id, number))
            folder.discard()
            if logs:
                folder.discard_log()
        if checkpoints:
            self._folder(Ref(job_id, 1)).discard_checkpoints()

    def say(self, ref: Ref, line: str) -> None:
        """Write to the file that the attempt would print to."""
        self._folder(ref).say(line)

    def _folder(self, ref: Ref) -> Folder:
        return Folder(self._root, ref)

    # -- listening --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif key.data == "zygote":
                    self._hear()
                elif key.data == "zygote's end":
                    self._restart()
                    break  # what else was selected may be of the one that is gone
                else:
                    self._shim_ended(key.data, key.fd)

    def _hear(self) -> bool:
        """Take one message; False when there are no more, as the zygote's end says as well."""
        said = self._spawner.receive()
        if said is None:
            return False
        if isinstance(said, Forked):
            with self._lock:
                self._watch(said.ref, said.pidfd)
                self._spawner.answered(said.ref)
        else:
            self._changed(said.ref)
        return True

    def _shim_ended(self, ref: Ref, fd: int) -> None:
        with self._lock:
            if self._watched.get(ref) == fd:
                self._unwatch(ref)
                self._over.add(ref)
        self._changed(ref)

    def _register_spawner(self) -> None:
        self._selector.register(self._spawner.fileno(), selectors.EVENT_READ, "zygote")
        self._selector.register(self._spawner.pidfd, selectors.EVENT_READ, "zygote's end")

    def _restart(self) -> None:
        """The zygote is gone: its shims are not, and another one takes its place."""
        while readable(self._spawner.fileno()) and self._hear():
            pass
        self._selector.unregister(self._spawner.fileno())
        self._selector.unregister(self._spawner.pidfd)
        while not self._closing:
            _log.warning("The process that starts jobs has ended, and is started again.")
            time.sleep(RESTART_SECONDS)
            try:
                self._spawner.start()
            except OSError as err:  # no room for another process: there will be
                _log.warning("It could not be started: %s", err)
            else:
                self._register_spawner()
                return

    def _watch(self, ref: Ref, fd: int) -> None:
        """Hear of a shim's end by its pidfd, which is ours from here on."""
        if ref in self._watched or self._closing:
            os.close(fd)
            return
        self._watched[ref] = fd
        self._selector.register(fd, selectors.EVENT_READ, ref)

    def _unwatch(self, ref: Ref) -> None:
        fd = self._watched.pop(ref, None)
        if fd is not None:
            self._selector.unregister(fd)
            os.close(fd)

    def close(self) -> None:
        """Stop listening; running attempts go on under their shims."""
        self._closing = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join()
        for ref in list(self._watched):
            self._unwatch(ref)
        self._spawner.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _name(ref: Ref) -> str:
    """What the control group, or the container, of an attempt is called."""
    return f"mlbox-{ref.job_id}-{ref.number}"
