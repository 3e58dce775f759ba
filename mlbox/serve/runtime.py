"""Models in memory: onnxruntime behind one class, rows in and scores out.

A model takes one float32 input [N, F], in which NaN is a missing value, and its score is the first floating-point output; of an
output with two dimensions, the last column (the probability of the positive class).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int64)": "INT64",
    "tensor(int32)": "INT32",
    "tensor(int16)": "INT16",
    "tensor(int8)": "INT8",
    "tensor(uint64)": "UINT64",
    "tensor(uint32)": "UINT32",
    "tensor(uint16)": "UINT16",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}
"""onnxruntime's types by the names of the Open Inference Protocol."""
FLOATS = ("FP32", "FP64", "FP16")
CPU = ("CPUExecutionProvider",)
PROVIDERS = ("CUDAExecutionProvider", *CPU)
"""In order of preference: the first is there only with onnxruntime-gpu, and falls back to the last without a device."""


class Session:
    """One loaded model. `score` may be called from any thread: onnxruntime releases the interpreter while it works."""

    def __init__(self, model: Path | bytes, *, threads: int = 1, providers: Sequence[str] = PROVIDERS) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        there = [name for name in providers if name in ort.get_available_providers()]
        source = model if isinstance(model, bytes) else str(model)
        self._session: Any = ort.InferenceSession(source, sess_options=options, providers=there)
        self.inputs = _specs(self._session.get_inputs(), "input")
        self.outputs = _specs(self._session.get_outputs(), "output")
        self._input = _the_input(self.inputs)
        self._output = _score_output(self.outputs)

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Scores [N] as float64 of rows [N, F] as float32; raises InvalidInput when the model gives other than N."""
        import numpy as np

        (found,) = self._session.run([self._output], {self._input: np.ascontiguousarray(rows, dtype=np.float32)})
        scores = np.asarray(found, dtype=np.float64)
        if scores.ndim not in (1, 2) or len(scores) != len(rows) or (scores.ndim == 2 and not scores.shape[1]):
            raise InvalidInput(
                f"The model's output {self._output!r} is {list(scores.shape)} for {len(rows)} rows.",
                hint="Export a score for each row.",
                field="output",
            )
        return scores if scores.ndim == 1 else scores[:, -1]


def _specs(found: list[Any], what: str) -> tuple[TensorSpec, ...]:
    specs = []
    for tensor in found:
        if tensor.type not in DTYPES:
            raise InvalidInput(
                f"The {what} {tensor.name!r} is {tensor.type}, which is no tensor that mlbox serves.",
                hint="Export with tensors only; for skl2onnx switch zipmap off.",
                field=what,
            )
        shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
        specs.append(TensorSpec(name=tensor.name, dtype=DTYPES[tensor.type], shape=shape))
    return tuple(specs)


def _the_input(inputs: tuple[TensorSpec, ...]) -> str:
    if len(inputs) != 1 or inputs[0].dtype != "FP32" or len(inputs[0].shape) != 2:
        found = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in inputs) or "none"
        raise InvalidInput(
            f"The model's inputs are {found}; one FP32 [N, F] is wanted.",
            hint="Export with one float32 input of rows and features.",
            field="input",
        )
    if inputs[0].shape[0] != -1:
        raise InvalidInput(
            f"The model takes batches of {inputs[0].shape[0]} only.",
            hint="Export with a free first dimension.",
            field="input",
        )
    return inputs[0].name


def _score_output(outputs: tuple[TensorSpec, ...]) -> str:
    for output in outputs:
        if output.dtype in FLOATS and len(output.shape) <= 2:
            return output.name
    raise InvalidInput(
        "The model has no floating-point output of one or two dimensions to take a score from.",
        hint="Export the probability.",
        field="output",
    )
