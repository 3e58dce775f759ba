"""Requests and answers of the Open Inference Protocol as protobuf messages.

The tensors of a request are either all in `raw_input_contents`, as the bytes that REST has as binary data, or each in the field
of `contents` that is for its datatype. Answers are raw, as Triton's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from mlbox.errors import InvalidInput
from mlbox.serve.inference.tensors import NUMPY, Tensor
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.v2 import wire
from mlbox.web.v2.dataplane import Answer

FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field with a tensor's values, by datatype; half precision has none, and is raw."""

WIDE = {"int_contents": "<i8", "uint_contents": "<u8"}
"""The type of fields that hold more than their tensor's datatype may."""


def read(kind: Any, content: bytes) -> Any:
    """A message out of its bytes; raises InvalidInput for others."""
    try:
        return kind.FromString(content)
    except DecodeError as err:
        raise InvalidInput(
            f"The message is no {kind.DESCRIPTOR.full_name}: {err}.", hint="Send what inference.proto says."
        ) from err


def decode(asked: Any) -> tuple[wire.Request, list[Tensor]]:
    """A request and its tensors; raises InvalidInput, naming the tensor that is wrong."""
    raw = asked.raw_input_contents
    if not asked.inputs:
        raise InvalidInput("There are no inputs.", hint="Send the model's tensors, or the ids.", field="inputs")
    if raw and len(raw) != len(asked.inputs):
        for given in asked.inputs:  # those in shared memory have no bytes
            wire.check_sent("input", given.name, given.parameters)
        raise InvalidInput(
            f"There are {len(raw)} raw_input_contents for {len(asked.inputs)} inputs.",
            hint="Send the bytes of each input, in their order, or none.",
            field="raw_input_contents",
        )
    tensors = [_tensor(given, raw[place] if raw else None) for place, given in enumerate(asked.inputs)]
    outputs = [wire.OutputTensor(one.name, parameters_of(one.parameters)) for one in asked.outputs]
    return wire.Request([], asked.id or None, parameters_of(asked.parameters), outputs), tensors


def parameters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name; one without a value is None."""
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], kind) if kind else None for name, kind in chosen.items()}


def _tensor(given: Any, raw: bytes | None) -> Tensor:
    wire.check_sent("input", given.name, given.parameters)
    filled = [field.name for field, _ in given.contents.ListFields()] if given.HasField("contents") else []
    if raw is not None and filled:
        raise InvalidInput(
            f"The input {given.name!r:.80} has contents, and there are raw_input_contents.",
            hint="Send its values one way.",
            field=given.name[:200],
        )
    if raw is not None:
        return wire.from_bytes(given.name, given.datatype, given.shape, raw)
    return _typed(given, filled)


def _typed(given: Any, filled: list[str]) -> Tensor:
    import numpy as np

    name, datatype = given.name, given.datatype
    field = FIELDS.get(datatype)
    if field is None or any(other != field for other in filled):
        raise InvalidInput(
            f"The input {name!r:.80} has the datatype {datatype!r:.40} and its values in"
            f" {' and '.join(filled) or 'no field'}.",
            hint=f"Send them in {field}." if field else "Send the bytes of FP16 and BF16 in raw_input_contents.",
            field=name[:200],
        )
    size, values = wire.checked_size(name, given.shape), getattr(given.contents, field)
    if len(values) != size:
        raise wire.misshapen(name, given.shape, f"{len(values)} values for")
    if datatype == "BYTES":
        data = np.empty(size, object)
        data[:] = [wire.text_of(name, value) for value in values]
    else:
        data = np.array(values, WIDE.get(field, NUMPY[datatype]))
        if field in WIDE:
            wire.check_integers(name, datatype, data.tolist())
    return Tensor(name, datatype, data.astype(NUMPY[datatype], copy=False).reshape(tuple(given.shape)))


def encode(asked: wire.Request, model: str, answer: Answer) -> Any:
    """The message that answers a request."""
    found = pb.ModelInferResponse(model_name=model, model_version=answer.version, id=asked.id or "")
    _put_parameters(found.parameters, answer.parameters.items())
    for tensor in answer.outputs:
        found.outputs.add(name=tensor.name, datatype=tensor.dtype, shape=tensor.data.shape)
        found.raw_output_contents.append(wire.to_bytes(tensor))
    return found


def _put_parameters(into: Any, given: Iterable[tuple[str, Any]]) -> None:
    for name, value in given:
        if isinstance(value, bool):
            into[name].bool_param = value
        elif isinstance(value, int):
            into[name].int64_param = value
        else:
            into[name].string_param = str(value)
