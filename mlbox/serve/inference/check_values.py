"""Values that a model is known to take: zeros and the text `0` are refused by one that takes no category but its own.

https://onnx.ai/onnx/operators/onnx_aionnxml_OneHotEncoder.html: with `zeros` 0, as skl2onnx writes scikit-learn's default
`handle_unknown="error"`, a category that is not in its list ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Known = tuple[str, int, str | int]
"""An input, its column, and a value for it."""
PASSING = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Imputer"})
"""Operators that leave columns where they are, of tensors as encoders have them."""
CHOOSING = frozenset({"Gather", "ArrayFeatureExtractor"})
"""Those that choose columns by their second input."""
MOST_STEPS = 32
"""From an encoder back to an input."""


def known_values(model: Any) -> list[Known]:
    """The first category of each column of an `onnx.ModelProto`'s inputs that goes into an encoder which refuses others."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name for value in graph.input} - constants.keys()
    found: list[Known] = []
    for node in graph.node:
        category = _category(node)
        if category is None or not node.input:
            continue
        source = _source(node.input[0], makers, constants, inputs)
        if source is not None:
            found.append((*source, category))
    return found


def _category(node: Any) -> str | int | None:
    if node.op_type != "OneHotEncoder":
        return None
    given = {one.name: one for one in node.attribute}
    if "zeros" not in given or given["zeros"].i:
        return None
    if "cats_strings" in given and given["cats_strings"].strings:
        return str(given["cats_strings"].strings[0], "utf-8", "replace")
    if "cats_int64s" in given and given["cats_int64s"].ints:
        return int(given["cats_int64s"].ints[0])
    return None


def _source(
    name: str, makers: Mapping[str, Any], constants: Mapping[str, Any], inputs: set[str]
) -> tuple[str, int] | None:
    """The input and column that the first column of a tensor is, where that can be seen."""
    column = 0
    for _ in range(MOST_STEPS):
        if name in inputs:
            return name, column
        node = makers.get(name)
        if node is None or not node.input:
            return None
        if node.op_type in CHOOSING:
            chosen = _columns(node, constants)
            if column >= len(chosen):
                return None
            column = chosen[column]
        elif node.op_type not in PASSING:
            return None
        name = node.input[0]
    return None


def _columns(node: Any, constants: Mapping[str, Any]) -> list[int]:
    """Which columns an operator chooses; empty where it chooses rows, or by what is not in the file itself."""
    from onnx import TensorProto, numpy_helper

    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    index = constants.get(node.input[1]) if len(node.input) > 1 else None
    chooses_rows = node.op_type == "Gather" and axis not in (1, -1)
    if index is None or chooses_rows or index.data_type != TensorProto.INT64 or index.external_data:
        return []
    try:
        return [int(place) for place in numpy_helper.to_array(index).reshape(-1)]
    except ValueError:  # its bytes are not those of its shape: onnxruntime says so when it loads the model
        return []
