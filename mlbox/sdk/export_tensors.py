"""Models of several inputs as ONNX: torch modules by their arguments, scikit-learn pipelines by their columns."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

LOCALE = "C.UTF-8"
Arrays = dict[str, "np.ndarray"]


def torch_tensors(model: Any, arrays: Mapping[str, np.ndarray], opset: int) -> tuple[bytes, Arrays, Arrays]:
    """A module whose arguments are the arrays, in their order; any number of rows, which each first dimension is.

    Its outputs are called `output`, `output_0`, `output_1`, ... of a tuple, and by their keys of a dictionary.
    """
    import torch

    model = copy.deepcopy(model).eval().cpu()  # the caller's stays on its device, and in training mode
    given = tuple(torch.from_numpy(array.copy()) for array in arrays.values())
    with torch.no_grad():
        outputs = _named(model(*given))
    rows = torch.export.Dim("rows")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own inside
        program = torch.onnx.export(
            model,
            tuple(tensor[:2] for tensor in given),
            input_names=list(arrays),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: rows} for _ in given),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
        program.save(content)
    return content.getvalue(), dict(arrays), {name: tensor.numpy() for name, tensor in outputs.items()}


def _named(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if isinstance(outputs, tuple | list):
        return {f"output_{place}": tensor for place, tensor in enumerate(outputs)}
    return {"output": outputs}


def sklearn_tensors(model: Any, arrays: Mapping[str, np.ndarray], opset: int) -> tuple[bytes, Arrays, Arrays]:
    """A pipeline whose columns are the arrays: numbers stay numbers, whole ones whole, and texts texts.

    A classifier answers with a label and the probability of each class, a regressor with a number.
    """
    import numpy as np
    import pandas as pd
    from skl2onnx import convert_sklearn

    columns = {name: array.reshape(len(array), -1) for name, array in arrays.items()}
    wide = next((name for name, array in columns.items() if array.shape[1] != 1), None)
    if wide is not None:
        raise InvalidInput(
            f"The column {wide!r:.80} has several values in a row.", hint="Give each column by itself.", field="sample"
        )
    classifies = hasattr(model, "predict_proba")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter warns of its own inside
        converted = convert_sklearn(
            model,
            initial_types=[(name, _kind(array)) for name, array in columns.items()],
            options={id(model): {"zipmap": False}} if classifies else None,
            target_opset=opset,
        )
    _name_locale(converted)
    frame = pd.DataFrame({name: array[:, 0] for name, array in columns.items()})
    answers = [model.predict(frame), *([model.predict_proba(frame)] if classifies else [])]
    names = [output.name for output in converted.graph.output]
    shaped = [np.asarray(answer) if classifies else np.asarray(answer).reshape(len(frame), -1) for answer in answers]
    inputs = {name: _as_sent(array) for name, array in columns.items()}
    return converted.SerializeToString(), inputs, dict(zip(names, shaped, strict=False))


def _name_locale(model: Any) -> None:
    """Have texts made lower case by the locale that every Linux has: onnxruntime's own default, en_US, is on no slim image."""
    from onnx import helper

    for node in model.graph.node:
        if node.op_type == "StringNormalizer" and all(one.name != "locale" for one in node.attribute):
            node.attribute.append(helper.make_attribute("locale", LOCALE))


def _kind(array: np.ndarray) -> Any:
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    if array.dtype.kind in "iub":
        return Int64TensorType([None, 1])
    return FloatTensorType([None, 1]) if array.dtype.kind == "f" else StringTensorType([None, 1])


def _as_sent(array: np.ndarray) -> np.ndarray:
    import numpy as np

    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype.kind == "f" else array.astype(str)
