"""Tensors between the wire and the runtime: named numpy arrays, checked against what a model takes.

Types have the names of the Open Inference Protocol. BYTES is an array of `str` objects here, because that is what ONNX's strings
are; BF16, which numpy does not have, is an array of its bits as uint16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec

if TYPE_CHECKING:
    import numpy as np

NUMPY = {
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "BOOL": "|b1",
    "BYTES": "|O",
}
"""The array type of each, little-endian as on the wire."""
FLOATS = frozenset({"FP16", "FP32", "FP64"})
"""What a score can be."""


class Tensor(NamedTuple):
    """A named array of a type of the protocol's."""

    name: str
    dtype: str
    data: np.ndarray


def fits(spec: tuple[int, ...], shape: Sequence[int]) -> bool:
    """Whether an array of a shape may be given where a shape with free dimensions, -1, is wanted."""
    return len(spec) == len(shape) and all(map(_is_one, spec, shape))


def _is_one(wanted: int, given: int) -> bool:
    return wanted in (-1, given)


def check_inputs(specs: Sequence[TensorSpec], tensors: Sequence[Tensor], model: str) -> None:
    """Raise InvalidInput, naming the tensor, unless a request gives each input of a model once, of its type and shape."""
    if len(specs) == len(tensors) == 1 and specs[0].name == tensors[0].name:
        _check_one(specs[0], tensors[0], model)
        return
    by_name = {spec.name: spec for spec in specs}
    given: set[str] = set()
    for tensor in tensors:
        spec = by_name.get(tensor.name)
        if spec is None or tensor.name in given:
            again = "" if spec is None else " twice"
            raise InvalidInput(
                f"unexpected inference input {tensor.name!r:.80}{again} for model {model!r}",
                hint=f"It takes {_names(by_name)}.",
                field=tensor.name[:200],
            )
        given.add(tensor.name)
        _check_one(spec, tensor, model)
    _check_all_there(by_name, given, model)
    _check_axes(by_name, tensors, model)


def _check_all_there(by_name: dict[str, TensorSpec], given: set[str], model: str) -> None:
    missing = next((name for name in by_name if name not in given), None)
    if missing is not None:
        raise InvalidInput(
            f"expected {len(by_name)} inputs but got {len(given)} inputs for model {model!r}. Got"
            f" {_names(given) or 'none'}, but missing {missing!r:.80}",
            hint=f"It takes {_names(by_name)}.",
            field=missing[:200],
        )


def _check_axes(by_name: dict[str, TensorSpec], tensors: Sequence[Tensor], model: str) -> None:
    """An axis of one name has one size in all inputs: ONNX says so of names, and onnxruntime does not look."""
    sizes: dict[str, tuple[Tensor, int]] = {}
    for tensor in tensors:
        for axis, size in zip(by_name[tensor.name].axes, tensor.data.shape, strict=False):
            other, first = sizes.setdefault(axis, (tensor, size))
            if axis and size != first:
                raise InvalidInput(
                    f"the inputs {other.name!r:.80} and {tensor.name!r:.80} of model {model!r} have {first} and {size}"
                    f" along {axis!r:.80}, which is one axis",
                    hint="Send as many of each.",
                    field=tensor.name[:200],
                )


def are_batched(specs: Sequence[TensorSpec]) -> bool:
    """Whether the first dimension of all of a model's tensors is free: then it is said to be that of rows."""
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


def _check_one(spec: TensorSpec, tensor: Tensor, model: str) -> None:
    if tensor.dtype != spec.dtype:
        raise InvalidInput(
            f"inference input {tensor.name!r} data-type is {tensor.dtype!r:.40}, but model {model!r} expects {spec.dtype!r}",
            field=tensor.name,
        )
    if not fits(spec.shape, tensor.data.shape):
        expected = ",".join(map(str, spec.shape))
        raise InvalidInput(
            f"unexpected shape for input {tensor.name!r} for model {model!r}. Expected [{expected}],"
            f" got {list(tensor.data.shape)!s:.80}",
            field=tensor.name,
        )


def check_outputs(specs: Sequence[TensorSpec], wanted: Sequence[str], model: str) -> None:
    """Raise InvalidInput for an output that a model does not have, or that is named twice."""
    names = {spec.name for spec in specs}
    for place, name in enumerate(wanted):
        if name not in names or name in wanted[:place]:
            raise InvalidInput(
                f"unexpected inference output {name!r:.80} for model {model!r}",
                hint=f"It gives {_names(names)}.",
                field="outputs",
            )


def batch_of(specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> int | None:
    """How many rows a request has: the first dimension, where it is free in each input and the same in all; else None."""
    if len(specs) == len(tensors) == 1:
        return tensors[0].data.shape[0] if specs[0].shape[:1] == (-1,) else None
    if not all(spec.shape and spec.shape[0] == -1 for spec in specs):
        return None
    sizes = {tensor.data.shape[0] for tensor in tensors}
    return sizes.pop() if len(sizes) == 1 else None


def scores_among(answers: Sequence[Tensor], rows: int) -> list[float | None]:
    """What the log keeps as the score of other models' rows: the last of a row's numbers in the first output that has some."""
    for tensor in answers:
        if tensor.dtype in FLOATS and 1 <= tensor.data.ndim <= 2 and tensor.data.shape[0] == rows and tensor.data.size:
            column = tensor.data if tensor.data.ndim == 1 else tensor.data[:, -1]
            return [float(value) for value in column]
    return [None] * rows


def _names(found: Sequence[str] | set[str] | dict[str, TensorSpec]) -> str:
    names = sorted(found)
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
