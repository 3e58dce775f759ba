"""Runs of a model on a device by onnxruntime's I/O binding: inputs are copied there at once, the wanted outputs back at the end.

`InferenceSession.run` makes the same copies one by one, as the graph comes to them. Texts cannot be bound, and numbers that numpy
does not have are not: a model with either runs as it would without.

Nothing here knows CUDA: the device is a name, and the tests give the processor's. **It was never run with any other.**
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
"""The device of each of onnxruntime's providers that has memory of its own."""


class Device(NamedTuple):
    """Where tensors lie for a run."""

    name: str
    number: int = 0


def device_of(providers: Sequence[str], number: int = 0) -> Device | None:
    """The device of a session; None for one that runs on the host."""
    name = DEVICES.get(providers[0]) if providers else None
    return None if name is None else Device(name, number)


def configured(providers: Iterable[str], there: Iterable[str], number: int) -> list[str | tuple[str, dict[str, Any]]]:
    """The providers that there are, as a session takes them: those with memory of their own on one device."""
    found = [name for name in providers if name in set(there)]
    return [(name, {"device_id": str(number)}) if name in DEVICES else name for name in found]


def run_bound(
    session: Any, device: Device, feeds: Mapping[str, np.ndarray], wanted: Sequence[str], options: Any = None
) -> list[np.ndarray]:
    """The wanted outputs, in their order, of a run whose tensors, all of numbers, lie on a device."""
    import numpy as np
    import onnxruntime as ort

    binding = session.io_binding()
    for name, data in feeds.items():
        value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(data), device.name, device.number)
        binding.bind_ortvalue_input(name, value)
    for name in wanted:
        binding.bind_output(name, device.name, device.number)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding, options)
    binding.synchronize_outputs()
    found: list[np.ndarray] = binding.copy_outputs_to_cpu()
    return found
