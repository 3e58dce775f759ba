"""NVIDIA's driver library, in Python, for a machine that has none: pynvml calls it as it calls the real one.

It stands for the world outside, from the C interface on: every line of pynvml and of mlbox above it is the real one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml
import pytest

GIB = 2**30
SUCCESS, NOT_SUPPORTED, NOT_FOUND, LOST, TOO_SMALL = 0, 3, 6, 15, 7


@dataclass
class Chip:
    """A GPU, or a MIG device."""

    uuid: str
    name: str = "NVIDIA H200"
    memory: int = 139 * GIB
    used: int = 0
    use: int | None = 0
    milliwatts: int = 75_000
    celsius: int = 30
    pids: list[int] = field(default_factory=list)
    lost: bool = False
    parts: list[Chip | None] | None = None
    """The MIG devices by place, where it is split."""


class Driver:
    """The library; a handle is the number of a chip."""

    def __init__(self, *chips: Chip) -> None:
        self.chips = list(chips)
        self._all = [*chips, *(part for chip in chips for part in chip.parts or [] if part)]

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self), f"do_{name.removesuffix('_v2').removesuffix('_v3')}", None)
        if found is None:
            raise AttributeError(name)
        return lambda *arguments: found(self, *arguments)

    def _chip(self, handle: Any) -> Chip:
        return self._all[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1]

    def _handle(self, target: Any, chip: Chip) -> int:
        # A pointer, as the real one's handles are.
        ctypes.cast(target, ctypes.POINTER(ctypes.c_void_p))[0] = self._all.index(chip) + 1
        return SUCCESS

    def do_nvmlInitWithFlags(self, flags: Any) -> int:
        return SUCCESS

    def do_nvmlShutdown(self) -> int:
        return SUCCESS

    def do_nvmlErrorString(self, code: int) -> bytes:
        return b"GPU is lost" if code == LOST else b"Not Supported"

    def do_nvmlDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.chips)
        return SUCCESS

    def do_nvmlDeviceGetHandleByIndex(self, index: Any, target: Any) -> int:
        return self._handle(target, self.chips[index.value])

    def do_nvmlDeviceGetMigMode(self, handle: Any, now: Any, later: Any) -> int:
        if self._chip(handle).parts is None:
            return NOT_SUPPORTED
        now._obj.value = later._obj.value = 1
        return SUCCESS

    def do_nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = len(self._chip(handle).parts or [])
        return SUCCESS

    def do_nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, target: Any) -> int:
        part = (self._chip(handle).parts or [])[index.value]
        return NOT_FOUND if part is None else self._handle(target, part)

    def do_nvmlDeviceGetUUID(self, handle: Any, text: Any, length: Any) -> int:
        text.value = self._chip(handle).uuid.encode()
        return SUCCESS

    def do_nvmlDeviceGetName(self, handle: Any, text: Any, length: Any) -> int:
        text.value = self._chip(handle).name.encode()
        return SUCCESS

    def do_nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        chip = self._chip(handle)
        if chip.lost:
            return LOST
        memory._obj.total, memory._obj.used, memory._obj.free = chip.memory, chip.used, chip.memory - chip.used
        return SUCCESS

    def do_nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        chip = self._chip(handle)
        if chip.use is None:
            return NOT_SUPPORTED
        rates._obj.gpu = chip.use
        return SUCCESS

    def do_nvmlDeviceGetPowerUsage(self, handle: Any, milliwatts: Any) -> int:
        milliwatts._obj.value = self._chip(handle).milliwatts
        return SUCCESS

    def do_nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, milliwatts: Any) -> int:
        milliwatts._obj.value = 700_000
        return SUCCESS

    def do_nvmlDeviceGetTemperature(self, handle: Any, sensor: Any, celsius: Any) -> int:
        celsius._obj.value = self._chip(handle).celsius
        return SUCCESS

    def do_nvmlDeviceGetComputeRunningProcesses(self, handle: Any, count: Any, processes: Any) -> int:
        pids = self._chip(handle).pids
        room, count._obj.value = count._obj.value, len(pids)
        if room < len(pids):
            return TOO_SMALL
        for place, pid in enumerate(pids):
            processes[place].pid, processes[place].usedGpuMemory = pid, GIB
        return SUCCESS


@contextmanager
def installed(driver: Driver) -> Iterator[Driver]:
    """This library in the place of the machine's own, which it most likely has not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pynvml, "nvmlLib", driver)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield driver
