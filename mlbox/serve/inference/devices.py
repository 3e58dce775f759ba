"""Which of several devices a model goes to, and by what of onnxruntime. **It was never run with a device.**"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mlbox.serve.inference.runtime import PROVIDERS

TENSORRT = "TensorrtExecutionProvider"


class Devices(NamedTuple):
    """Those that serve models."""

    numbers: tuple[int, ...] = (0,)
    providers: tuple[str, ...] = PROVIDERS
    """Of onnxruntime, in order of preference."""

    @classmethod
    def of(cls, numbers: str, *, tensorrt: bool) -> Devices:
        """As the settings say."""
        named = tuple(dict.fromkeys(int(number) for number in numbers.split(",")))
        return cls(named, (TENSORRT, *PROVIDERS) if tensorrt else PROVIDERS)


def choose(numbers: Sequence[int], held: Iterable[tuple[int, int]]) -> int:
    """The device on which models hold the fewest bytes, the first of such; `held` is where each model is, and its size."""
    taken = dict.fromkeys(numbers, 0)
    for number, size in held:
        if number in taken:
            taken[number] += size
    return min(taken, key=lambda number: taken[number])
