"""What an attempt uses of this machine, under the names that MLflow has for it.

GPUs are numbered as the job sees them: `gpu_0` is the first that it was given.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence

import psutil

from mlbox.scheduler.executors.base import Ref
from mlbox.scheduler.executors.local import processes
from mlbox.scheduler.gpus import Reading

_TICKS = os.sysconf("SC_CLK_TCK")
_MEGABYTE = 1e6


class Meter:
    """Remembers of each attempt how much of the CPUs it had at the last look."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._last: dict[Ref, tuple[float, float]] = {}

    def measure(self, ref: Ref, shim: int, gpus: Sequence[tuple[float, Reading]]) -> dict[str, float]:
        """CPUs and memory of all below a shim, and of its GPUs what the driver says; `gpus` has each one's GiB.

        The use of CPUs is that since the last look, in percent of the machine's, so the first look has none.
        """
        pids = processes.descendants(shim)
        memory = processes.memory_of(pids)
        found = {
            "system/system_memory_usage_megabytes": memory / _MEGABYTE,
            "system/system_memory_usage_percentage": 100 * memory / psutil.virtual_memory().total,
        }
        now, spent = self._seconds(), cpu_seconds(pids)
        before = self._last.get(ref)
        self._last[ref] = (now, spent)
        if before is not None and now > before[0]:
            share = max(0.0, spent - before[1]) / (now - before[0]) / (os.cpu_count() or 1)
            found["system/cpu_utilization_percentage"] = min(100.0, 100 * share)
        for number, (memory_gb, reading) in enumerate(gpus):
            found |= {f"system/gpu_{number}_{name}": value for name, value in _of_gpu(memory_gb, reading).items()}
        return found

    def forget(self, ref: Ref) -> None:
        """An attempt that is over."""
        self._last.pop(ref, None)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, and of those below them that have ended and were collected."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += sum(map(int, processes.stat_of(pid)[11:15]))  # utime, stime, cutime, cstime
    return total / _TICKS


def _of_gpu(memory_gb: float, reading: Reading) -> dict[str, float]:
    used, watts, limit = reading.memory_used_gb, reading.power_watts, reading.power_limit_watts
    values = {
        "utilization_percentage": reading.utilization_percentage,
        "memory_usage_megabytes": None if used is None else used * 2**30 / _MEGABYTE,
        "memory_usage_percentage": 100 * used / memory_gb if used is not None and memory_gb else None,
        "power_usage_watts": watts,
        "power_usage_percentage": 100 * watts / limit if watts is not None and limit else None,
        "temperature_celsius": reading.temperature_celsius,
    }
    return {name: float(value) for name, value in values.items() if value is not None}
