"""The GPUs of the box: by NVML, declared as virtual ones, or none.

An inventory is the seam: what there is, once, and what each device does now. Jobs are bound by UUID, so that it does not
matter in which order CUDA counts, and a MIG device is a device of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from mlbox.errors import InvalidInput, StartupError
from mlbox.records import Gpu

T = TypeVar("T")
VIRTUAL = "virtual:"
NO_DEVICE = "VIRTUAL-"
"""How the UUID of a virtual device begins: CUDA finds nothing under it."""


class Reading(NamedTuple):
    """What a device does now; what the driver does not say is None."""

    utilization_percentage: float | None = None
    memory_used_gb: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    pids: tuple[int, ...] = ()
    """The processes on it."""
    own_gb: float = 0.0
    """Memory that this process has of it: of the models that it serves."""
    fault: str = ""
    """Why the driver cannot say: a GPU that fell off the bus, for example."""


class Inventory(Protocol):
    """The seam: what the box has."""

    missing: str
    """Why there is no GPU, if the driver said."""

    def gpus(self) -> list[Gpu]:
        """Its devices, in order."""

    def readings(self) -> dict[str, Reading]:
        """What each device does now, by UUID; a virtual one does nothing."""


class Nvml:
    """What NVIDIA's driver says; no GPUs where there is no driver, with the reason in `missing`.

    The driver's library stays open, as opening it takes longer than all that is asked.
    """

    def __init__(self, only: Collection[int] | None = None) -> None:
        self.missing = ""
        self._only = only
        self._lock = threading.Lock()
        self._handles: dict[str, tuple[Any, Any]] = {}
        """By UUID, the device and the GPU that it is on."""

    def gpus(self) -> list[Gpu]:
        """The GPUs that the driver knows; of one that is split into MIG devices, these."""
        import pynvml  # a box without GPUs need not load it

        with self._lock:
            self._handles = {}
            try:
                pynvml.nvmlInit()
                found = [
                    gpu
                    for index in range(pynvml.nvmlDeviceGetCount())
                    if self._only is None or index in self._only
                    for gpu in self._devices(pynvml, index)
                ]
            except pynvml.NVMLError as err:
                self.missing = str(err)
                return []
            return found

    def _devices(self, nvml: Any, index: int) -> Iterator[Gpu]:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        parts: list[tuple[int | None, Any]] = [*_mig_devices(nvml, gpu)]
        for mig, handle in parts or [(None, gpu)]:
            uuid = str(nvml.nvmlDeviceGetUUID(handle))
            self._handles[uuid] = (handle, gpu)
            yield Gpu(
                uuid=uuid,
                index=index,
                mig=mig,
                name=str(nvml.nvmlDeviceGetName(handle)),
                memory_gb=nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30,
            )

    def readings(self) -> dict[str, Reading]:
        """Use, memory, power, temperature and processes of each device; power and temperature are of the whole GPU."""
        if not self._handles:
            return {}
        import pynvml

        with self._lock:
            return {uuid: _reading(pynvml, *handles) for uuid, handles in self._handles.items()}


def _mig_devices(nvml: Any, gpu: Any) -> Iterator[tuple[int, Any]]:
    """The MIG devices of a GPU by number; none where it is not split."""
    mode = _said(nvml, lambda: nvml.nvmlDeviceGetMigMode(gpu))
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # numbers are places, and not each is taken
            yield number, nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)


def _reading(nvml: Any, device: Any, gpu: Any) -> Reading:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(device).used / 2**30
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(device)
    except nvml.NVMLError as err:
        return Reading(fault=str(err))
    use = _said(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu)
    return Reading(
        utilization_percentage=None if use is None else float(use),
        memory_used_gb=memory,
        power_watts=_watts(_said(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(gpu))),
        power_limit_watts=_watts(_said(nvml, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu))),
        temperature_celsius=_said(nvml, lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
        pids=tuple(process.pid for process in processes),
        own_gb=sum(each.usedGpuMemory or 0 for each in processes if each.pid == os.getpid()) / 2**30,
    )


def _said(nvml: Any, ask: Callable[[], T]) -> T | None:
    """What the driver answers; None where a device has no such thing, as a MIG device has no use of its own."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


class Virtual:
    """Devices that exist in the settings alone, to try a policy with; always labelled so."""

    missing = ""

    def __init__(self, devices: Sequence[tuple[str, float]]) -> None:
        self._gpus = [
            Gpu(uuid=f"{NO_DEVICE}{index}", index=index, name=name, memory_gb=memory_gb, virtual=True)
            for index, (name, memory_gb) in enumerate(devices)
        ]

    def gpus(self) -> list[Gpu]:
        """The declared ones."""
        return self._gpus

    def readings(self) -> dict[str, Reading]:
        """Nothing: there is no device to ask."""
        return {}


def inventory(setting: str) -> Inventory:
    """The inventory that a setting asks for: auto, none, indices such as 0,1, or virtual:NAME=GB,NAME=GB."""
    if setting == "auto":
        return Nvml()
    if setting == "none":
        return Virtual([])
    if setting.startswith(VIRTUAL):
        return Virtual([_declared(part) for part in setting.removeprefix(VIRTUAL).split(",")])
    return _chosen(setting)


def _declared(text: str) -> tuple[str, float]:
    name, equals, size = text.strip().rpartition("=")
    try:
        memory_gb = float(size)
    except ValueError:
        memory_gb = -1
    if not equals or not 0 < memory_gb < 100_000:
        raise InvalidInput(
            f"The virtual GPU {text!r:.80} is not NAME=GB.",
            hint="Write virtual:A100=80,A100=80, or [[gpus]] tables with name and memory_gb in the settings file.",
            field="gpus",
        )
    return name.strip(), memory_gb


def _chosen(setting: str) -> Inventory:
    parts = [part.strip() for part in setting.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InvalidInput(
            f"gpus is {setting!r:.80}.",
            hint="Give auto, none, indices such as 0,1, or virtual ones such as virtual:A100=80.",
            field="gpus",
        )
    chosen = sorted({int(part) for part in parts})
    driver = Nvml()
    known = sorted({gpu.index for gpu in driver.gpus()})
    absent = [index for index in chosen if index not in known]
    if absent:
        has = f"it has {', '.join(map(str, known))}" if known else f"it has none ({driver.missing or 'no device'})"
        raise StartupError(
            f"gpus names GPU {absent[0]} and this box lacks it: {has}.",
            hint="Install NVIDIA's driver, or start with --gpus none.",
        )
    return Nvml(only=chosen)
