"""Requests and answers of the Open Inference Protocol on the wire: JSON, and binary tensors behind it.

A body is JSON, or with the header `Inference-Header-Content-Length: N` a head of N bytes of JSON and then the bytes of those
tensors that say `binary_data_size`, in their order. An answer has the same form, for the outputs that asked for it. Where N is 0,
all of the body is the one input of one row, and all outputs are answered as bytes.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's docs/protocol,
extension_binary_data.md.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec
from mlbox.serve.inference.tensors import NUMPY, Tensor

if TYPE_CHECKING:
    import numpy as np

HEADER = "inference-header-content-length"
MAX_DIMENSIONS = 8
MAX_VALUES = 1 << 40
INTEGERS = {
    f"{sign}INT{bits}": range(0 if sign else -(2 ** (bits - 1)), 2 ** (bits if sign else bits - 1))
    for sign in ("", "U")
    for bits in (8, 16, 32, 64)
}
"""What each integer type holds."""
NUMBERS = frozenset({"FP32", "FP64"})
IN_JSON = frozenset({"BOOL", "BYTES", *NUMBERS, *INTEGERS})
"""What JSON can carry: numbers of half precision are for binary tensors."""
ITEM = {name: int(kind[-1]) for name, kind in NUMPY.items() if name != "BYTES"}
"""Bytes of each value."""
FLOAT32_MAX = (2 - 2**-23) * 2.0**127
SAFE = 2.0**126
"""Numbers of which the root of the sum of squares is less each fit into a float32; of others each is looked at."""


class InputTensor(msgspec.Struct):
    """A tensor of a request: its data stands in the JSON, or behind it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: msgspec.Raw = msgspec.Raw(b"")
    parameters: dict[str, Any] = {}


class OutputTensor(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Request(msgspec.Struct):
    """The JSON of a request; parameters that are not known are ignored, as the protocol says."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[OutputTensor] = []


class ShownTensor(msgspec.Struct, gc=False):
    """A tensor of an answer: its data stands in the JSON, or behind it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: Mapping[str, int] | msgspec.UnsetType = msgspec.UNSET


class Shown(msgspec.Struct, kw_only=True, gc=False):
    """The JSON of an answer."""

    id: str | msgspec.UnsetType
    model_name: str
    model_version: str
    parameters: Mapping[str, Any]
    outputs: list[ShownTensor]


Read = tuple[Request, list[Tensor]]
_encode = msgspec.json.Encoder().encode
read = msgspec.json.Decoder(Request).decode
_INTEGERS = msgspec.json.Decoder(list[int]).decode
_FLAT: dict[str, Callable[[msgspec.Raw], list[Any]]] = {
    **dict.fromkeys(NUMBERS, msgspec.json.Decoder(list[float]).decode),
    "BYTES": msgspec.json.Decoder(list[str]).decode,
    "BOOL": msgspec.json.Decoder(list[bool]).decode,
}
"""What decodes flat data of a type; those that are not named are integers."""


def decode(body: bytes, head: str | None, inputs: Callable[[], Sequence[TensorSpec]] | None = None) -> Read:
    """A request and its tensors, `inputs` those of a body without JSON; raises InvalidInput, naming the tensor that is wrong."""
    if head == "0" and inputs is not None:
        return Request([], parameters={"binary_data_output": True}), [_raw(inputs(), body)]
    length = _head_length(head, len(body))
    text, binary = (body, memoryview(b"")) if length is None else (body[:length], memoryview(body)[length:])
    try:
        asked = _read(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as err:
        raise InvalidInput(f"The request cannot be read: {err}.", hint="Send Open Inference Protocol v2 JSON.") from err
    if not asked.inputs:
        raise InvalidInput("There are no inputs.", hint="Send the model's tensors, or the ids.", field="inputs")
    tensors, at = [], 0
    for given in asked.inputs:
        size = given.parameters.get("binary_data_size")
        if size is None:
            tensors.append(from_json(given))
            continue
        if length is None or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary) - at:
            raise InvalidInput(
                f"The input {given.name!r:.80} says {size!r:.40} bytes of binary data, and {len(binary) - at} are left.",
                hint="Send them behind the JSON, and the header Inference-Header-Content-Length.",
                field=given.name[:200],
            )
        tensors.append(from_bytes(given.name, given.datatype, given.shape, binary[at : at + size]))
        at += size
    if at != len(binary):
        raise InvalidInput(
            f"{len(binary) - at} bytes behind the JSON belong to no tensor.",
            hint="Say binary_data_size of each.",
            field=HEADER,
        )
    return asked, tensors


def _read(text: bytes) -> Request:
    """What JSON says, with null for what is left out: so do clients that are made of typed records."""
    try:
        return read(text)
    except msgspec.ValidationError as err:
        if "got `null`" not in str(err):
            raise
        given = msgspec.json.decode(text)
        return read(msgspec.json.encode(_stripped(given)))


def _stripped(given: Any) -> Any:
    """A request without what is null of it, or of a tensor's parameters."""
    if not isinstance(given, dict):
        return given
    found = {name: value for name, value in given.items() if value is not None}
    for name in ("inputs", "outputs"):
        tensors = found.get(name)
        if isinstance(tensors, list):
            found[name] = [_without_parameters(one) for one in tensors]
    return found


def _without_parameters(tensor: Any) -> Any:
    if not isinstance(tensor, dict) or tensor.get("parameters", ()) is not None:
        return tensor
    return {name: value for name, value in tensor.items() if name != "parameters"}


def _raw(specs: Sequence[TensorSpec], body: bytes) -> Tensor:
    """A body as the only input of a model, of one row; the size that its shape leaves free follows from the body's."""
    if len(specs) != 1:
        raise InvalidInput(
            f"A body without JSON is the one input of a model, and this one has {len(specs)}.",
            hint="Send JSON, and its length in Inference-Header-Content-Length.",
            field=HEADER,
        )
    (spec,) = specs
    if spec.dtype == "BYTES":
        body = struct.pack("<I", len(body)) + body
    shape = [1 if place == 0 and size == -1 else size for place, size in enumerate(spec.shape)]
    free = [place for place, size in enumerate(shape) if size == -1]
    if len(free) > 1 or (free and spec.dtype == "BYTES"):
        raise InvalidInput(
            f"The shape {list(spec.shape)!s:.80} of {spec.name!r:.80} does not follow from the size of a body.",
            hint="Send JSON with the shape, and its length in Inference-Header-Content-Length.",
            field=spec.name[:200],
        )
    if free:
        width = ITEM[spec.dtype] * math.prod(size for size in shape if size != -1)
        shape[free[0]] = len(body) // width if width else 0
    return from_bytes(spec.name, spec.dtype, shape, body)


def _head_length(head: str | None, size: int) -> int | None:
    if head is None:
        return None
    if not (head.isascii() and head.isdigit()) or not 0 < int(head[:20]) <= size:
        raise InvalidInput(
            f"The header Inference-Header-Content-Length is {head[:40]!r}, and the body has {size} bytes.",
            hint="It is the length of the JSON before the binary data.",
            field=HEADER,
        )
    return int(head)


# -- tensors in JSON --------------------------------------------------------------------------------------------------------


def from_json(given: InputTensor) -> Tensor:
    """A tensor out of JSON, flat or nested; null is NaN in a floating-point tensor. Raises InvalidInput naming it."""
    import numpy as np

    if given.datatype not in IN_JSON:
        raise InvalidInput(
            f"The input {given.name!r:.80} has the datatype {given.datatype!r:.40}.",
            hint=f"In JSON one of {', '.join(sorted(IN_JSON))}; FP16 and BF16 as binary data.",
            field=given.name[:200],
        )
    size = checked_size(given.name, given.shape)
    if not bytes(given.data):
        check_sent("input", given.name, given.parameters)
        raise InvalidInput(f"The input {given.name!r:.80} has no data.", hint="Send `data`.", field=given.name[:200])
    values = _values(given)
    if len(values) != size:
        raise misshapen(given.name, given.shape, f"{len(values)} values for")
    if given.datatype == "BYTES":
        data = np.empty(size, object)
        data[:] = values
    elif given.datatype in NUMBERS:
        data = _numbers(given, values)
    else:
        data = np.array(values, NUMPY[given.datatype])
    return Tensor(given.name, given.datatype, data.reshape(given.shape))


def check_sent(what: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a tensor that is said to be in shared memory, to be read there or written."""
    if "shared_memory_region" in parameters:
        raise InvalidInput(
            f"The {what} {name!r:.80} is in shared memory, which this server does not use.",
            hint="Send tensors in the request, and take them from the answer.",
            field=name[:200],
        )


def _values(given: InputTensor) -> list[Any]:
    """The values in a row, of the right type. Flat data is decoded right into it, which is what takes time in a large request."""
    found: list[Any]
    try:
        found = _FLAT.get(given.datatype, _INTEGERS)(given.data)
    except msgspec.MsgspecError:
        found = [_checked(given, value) for value in _unnested(given)]
    if given.datatype in INTEGERS:
        check_integers(given.name, given.datatype, found)
    return found


def _unnested(given: InputTensor) -> list[Any]:
    try:
        values: Any = msgspec.json.decode(given.data)
    except (msgspec.MsgspecError, RecursionError) as err:
        raise InvalidInput(f"The data of {given.name!r:.80} cannot be read: {err}.", field=given.name[:200]) from err
    if not isinstance(values, list):
        raise InvalidInput(f"The data of {given.name!r:.80} is no list.", hint="Send a list.", field=given.name[:200])
    if any(isinstance(value, list) for value in values):
        parts: list[Any] = [values]
        for size in given.shape:
            if not all(isinstance(part, list) and len(part) == size for part in parts):
                raise misshapen(given.name, given.shape, "data that is not nested like")
            parts = [inner for part in parts for inner in part]
        values = parts
    found: list[Any] = values
    return found


def _checked(given: InputTensor, value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if given.datatype in NUMBERS and (value is None or is_number):
        return math.nan if value is None else value
    kind: Any = {"BYTES": str, "BOOL": bool}.get(given.datatype, int)
    if given.datatype not in NUMBERS and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise _no_such_value(given.name, given.datatype, value)


def _numbers(given: InputTensor, values: list[Any]) -> np.ndarray:
    import numpy as np

    most = FLOAT32_MAX if given.datatype == "FP32" else sys.float_info.max
    try:
        data = np.array(values, np.float64)
        if math.hypot(*values) < SAFE:  # numpy would let go of the interpreter to say so
            return data.astype(NUMPY[given.datatype])
        wrong = [] if _within(data, most) else [value for value in values if abs(value) > most]
    except OverflowError:
        wrong = [value for value in values if abs(value) > most]
    if wrong:
        raise InvalidInput(
            f"The input {given.name!r:.80} has the value {wrong[0]!r:.60}, and a number that fits into a"
            f" {'float32' if given.datatype == 'FP32' else 'float64'} is wanted.",
            hint="Send null for a missing value.",
            field=given.name[:200],
        )
    return data.astype(NUMPY[given.datatype])


def _within(data: np.ndarray, most: float) -> bool:
    """No value is larger, either way; NaN is no value."""
    import numpy as np

    return not data.size or not (np.fmax.reduce(data) > most or np.fmin.reduce(data) < -most)


def check_integers(name: str, datatype: str, values: list[Any]) -> None:
    """Raise InvalidInput for a whole number that its type does not hold."""
    holds = INTEGERS[datatype]
    if values and not (min(values) in holds and max(values) in holds):
        raise _no_such_value(name, datatype, next(value for value in values if value not in holds))


def _no_such_value(name: str, datatype: str, value: Any) -> InvalidInput:
    return InvalidInput(
        f"The input {name!r:.80} has the value {value!r:.60}, which is no {datatype}.",
        hint="Send null for a missing value." if datatype in NUMBERS else "Send values of the tensor's datatype.",
        field=name[:200],
    )


def checked_size(name: str, shape: Sequence[int]) -> int:
    """How many values a shape has; raises InvalidInput for what is none."""
    if 0 < len(shape) <= MAX_DIMENSIONS and min(shape) > 0:
        return math.prod(shape)
    # Beside a size of 0 any others would come to no values, but NumPy takes none that it could not hold without it.
    too_large = 0 in shape and math.prod(size or 1 for size in shape) > MAX_VALUES
    if not 0 < len(shape) <= MAX_DIMENSIONS or any(size < 0 for size in shape) or too_large:
        raise InvalidInput(
            f"The input {name!r:.80} has the shape {list(shape)!s:.80}.",
            hint=f"Send 1 to {MAX_DIMENSIONS} sizes of 0 or more.",
            field=name[:200],
        )
    return math.prod(shape)


def misshapen(name: str, shape: Sequence[int], what: str) -> InvalidInput:
    """Data that is not of its shape."""
    return InvalidInput(
        f"The input {name!r:.80} has {what} the shape {list(shape)!s:.80}.",
        hint="Send as many values as the shape says, flat or nested.",
        field=name[:200],
    )


# -- tensors as bytes -------------------------------------------------------------------------------------------------------


def from_bytes(name: str, dtype: str, shape: Sequence[int], content: memoryview | bytes) -> Tensor:
    """A tensor out of its bytes, little-endian in row-major order; of BYTES each with its length before it."""
    import numpy as np

    if dtype not in NUMPY:
        raise InvalidInput(
            f"The input {name!r:.80} has the datatype {dtype!r:.40}.",
            hint=f"One of {', '.join(sorted(NUMPY))}.",
            field=name[:200],
        )
    size = checked_size(name, shape)
    if dtype == "BYTES":
        return Tensor(name, dtype, _texts(name, shape, size, content))
    kind = np.dtype(NUMPY[dtype])
    if len(content) != size * kind.itemsize:
        raise misshapen(name, shape, f"{len(content)} bytes for")
    return Tensor(name, dtype, np.frombuffer(content, kind).reshape(tuple(shape)))


def _texts(name: str, shape: Sequence[int], size: int, content: memoryview | bytes) -> np.ndarray:
    import numpy as np

    found: list[str] = []
    at, end = 0, len(content)
    while at < end:
        length = struct.unpack_from("<I", content, at)[0] if end - at >= 4 else end
        if length > end - at - 4:
            raise InvalidInput(
                f"The input {name!r:.80} has a text that goes on past its end.",
                hint="Send each text as its length in 4 bytes, little-endian, and its bytes.",
                field=name[:200],
            )
        found.append(text_of(name, bytes(content[at + 4 : at + 4 + length])))
        at += 4 + length
    if len(found) != size:
        raise misshapen(name, shape, f"{len(found)} values for")
    data = np.empty(size, object)
    data[:] = found
    return data.reshape(tuple(shape))


def text_of(name: str, content: bytes) -> str:
    """A text of a tensor; raises InvalidInput for bytes that are none."""
    try:
        return content.decode()
    except UnicodeDecodeError as err:
        raise InvalidInput(
            f"The input {name!r:.80} has a text that is not UTF-8.", hint="Models take texts.", field=name[:200]
        ) from err


def to_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes, as `from_bytes` takes them."""
    import numpy as np

    if tensor.dtype != "BYTES":
        return np.ascontiguousarray(tensor.data, NUMPY[tensor.dtype]).tobytes()
    texts = [str(value).encode() for value in tensor.data.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


# -- answers ------------------------------------------------------------------------------------------------------------------


def encode(
    asked: Request, model: str, version: str, tensors: Sequence[Tensor], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where binary data follows."""
    wanted = {output.name: output.parameters for output in asked.outputs} if asked.outputs else {}
    every = bool(asked.parameters.get("binary_data_output", False))
    outputs: list[ShownTensor] = []
    parts: list[bytes] = []
    for tensor in tensors:
        name, dtype, data = tensor
        if bool(wanted[name].get("binary_data", every)) if name in wanted else every:
            content = to_bytes(tensor)
            parts.append(content)
            outputs.append(ShownTensor(name, dtype, data.shape, parameters={"binary_data_size": len(content)}))
        else:
            outputs.append(ShownTensor(name, dtype, data.shape, in_json(tensor)))
    asked_id = msgspec.UNSET if asked.id is None else asked.id
    head = _encode(Shown(id=asked_id, model_name=model, model_version=version, parameters=parameters, outputs=outputs))
    return (head + b"".join(parts), len(head)) if parts else (head, None)


def in_json(tensor: Tensor) -> list[Any]:
    """A tensor's values in a row; what is no finite number is null. Raises InvalidInput for types that JSON does not carry."""
    if tensor.dtype not in IN_JSON:
        raise InvalidInput(
            f"sending {tensor.dtype} data via JSON is not supported. Please use the binary data format for output"
            f" {tensor.name!r}",
            hint="Ask for binary_data.",
            field=tensor.name,
        )
    found: list[Any] = tensor.data.reshape(-1).tolist()
    return found


def classified(tensor: Tensor, ranks: Any) -> Tensor:
    """The largest values of each row as texts VALUE:INDEX, the largest first (Triton's extension for classification)."""
    import numpy as np

    if tensor.dtype == "BYTES" or not isinstance(ranks, int) or isinstance(ranks, bool) or ranks < 1:
        raise InvalidInput(
            f"The parameter classification of {tensor.name!r} is {ranks!r:.40}.",
            hint="Send how many of the largest numbers are wanted.",
            field="outputs",
        )
    rows = tensor.data.reshape(len(tensor.data) if tensor.data.ndim > 1 else 1, -1)
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :ranks]
    texts = [[f"{row[place]:f}:{place}" for place in places] for row, places in zip(rows, order, strict=True)]
    found = np.array(texts, object)
    return Tensor(tensor.name, "BYTES", found if tensor.data.ndim > 1 else found[0])
