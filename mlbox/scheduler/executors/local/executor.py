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
from mlbox.scheduler.executors.local.environment import environment, inherited
from mlbox.scheduler.executors.local.folder import Claim, Folder, link_modules, readable
from mlbox.scheduler.executors.local.logtimes import last_lines, printed_since
from mlbox.scheduler.executors.local.meter import Meter
from mlbox.scheduler.executors.local.shim import EVICTED
from mlbox.scheduler.executors.local.spawner import Shim, Spawner
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
MOST_RESERVED = 0.1
"""Of a disk, at most this part is what jobs leave free."""
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
        disk_bytes: int = 0,
        groups: bool = True,
        isolation: Isolation = NOT_ISOLATED,
        ledger: Ledger | None = None,
    ) -> None:
        self._isolation = isolation
        self._root = root
        self._log_bytes = log_bytes
        self._disk_bytes = disk_bytes
        """What attempts leave free of the disk that holds their folders."""
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
        self.epoch = processes.boot_id()
        """Claims are not put on disk before commands start: when the power fails, one may be gone though its attempt ran."""
        self._inherited = inherited()
        self._changed: Callable[[Ref], None] = lambda ref: None
        self._lock = threading.RLock()
        self._shims: dict[int, Shim] = {}
        """This server's, by their process ids, until they are gone."""
        self._watched: dict[Ref, Shim] = {}
        """By attempt, who runs it, as far as was heard: one of these, or an earlier server's."""
        self._over: dict[Ref, str] = {}
        """Attempts that a shim is done with, or that ended with theirs, and what it said was wrong."""
        self._stopped: set[Ref] = set()
        """Attempts that are not to start, because their stop was there first."""
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
            cgroups.sweep(processes.lives)
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
            "env": environment(launch, self._inherited, laid_out["env"]),
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
        self._give(launch.ref, spec)

    def _give(self, ref: Ref, spec: dict[str, Any]) -> None:
        with self._lock:
            if ref not in self._stopped:
                self._spawner.spawn(ref, spec)
        self._dispatch()

    def _dispatch(self) -> None:
        with self._lock:
            for shim in self._spawner.dispatch():
                if shim.ref is not None:
                    self._watched[shim.ref] = shim

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
            folders=[folder.work, f"{folder.path}/spool", folder.checkpoints, folder.tmp],
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
            why = self._over[ref] or "it left no word"
            return Observed("ended", ended=Ended(None, error=f"its shim could not start: {why}"))
        return ABSENT

    def _lives(self, ref: Ref, claim: Claim) -> bool:
        """Whether the shim that claimed an attempt is there, and at it; if so, its end will be heard of."""
        with self._lock:
            ours = self._shims.get(claim.pid)
            if ours is not None and not readable(ours.pidfd):
                if ours.ref == ref:
                    self._watched[ref] = ours
                return ours.ref == ref
            watched = self._watched.get(ref)
            if watched is not None and watched.pid == claim.pid and not readable(watched.pidfd):
                return True
            self._unwatch(ref)
            fd = claim.lives()
            if fd is None:
                return False
            self._watch(Shim(claim.pid, fd, ref))
            return True

    def _lost(self, ref: Ref, claim: Claim) -> Ended:
        """The shim is gone and left no status: what it ran must not run on beside another attempt."""
        if claim.boot != processes.boot_id():
            return Ended(None, lost=True, error="the machine was restarted while it ran")
        name = cgroups.name_of(claim.pid, claim.start)
        cgroups.kill(name)
        if not processes.kill_all(lambda: [*processes.of_attempt(*ref), *cgroups.members(name)], REMAINS_SECONDS):
            _log.warning("Processes of %s could not be killed.", ref)
        cgroups.remove(name)
        if self._engine is not None:
            containers.end(self._engine, _name(ref))
        return Ended(None, lost=True, error="its shim was killed, and its processes with it")

    def _checkpoint_at(self, ref: Ref, folder: Folder) -> datetime | None:
        due, known = self._checkpoints.get(ref, (0.0, None))
        if time.monotonic() >= due:
            known = folder.checkpoint_at()
            self._checkpoints[ref] = (time.monotonic() + CHECKPOINT_SECONDS, known)
        return known

    def stop(self, ref: Ref) -> None:
        """Tell the shim; an attempt whose command has not started will never start."""
        with self._lock:
            self._spawner.cancel(ref)
            if self.state(ref) == ABSENT:
                self._stopped.add(ref)
            self._signal(ref, signal.SIGTERM)

    def _signal(self, ref: Ref, number: signal.Signals) -> None:
        with self._lock:
            shim = self._watched.get(ref)
            if shim is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(shim.pidfd, number)

    def missing(self) -> int:
        """As the file system says that holds the folders."""
        disk = os.statvfs(self._root.parent)
        reserved = min(self._disk_bytes, int(disk.f_blocks * MOST_RESERVED) * disk.f_frsize)
        return max(0, reserved - disk.f_bavail * disk.f_frsize)

    def held(self, ref: Ref) -> int:
        """Blocks, so that a file with holes counts as what it takes."""
        return self._folder(ref).held()

    def evict(self, ref: Ref) -> None:
        """Tell the shim, which asks the command nothing."""
        self._signal(ref, EVICTED)

    def relieve(self, ref: Ref) -> None:
        """Whatever attempt of the job it was that wrote it."""
        self.discard(ref.job_id, ref.number, checkpoints=False)
        gone = 0
        for path in self._folder(ref).checkpoints_by_age():
            if not self.missing():
                break
            path.unlink(missing_ok=True)
            gone += 1
        kept = f", and the {gone} oldest of the files in its folder for checkpoints" if gone else ""
        self.say(ref, f"the disk was full: what this job left here was removed, but for this log{kept}.")

    def measure(self, ref: Ref, devices: Sequence[str]) -> Mapping[str, float]:
        """Of all processes below its shim, and of its GPUs."""
        claim = self._folder(ref).claim()
        if claim is None or ref not in self._watched:
            return {}
        return self._meter.measure(ref, claim.pid, self._devices.of(devices))

    def log(self, ref: Ref, offset: int, limit: int) -> bytes:
        """From the file that the attempt prints to."""
        try:
            with open(self._folder(ref).log, "rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def log_start(self, ref: Ref, *, lines: int | None = None, since: datetime | None = None) -> int:
        """Found in the file, and in the marks beside it."""
        log, marks = self._folder(ref).log, f"{self._folder(ref).path}/{outputs.MARKS}"
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
            self._over.pop(ref, None)
            self._stopped.discard(ref)
            self._checkpoints.pop(ref, None)
            self._meter.forget(ref)
        self._folder(ref).clear()

    def discard(self, job_id: str, attempts: int, *, checkpoints: bool, logs: bool = False) -> None:
        """Remove folders, but for the few files that tell of an attempt."""
        for number in range(1, attempts + 1):
            self._stopped.discard(Ref(job_id, number))
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
        return Folder(str(self._root), ref)

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
                elif key.fd == key.data.pidfd:
                    self._gone(key.data)
                elif key.data.link is not None:
                    self._hear_shim(key.data)

    def _hear(self) -> bool:
        """Take one message of the zygote; False when there are no more, as its end says as well."""
        shim = self._spawner.receive()
        if shim is None:
            return False
        with self._lock:
            self._spawner.answered(self._watch(shim))
        return True

    def _hear_shim(self, shim: Shim) -> bool:
        """Take one message of a shim; False when there are no more."""
        said = shim.hear()
        if said is None:
            self._hang_up(shim)
            return False
        what, why = said
        if what in ("ended", "failed"):
            self._done(shim, why)
        elif what == "left":
            self._done(shim, None)
        elif (ref := shim.ref) is not None:
            self._spawner.answered(ref)
            self._spawner.started(ref)
            if what == "running":
                self._changed(ref)
        self._dispatch()
        return True

    def _done(self, shim: Shim, why: str | None = "") -> None:
        """A shim is through with its attempt, or (None) left it undone because it was stopped, and may have another."""
        with self._lock:
            ref = shim.ref
            if ref is None:
                return
            shim.ref = None
            self._spawner.answered(ref)
            self._spawner.started(ref)
            if self._watched.get(ref) is shim:
                del self._watched[ref]
                if why is not None:
                    self._over[ref] = why
            if shim.link is not None and not self._spawner.rest(shim):
                self._hang_up(shim)
        self._changed(ref)

    def _hang_up(self, shim: Shim) -> None:
        with self._lock:
            self._spawner.forget(shim)
            if shim.link is not None:
                self._selector.unregister(shim.link)
                shim.hang_up()

    def _gone(self, shim: Shim) -> None:
        """A shim is no more; what it was given and did not take, another one may."""
        while shim.link is not None and readable(shim.link.fileno()) and self._hear_shim(shim):
            pass
        with self._lock:
            left = shim.ref if self._forget(shim) and not shim.first else None
            if left is not None and self._folder(left).claim() is None:
                self._watched.pop(left, None)
                self._spawner.again(left)
                shim.ref = None
        self._done(shim)
        self._dispatch()

    def _forget(self, shim: Shim) -> bool:
        """Let go of all that is known of a shim; False where that was done before."""
        if shim.pidfd < 0:
            return False
        self._hang_up(shim)
        self._selector.unregister(shim.pidfd)
        os.close(shim.pidfd)
        shim.pidfd = -1
        if self._shims.get(shim.pid) is shim:
            del self._shims[shim.pid]
        return True

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

    def _watch(self, shim: Shim) -> Ref:
        """Hear of a shim's end by its pidfd, and of what it says: both are ours from here on. What it runs."""
        assert shim.ref is not None
        self._selector.register(shim.pidfd, selectors.EVENT_READ, shim)
        if shim.link is not None:
            self._selector.register(shim.link, selectors.EVENT_READ, shim)
            self._shims[shim.pid] = shim
        known = self._watched.setdefault(shim.ref, shim)
        if known.pid == shim.pid and known is not shim:  # it was seen before it was heard of
            self._unwatch(shim.ref)
            self._watched[shim.ref] = shim
        return shim.ref

    def _unwatch(self, ref: Ref) -> None:
        shim = self._watched.pop(ref, None)
        if shim is not None and shim.link is None and self._shims.get(shim.pid) is not shim:
            self._forget(shim)

    def close(self) -> None:
        """Stop listening; running attempts go on under their shims."""
        self._closing = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")
        if self._thread.is_alive():
            self._thread.join()
        for shim in {*self._watched.values(), *self._shims.values()}:
            self._forget(shim)
        self._spawner.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _name(ref: Ref) -> str:
    """What the container of an attempt, or the meeting of its ranks, is called."""
    return f"mlbox-{ref.job_id}-{ref.number}"
