"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(weights: Sequence[float], bias: float = 0.0, *, batch: int | str = "N") -> onnx.ModelProto:
    """sigmoid(rows · weights + bias), as [N, 1]."""
    width = len(weights)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["score"]),
        ],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch, 1])],
        [
            numpy_helper.from_array(np.array(weights, np.float32).reshape(width, 1), "w"),
            numpy_helper.from_array(np.array([bias], np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """The model as a file."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def mixed() -> onnx.ModelProto:
    """Texts and whole numbers in; the same texts and twice the numbers out."""
    text, whole = TensorProto.STRING, TensorProto.INT64
    graph = helper.make_graph(
        [helper.make_node("Identity", ["word"], ["same"]), helper.make_node("Add", ["number", "number"], ["twice"])],
        "mixed",
        [
            helper.make_tensor_value_info("word", text, ["N"]),
            helper.make_tensor_value_info("number", whole, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("same", text, ["N"]),
            helper.make_tensor_value_info("twice", whole, ["N", 2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dividing() -> onnx.ModelProto:
    """Whole numbers by -1: legal, and the least INT64 ends the process that asks it (SIGFPE, on x86)."""
    graph = helper.make_graph(
        [helper.make_node("Div", ["input", "by"], ["score"])],
        "dividing",
        [helper.make_tensor_value_info("input", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("score", TensorProto.INT64, ["N"])],
        [numpy_helper.from_array(np.array([-1], np.int64), "by")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sums(kind: int, *, texts: bool = False) -> onnx.ModelProto:
    """INPUT0 and INPUT1 [N, 16] in, their sum and their difference out; as texts of whole numbers where wanted."""
    outside = TensorProto.STRING if texts else kind
    given, nodes = ["INPUT0", "INPUT1"], []
    if texts:
        nodes += [helper.make_node("Cast", [name], [f"n{name}"], to=kind) for name in given]
        given = [f"n{name}" for name in given]
    for operator, name in (("Add", "OUTPUT0"), ("Sub", "OUTPUT1")):
        nodes.append(helper.make_node(operator, given, [f"n{name}" if texts else name]))
        if texts:
            nodes.append(helper.make_node("Cast", [f"n{name}"], [name], to=TensorProto.STRING))
    return _of_rows(nodes, ["INPUT0", "INPUT1"], ["OUTPUT0", "OUTPUT1"], outside, 16)


def _of_rows(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str], kind: int, width: int
) -> onnx.ModelProto:
    infos = [[helper.make_tensor_value_info(n, kind, ["N", width]) for n in names] for names in (inputs, outputs)]
    graph = helper.make_graph(list(nodes), "rows", *infos)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def examples() -> dict[str, onnx.ModelProto]:
    """Models of the names and tensors that Triton's example programs ask."""
    same = helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])
    kept = [
        helper.make_node("Add", ["INPUT", "START"], ["begun"]),
        helper.make_node("Mul", ["begun", "READY"], ["OUTPUT"]),
    ]
    return {
        "simple": sums(TensorProto.INT32),
        "simple_int8": sums(TensorProto.INT8),
        "simple_string": sums(TensorProto.INT32, texts=True),
        "simple_identity": _of_rows([same], ["INPUT0"], ["OUTPUT0"], TensorProto.STRING, 16),
        "simple_sequence": _of_rows(kept, ["INPUT", "START", "READY"], ["OUTPUT"], TensorProto.INT32, 1),
    }
