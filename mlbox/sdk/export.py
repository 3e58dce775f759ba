"""Trained models as ONNX, with what the source model answered beside, so that parity can be checked."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput
from mlbox.sdk.export_tensors import sklearn_tensors, torch_tensors

if TYPE_CHECKING:
    import numpy as np

OPSET = 18


@dataclass(frozen=True)
class Exported:
    """An ONNX model and what the source model answered to sample rows.

    `inputs` and `outputs` are rows [N, F] and scores [N] of a model with one float32 input, arrays by name of any other.
    """

    onnx: bytes
    inputs: np.ndarray | dict[str, np.ndarray]
    outputs: np.ndarray | dict[str, np.ndarray]

    def sample(self) -> bytes:
        """The rows and answers as an .npz without pickle."""
        import numpy as np

        content = io.BytesIO()
        if isinstance(self.inputs, dict) and isinstance(self.outputs, dict):
            arrays = {f"input/{name}": data for name, data in self.inputs.items()}
            arrays |= {f"output/{name}": data for name, data in self.outputs.items()}
            stored: dict[str, Any] = {name: _storable(data) for name, data in arrays.items()}
            np.savez_compressed(content, **stored)
        else:
            np.savez_compressed(content, inputs=np.asarray(self.inputs), outputs=np.asarray(self.outputs))
        return content.getvalue()

    def __repr__(self) -> str:
        size = f"{len(self.onnx):,} bytes"
        if isinstance(self.inputs, dict):
            return f"Exported({size}, inputs {', '.join(self.inputs)}, outputs {', '.join(self.outputs)})"
        return f"Exported({size}, {self.inputs.shape[1]} features, {len(self.inputs)} sample rows)"


def _storable(data: np.ndarray) -> np.ndarray:
    return data.astype(str) if data.dtype == object else data


def export_onnx(model: Any, sample: np.ndarray | Mapping[str, Any]) -> Exported:
    """A torch module or a scikit-learn estimator as ONNX, and what it answers to a sample of real inputs.

    Rows [N, F] of numbers, NaN for missing, make a model of one float32 input: its score is the module's only output (or its
    last column), or the estimator's probability of the last class, or its prediction. Arrays by name, such as the columns of
    a data frame, make a model of several inputs that keep their names and types: the arguments of a module, in their order, or
    the columns of a pipeline. Raises InvalidInput for anything else.
    """
    import numpy as np

    kinds = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if hasattr(sample, "keys"):
        arrays = _by_name(sample)
        if "torch" in kinds:
            return Exported(*torch_tensors(model, arrays, OPSET))
        if "sklearn" in kinds:
            return Exported(*sklearn_tensors(model, arrays, OPSET))
        raise _unknown(model)
    rows = np.ascontiguousarray(sample, dtype=np.float32)
    if rows.ndim != 2 or len(rows) == 0:
        raise InvalidInput(
            f"The sample has the shape {list(rows.shape)}; [N, F] is wanted.",
            hint="Give arrays of other shapes by the names of the inputs.",
            field="sample",
        )
    if "torch" in kinds:
        return _from_torch(model, rows)
    if "sklearn" in kinds:
        return _from_sklearn(model, rows)
    raise _unknown(model)


def _by_name(sample: Any) -> dict[str, np.ndarray]:
    import numpy as np

    arrays = {str(name): np.asarray(sample[name]) for name in sample.keys()}  # noqa: SIM118, a data frame has keys
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidInput(
            "The arrays of the sample have other numbers of rows, or none.",
            hint="Give each input as many rows.",
            field="sample",
        )
    return arrays


def _unknown(model: Any) -> InvalidInput:
    return InvalidInput(
        f"{type(model).__name__} is neither a torch module nor a scikit-learn estimator.",
        hint="Export it to ONNX yourself and register the file.",
        field="model",
    )


def _from_torch(model: Any, rows: np.ndarray) -> Exported:
    import numpy as np
    import torch

    model = copy.deepcopy(model).eval().cpu()  # the caller's stays on its device, and in training mode
    given = torch.from_numpy(rows)
    with torch.no_grad():
        outputs = model(given).double().numpy().reshape(len(rows), -1)[:, -1]
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own inside
        program = torch.onnx.export(
            model,
            (given[:2],),
            input_names=["input"],
            output_names=["score"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        program.save(content)
    return Exported(content.getvalue(), rows, np.asarray(outputs, np.float64))


def _from_sklearn(model: Any, rows: np.ndarray) -> Exported:
    import numpy as np
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    classifies = hasattr(model, "predict_proba")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of its own inside
        converted = convert_sklearn(
            model,
            initial_types=[("input", FloatTensorType([None, rows.shape[1]]))],
            options={id(model): {"zipmap": False}} if classifies else None,
            target_opset=OPSET,
        )
    scores = model.predict_proba(rows)[:, -1] if classifies else model.predict(rows)
    return Exported(converted.SerializeToString(), rows, np.asarray(scores, np.float64).reshape(-1))
