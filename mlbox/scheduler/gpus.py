"""The GPUs of the box: by NVML, by hand, or none."""

from __future__ import annotations

from typing import Protocol

from mlbox.errors import InvalidInput, StartupError
from mlbox.records import Record


class Gpu(Record, frozen=True, kw_only=True):
    """One GPU."""

    index: int
    name: str = ""
    memory_gb: float = 0.0


class Inventory(Protocol):
    """The seam: what the box has."""

    def gpus(self) -> list[Gpu]:
        """Its GPUs by index."""


class Nvml:
    """What NVIDIA's driver says; no GPUs where there is no driver, with the reason in `missing`."""

    def __init__(self) -> None:
        self.missing = ""

    def gpus(self) -> list[Gpu]:
        """All GPUs that the driver knows."""
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as err:
            self.missing = str(err)
            return []
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            return [
                Gpu(
                    index=index,
                    name=str(pynvml.nvmlDeviceGetName(handle)),
                    memory_gb=pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30,
                )
                for index, handle in enumerate(handles)
            ]
        finally:
            pynvml.nvmlShutdown()


class Listed:
    """GPUs that the operator named."""

    def __init__(self, indices: list[int]) -> None:
        self._indices = indices

    def gpus(self) -> list[Gpu]:
        """The named ones."""
        return [Gpu(index=index) for index in self._indices]


def inventory(setting: str) -> Inventory:
    """The inventory that a setting asks for: auto, none, or indices such as 0,1."""
    if setting == "auto":
        return Nvml()
    if setting == "none":
        return Listed([])
    parts = [part.strip() for part in setting.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InvalidInput(f"gpus is {setting!r}.", hint="Give auto, none, or indices such as 0,1.", field="gpus")
    chosen = sorted({int(part) for part in parts})
    driver = Nvml()
    known = [gpu.index for gpu in driver.gpus()]
    absent = [index for index in chosen if index not in known]
    if absent:
        has = f"it has {', '.join(map(str, known))}" if known else f"it has none ({driver.missing or 'no device'})"
        raise StartupError(
            f"gpus names GPU {absent[0]} and this box lacks it: {has}.",
            hint="Install NVIDIA's driver, or start with --gpus none.",
        )
    return Listed(chosen)
