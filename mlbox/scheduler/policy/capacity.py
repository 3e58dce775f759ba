"""What is free, and where a job fits: shares are packed onto the fullest device that has room, whole ones stay whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlbox.scheduler.policy.types import EPSILON, Box, Device, Need, Running


class Capacity:
    """What is free of a box; changes as jobs take and give back."""

    __slots__ = ("_at", "_bounds", "cpus", "devices", "memory", "memory_gb", "share")

    def __init__(self, box: Box, running: Iterable[Running] = ()) -> None:
        self.devices = box.devices
        self.cpus = box.cpus
        self.memory_gb = box.memory_gb
        self.share = [0.0 if device.taken else 1.0 for device in box.devices]
        self.memory = [device.memory_gb - device.reserved_gb for device in box.devices]
        self._at = {device.id: at for at, device in enumerate(box.devices)}
        self._bounds: tuple[int, float] | None = None
        for job in running:
            self.take(job.need, job.devices)

    def copy(self) -> Capacity:
        """One to try things on."""
        other = object.__new__(Capacity)
        other.devices, other._at = self.devices, self._at
        other.cpus, other.memory_gb = self.cpus, self.memory_gb
        other.share, other.memory = self.share.copy(), self.memory.copy()
        other._bounds = self._bounds
        return other

    def none(self) -> Capacity:
        """The same box with nothing free."""
        other = self.copy()
        other.cpus = other.memory_gb = 0.0
        other.share, other.memory = [0.0] * len(self.share), [0.0] * len(self.memory)
        other._bounds = None
        return other

    def take(self, need: Need, devices: Sequence[str]) -> None:
        """A job holds its part; a device that has left the box holds nothing."""
        self._move(need, devices, -1)

    def give(self, need: Need, devices: Sequence[str]) -> None:
        """A job's part is free again."""
        self._move(need, devices, 1)

    def _move(self, need: Need, devices: Sequence[str], sign: int) -> None:
        self.cpus += sign * need.cpus
        self.memory_gb += sign * need.memory_gb
        self._bounds = None
        for name in devices:
            at = self._at.get(name)
            if at is not None:
                share, memory = part(need, self.devices[at])
                self.share[at] += sign * share
                self.memory[at] += sign * memory

    def too_full(self, need: Need) -> bool:
        """Whether it is plain at a glance that a job does not fit; where not, `place` tells."""
        if need.cpus > self.cpus + EPSILON or need.memory_gb > self.memory_gb + EPSILON:
            return True
        gpus = need.gpus
        if gpus <= 0 and not need.wants_gpu:
            return False
        if self._bounds is None:
            self._bounds = len(self.whole()), max(self.share, default=0.0)
        whole, most = self._bounds
        return round(gpus) > whole if gpus >= 1 else max(gpus, EPSILON) > most + EPSILON / 2

    def place(self, need: Need) -> tuple[str, ...] | None:
        """The devices to run on (none for a job without), or None where it does not fit: all that it needs or nothing."""
        if need.cpus > self.cpus + EPSILON or need.memory_gb > self.memory_gb + EPSILON:
            return None
        return self.gpus(need)

    def gpus(self, need: Need) -> tuple[str, ...] | None:
        """The same for the GPUs alone."""
        if not need.wants_gpu:
            return ()
        return self._whole(need) if need.whole else self._shared(need)

    def whole(self, need: Need | None = None) -> list[int]:
        """Positions of the devices that nobody uses and that have the memory asked for."""
        least = need.gpu_memory_gb if need else 0.0
        return [
            at
            for at, share in enumerate(self.share)
            if share >= 1 - EPSILON and (not least or self.memory[at] + EPSILON >= least)
        ]

    def _whole(self, need: Need) -> tuple[str, ...] | None:
        count = need.count
        free = self.whole(need)
        if len(free) < count:
            return None
        # Those without served models first, then the smallest that will do.
        free.sort(key=lambda at: (self.devices[at].reserved_gb > 0, self.devices[at].memory_gb, self.devices[at].index))
        chosen = sorted(free[:count], key=lambda at: self.devices[at].index)
        return tuple(self.devices[at].id for at in chosen)

    def _shared(self, need: Need) -> tuple[str, ...] | None:
        best: tuple[float, float, int, str] | None = None
        for at, device in enumerate(self.devices):
            share, memory = part(need, device)
            if share > self.share[at] + EPSILON or memory > self.memory[at] + EPSILON:
                continue
            if need.gpu_memory_gb and not device.memory_gb:
                continue
            key = (round(self.share[at], 6), round(self.memory[at], 3), device.index, device.id)
            if best is None or key < best:
                best = key
        return None if best is None else (best[3],)


def part(need: Need, device: Device) -> tuple[float, float]:
    """The share of a device and the memory there that a job takes."""
    if need.whole:
        return 1.0, device.memory_gb - device.reserved_gb
    if not device.memory_gb:
        return need.gpus, 0.0
    if not need.gpus:
        return need.gpu_memory_gb / device.memory_gb, need.gpu_memory_gb
    return need.gpus, need.gpu_memory_gb or need.gpus * device.memory_gb


def gpus(need: Need, box: Box) -> float:
    """How many GPUs a job counts as; one by memory as its share of the smallest that can hold it."""
    if need.gpus or not need.gpu_memory_gb:
        return float(need.count) if need.whole else need.gpus
    sizes = [device.memory_gb for device in box.devices if device.memory_gb + EPSILON >= need.gpu_memory_gb]
    return need.gpu_memory_gb / min(sizes) if sizes else 1.0


def cost(need: Need, box: Box) -> float:
    """What a second of a job is charged: its GPUs; without one its part of the CPUs, in GPUs; CPUs where the box has no GPU."""
    if need.wants_gpu:
        return gpus(need, box)
    return need.cpus * len(box.devices) / box.cpus if box.devices and box.cpus else need.cpus
