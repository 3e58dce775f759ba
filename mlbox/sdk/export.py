"""Trained models as ONNX, with what the source model answered beside, so that parity can be checked."""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

OPSET = 18


@dataclass(frozen=True)
class Exported:
    """An ONNX model with one float32 input [N, F], and the source model's scores [N] of sample rows."""

    onnx: bytes
    inputs: np.ndarray
    outputs: np.ndarray

    def sample(self) -> bytes:
        """The rows and scores as an .npz without pickle."""
        import numpy as np

        content = io.BytesIO()
        np.savez_compressed(content, inputs=self.inputs, outputs=self.outputs, allow_pickle=False)
        return content.getvalue()

    def __repr__(self) -> str:
        return f"Exported({len(self.onnx):,} bytes, {self.inputs.shape[1]} features, {len(self.inputs)} sample rows)"


def export_onnx(model: Any, sample: np.ndarray) -> Exported:
    """A torch module or a scikit-learn estimator as ONNX; `sample` are real rows [N, F], NaN for missing.

    The score is the module's only output (or its last column), or the estimator's probability of the last class, or its
    prediction. Raises InvalidInput for anything else.
    """
    import numpy as np

    rows = np.ascontiguousarray(sample, dtype=np.float32)
    if rows.ndim != 2 or len(rows) == 0:
        raise InvalidInput(f"The sample has the shape {list(rows.shape)}; [N, F] is wanted.", field="sample")
    kinds = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "torch" in kinds:
        return _from_torch(model, rows)
    if "sklearn" in kinds:
        return _from_sklearn(model, rows)
    raise InvalidInput(
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
