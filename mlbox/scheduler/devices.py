"""What the box has to give now: its devices without those that someone else uses, less what served models hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from mlbox.records import Gpu
from mlbox.scheduler.gpus import Inventory, Reading
from mlbox.scheduler.policy import Box, Device

FRESH_SECONDS = 0.25
"""A reading serves for so long."""
HOST = ""
"""In a ledger, the box's own memory."""
_MARK = b"MLBOX_JOB_ID="


class Ledger(Protocol):
    """The seam to what serves: one budget of memory for jobs and models."""

    def held_gb(self) -> Mapping[str, float]:
        """GiB that served models hold by the UUID of a GPU, and under `HOST` of the box's own memory."""


class NothingServed:
    """The ledger of a box that serves no models."""

    def held_gb(self) -> Mapping[str, float]:
        """Nothing."""
        return {}


class Devices:
    """The GPUs of one box, and what else it shares out.

    A process on a device is ours where it is below this server, or its environment names the job that it belongs to.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        cpus: float,
        memory_gb: float,
        ledger: Ledger | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inventory = inventory
        self._gpus = inventory.gpus()
        self._cpus = cpus
        self.memory_gb = memory_gb
        self._ledger = ledger or NothingServed()
        self._seconds = seconds
        self._lock = threading.Lock()
        self._readings: dict[str, Reading] = {}
        self._read_at = -FRESH_SECONDS

    @property
    def missing(self) -> str:
        """Why there is no GPU, if the driver said."""
        return self._inventory.missing

    def readings(self) -> Mapping[str, Reading]:
        """What each device does, no older than `FRESH_SECONDS`."""
        with self._lock:
            if self._seconds() - self._read_at >= FRESH_SECONDS:
                self._readings = self._inventory.readings()
                self._read_at = self._seconds()
            return self._readings

    def look(self, held: Collection[str] = ()) -> tuple[Gpu, ...]:
        """Each device with what it does and who else uses it; `held` are those that jobs have."""
        if not self._gpus:
            return ()
        readings, serving = self.readings(), self._ledger.held_gb()
        return tuple(
            _seen(gpu, readings.get(gpu.uuid, Reading()), serving.get(gpu.uuid, 0.0), gpu.uuid in held)
            for gpu in self._gpus
        )

    def of(self, uuids: Collection[str]) -> list[tuple[float, Reading]]:
        """The GiB of some devices and what each does; of those that are no more nothing."""
        readings = self.readings() if uuids else {}
        sizes = {gpu.uuid: gpu.memory_gb for gpu in self._gpus}
        return [(sizes[uuid], readings.get(uuid, Reading())) for uuid in uuids if uuid in sizes]

    def box(self, gpus: Sequence[Gpu]) -> Box:
        """What the policy may give, of devices as they were seen."""
        return Box(
            devices=tuple(
                Device(
                    id=gpu.uuid,
                    index=at,
                    memory_gb=gpu.memory_gb,
                    taken=bool(gpu.taken_by),
                    reserved_gb=gpu.reserved_gb,
                    virtual=gpu.virtual,
                )
                for at, gpu in enumerate(gpus)
            ),
            cpus=self._cpus,
            memory_gb=max(0.0, self.memory_gb - self._ledger.held_gb().get(HOST, 0.0)),
        )


def _seen(gpu: Gpu, reading: Reading, reserved_gb: float, held: bool) -> Gpu:
    return msgspec.structs.replace(
        gpu,
        taken_by=_taken_by(reading, held),
        reserved_gb=max(reserved_gb, reading.own_gb),
        utilization_percentage=reading.utilization_percentage,
        memory_used_gb=reading.memory_used_gb,
        power_watts=reading.power_watts,
        temperature_celsius=reading.temperature_celsius,
    )


def _taken_by(reading: Reading, held: bool) -> str:
    """Who uses a device beside us, in words; "" for nobody."""
    if reading.fault:
        return f"the driver says: {reading.fault}"
    for pid in reading.pids:
        # What cannot be seen, as in a container, is most likely of the job that has the device.
        if not (held if (ours := _is_ours(pid)) is None else ours):
            return f"process {pid}" + (f" ({name})" if (name := _name(pid)) else "")
    return ""


def _is_ours(pid: int) -> bool | None:
    """Whether a process is this server's or a job's; None where that cannot be seen."""
    seen: bool | None = None
    while pid > 0:
        if pid == os.getpid():
            return True
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return seen
        if any(entry.startswith(_MARK) for entry in environment.split(b"\0")):
            return True
        seen, pid = False, parent
    return seen


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
