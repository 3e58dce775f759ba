"""Tensors of the Open Inference Protocol in JSON: shape, datatype, and data that is flat or nested."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mlbox.errors import InvalidInput

MAX_DIMENSIONS = 8
INTEGERS = {
    f"{sign}INT{bits}": range(0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1))
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}
"""What each integer type holds."""
FLOATS = frozenset({"FP32", "FP64"})
DATATYPES = frozenset({"BOOL", "BYTES", *FLOATS, *INTEGERS})
"""What JSON can carry: half-precision numbers are for binary tensors."""


class Tensor(msgspec.Struct):
    """A named tensor of a request."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


def flat(tensor: Tensor, *, missing: bool = False) -> list[Any]:
    """A tensor's values, row by row; null is taken as a missing value only where that may be.

    Raises InvalidInput naming the tensor, for another datatype than JSON's, a shape that is none, data that is not of
    that shape, and a value that is not of the datatype.
    """
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(
            f"The input {tensor.name!r:.80} has the datatype {tensor.datatype!r:.40}.",
            hint=f"In JSON one of {', '.join(sorted(DATATYPES))}.",
            field=tensor.name,
        )
    if not 0 < len(tensor.shape) <= MAX_DIMENSIONS or any(size < 0 for size in tensor.shape):
        raise InvalidInput(
            f"The input {tensor.name!r:.80} has the shape {list(tensor.shape)!s:.80}.",
            hint=f"Send 1 to {MAX_DIMENSIONS} sizes of 0 or more.",
            field=tensor.name,
        )
    values = _unnested(tensor)
    for value in values:
        if not (_is_of(tensor.datatype, value) or (missing and value is None)):
            raise InvalidInput(
                f"The input {tensor.name!r:.80} has the value {value!r:.60}, which is no {tensor.datatype}.",
                hint="Send null for a missing value." if missing else "Send values of the tensor's datatype.",
                field=tensor.name,
            )
    return values


def _unnested(tensor: Tensor) -> list[Any]:
    values = tensor.data
    if any(isinstance(value, list) for value in values):
        parts: list[Any] = [values]
        for size in tensor.shape:
            if not all(isinstance(part, list) and len(part) == size for part in parts):
                raise _misshapen(tensor, "data that is not nested like")
            parts = [inner for part in parts for inner in part]
        values = parts
    if len(values) != math.prod(tensor.shape):
        raise _misshapen(tensor, f"{len(values)} values for")
    return values


def _misshapen(tensor: Tensor, what: str) -> InvalidInput:
    return InvalidInput(
        f"The input {tensor.name!r:.80} has {what} the shape {list(tensor.shape)!s:.80}.",
        hint="Send as many values as the shape says, flat or nested.",
        field=tensor.name,
    )


def _is_of(datatype: str, value: Any) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    if datatype in FLOATS:
        return isinstance(value, int | float)
    return isinstance(value, int) and value in INTEGERS[datatype]
