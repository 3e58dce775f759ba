"""Models in memory: onnxruntime behind one class, arrays in and arrays out.

A model whose one input is FP32 [N, F] is *tabular*: its columns may be features, NaN is a missing value in them, and each row has
a score, which is the first floating-point output; of an output with two dimensions, the last column (the probability of the
positive class). Everything that watches a model in production watches that score. Any other model serves tensors.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec
from mlbox.serve.inference.arena import is_full, share, shrinking
from mlbox.serve.inference.binding import configured, device_of, run_bound
from mlbox.serve.inference.tensors import FLOATS, are_batched

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
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
ONNX_BFLOAT16 = 16
"""In ONNX's TensorProto.DataType."""
ROWS = "rows"
"""What the axis of rows is called where the model does not say."""
CPU = ("CPUExecutionProvider",)
LONGEST_SECONDS = 3600.0
"""What a run may take where nothing else is said: as much as `timeout_ms` may be at most."""
PROVIDERS = ("CUDAExecutionProvider", *CPU)
"""In order of preference: the first is there only with onnxruntime-gpu, and falls back to the last without a device."""


class Session:
    """One loaded model. It may be called from any thread: onnxruntime releases the interpreter while it works."""

    apart = False
    """Whether it runs in another process, which is far from the thread that asks."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        threads: int = 1,
        providers: Sequence[str] = PROVIDERS,
        device: int = 0,
        arena: int = 0,
    ) -> None:
        """`arena` is how many bytes the runs of all sessions of this process may take together; 0 sets no limit."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if arena:
            share(options, arena)
        there = configured(providers, ort.get_available_providers(), device)
        source = model if isinstance(model, bytes) else str(model)
        self._session: Any = ort.InferenceSession(source, sess_options=options, providers=there)
        inputs, outputs = _specs(self._session.get_inputs(), "input"), _specs(self._session.get_outputs(), "output")
        if are_batched((*inputs, *outputs)):
            inputs = _by_row(inputs)
        self._describe(inputs, outputs, self._session.get_providers())
        texts = any(spec.dtype == "BYTES" for spec in (*inputs, *outputs))
        self._device = None if texts else device_of(self.providers, device)
        # On the processor there is no other provider to fall back to, and the inputs were checked: its C++ part is asked at once,
        # where this release of onnxruntime has it under that name.
        asked = getattr(self._session, "_sess", self._session) if self.providers == CPU else self._session
        self._run: Callable[..., Any] = asked.run

    def _describe(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], providers: Sequence[str]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.providers = tuple(providers)
        """Where it runs, in order of preference."""
        self.output_types = {spec.name: spec.dtype for spec in self.outputs}
        """By name, in the model's order."""
        self._batched = are_batched((*inputs, *outputs))
        self._bits = any(spec.dtype == "BF16" for spec in (*self.inputs, *self.outputs))
        problem = not_tabular(self.inputs, self.outputs)
        self.tabular = problem is None
        self._problem = problem
        self._score_output = "" if problem else score_output(self.outputs)

    def options(self, seconds: float = LONGEST_SECONDS) -> Any:
        """What a run is given so that it can be ended: setting `terminate` has it raise between two of its operators.

        In another process a run that takes longer than so many seconds is ended in any case, if need be with its process.
        """
        import onnxruntime as ort

        return ort.RunOptions()

    @property
    def batched(self) -> bool:
        """Whether the first dimension of all its tensors is free, so that requests may be joined."""
        return self._batched

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str] = (), options: Any = None) -> list[np.ndarray]:
        """The wanted outputs, all by default, of inputs that were checked (`tensors.check_inputs`).

        Whoever gives it `options` may end the run from another thread; then it raises.
        """
        names = list(wanted or self.output_types)
        try:
            return self._once(feeds, names, options)
        except Exception as err:
            if not is_full(err):
                raise
        with contextlib.suppress(Exception):  # its end makes room, whatever becomes of it
            return self._once(feeds, names, shrinking(options))
        return self._once(feeds, names, options)

    def _once(self, feeds: Mapping[str, np.ndarray], names: list[str], options: Any) -> list[np.ndarray]:
        if self._bits:
            return self._run_bits(feeds, names, options)
        if self._device is not None:
            return run_bound(self._session, self._device, feeds, names, options)
        found: list[np.ndarray] = self._run(names, feeds, options)
        return found

    def _run_bits(self, feeds: Mapping[str, np.ndarray], names: list[str], options: Any) -> list[np.ndarray]:
        """As `run`, for models with bfloat16, which onnxruntime takes and gives as bits only."""
        import onnxruntime as ort

        types = {spec.name: spec.dtype for spec in self.inputs}
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(data, ONNX_BFLOAT16)
            if types[name] == "BF16"
            else ort.OrtValue.ortvalue_from_numpy(data)
            for name, data in feeds.items()
        }
        return [_array_of(value) for value in self._session.run_with_ort_values(names, values, options)]

    def answer(
        self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str], options: Any = None
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """The score of each row, where the model is tabular, and the wanted outputs, of one run."""
        if self._problem is not None:
            return None, self.run(feeds, wanted, options)
        names = [*wanted] if self._score_output in wanted else [*wanted, self._score_output]
        found = self.run(feeds, names, options)
        rows = len(feeds[self.inputs[0].name])
        return scores_of(found[names.index(self._score_output)], self._score_output, rows), found[: len(wanted)]

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Scores [N] as float64 of rows [N, F] as float32; raises InvalidInput for a model that gives other than N."""
        import numpy as np

        if self._problem is not None:
            raise self._problem
        scores, _ = self.answer({self.inputs[0].name: np.ascontiguousarray(rows, dtype=np.float32)}, ())
        assert scores is not None
        return scores


def scores_of(output: np.ndarray, name: str, rows: int) -> np.ndarray:
    """A score [N] as float64 for each row out of a model's output; raises InvalidInput where it has other than N."""
    import numpy as np

    scores = np.asarray(output, dtype=np.float64)
    if scores.ndim not in (1, 2) or len(scores) != rows or (scores.ndim == 2 and not scores.shape[1]):
        raise InvalidInput(
            f"The model's output {name!r} is {list(scores.shape)} for {rows} rows.",
            hint="Export a score for each row.",
            field="output",
        )
    return scores if scores.ndim == 1 else scores[:, -1]


def _array_of(value: Any) -> np.ndarray:
    """An array of onnxruntime's value; of bfloat16 its bits, copied out of memory that the value owns."""
    import numpy as np

    if value.data_type() != "tensor(bfloat16)":
        found: np.ndarray = value.numpy()
        return found
    shape = value.shape()
    size = math.prod(shape)
    if not size:
        return np.empty(shape, np.uint16)
    bits = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(bits, (size,)).reshape(shape).copy()


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
        axes = tuple(size if isinstance(size, str) else "" for size in tensor.shape)
        specs.append(
            TensorSpec(name=tensor.name, dtype=DTYPES[tensor.type], shape=shape, axes=axes if any(axes) else ())
        )
    return tuple(specs)


def _by_row(inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The inputs of a model that is asked by rows: the axis of these is one, unless it has names of its own in some of them."""
    names = {spec.axes[0] for spec in inputs if spec.axes} - {""}
    if len(inputs) < 2 or len(names) > 1:
        return inputs
    rows = names.pop() if names else ROWS
    return tuple(replace(spec, axes=(rows, *(spec.axes or ("",) * len(spec.shape))[1:])) for spec in inputs)


def not_tabular(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> InvalidInput | None:
    """Why a model with these tensors is not tabular: an error to raise where it has to be; None for one that is."""
    if len(inputs) != 1 or inputs[0].dtype != "FP32" or len(inputs[0].shape) != 2:
        found = ", ".join(f"{i.name} {i.dtype}{list(i.shape)}" for i in inputs) or "none"
        return InvalidInput(
            f"The model's inputs are {found}; one FP32 [N, F] is wanted.",
            hint="Export with one float32 input of rows and features.",
            field="input",
        )
    if inputs[0].shape[0] != -1:
        return InvalidInput(
            f"The model takes batches of {inputs[0].shape[0]} only.",
            hint="Export with a free first dimension.",
            field="input",
        )
    if not score_output(outputs):
        return InvalidInput(
            "The model has no floating-point output of one or two dimensions to take a score from.",
            hint="Export the probability.",
            field="output",
        )
    return None


def score_output(outputs: Sequence[TensorSpec]) -> str:
    """The output that a score is taken from, empty where there is none."""
    return next((spec.name for spec in outputs if spec.dtype in FLOATS and len(spec.shape) <= 2), "")
