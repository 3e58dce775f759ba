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


def counting() -> onnx.ModelProto:
    """sigmoid(row) of [N, 1], after counting up to the sum of the rows: as slow as its caller wants."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["count", "one"], ["counted"])],
        "body",
        [
            scalar("turn", TensorProto.INT64, []),
            scalar("go", TensorProto.BOOL, []),
            scalar("count", TensorProto.FLOAT, []),
        ],
        [scalar("goes", TensorProto.BOOL, []), scalar("counted", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["input"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["sum"], ["turns"], to=TensorProto.INT64),
            helper.make_node("Loop", ["turns", "yes", "zero"], ["counted"], body=body),
            helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
            helper.make_node("Sigmoid", ["input"], ["sigmoid"]),
            helper.make_node("Add", ["sigmoid", "nothing"], ["score"]),
        ],
        "counting",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def blocking() -> onnx.ModelProto:
    """Takes a number and gives it back, after its square of comparisons in one operator, which ends for nobody."""
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "ends": np.array([0, 2]),
        "starts": np.array([0, 1]),
        "corners": np.array([0, 0, 0.5, 0.5], np.float32),
        "most": np.array([1 << 62]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["input"], ["count"]),
            helper.make_node("Range", ["zero", "count", "one"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["places"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["places", "ends"], ["corner"]),
            helper.make_node("Add", ["corner", "corners"], ["boxes"]),
            helper.make_node("Unsqueeze", ["places", "starts"], ["weights"]),
            helper.make_node("NonMaxSuppression", ["boxes", "weights", "most"], ["kept"]),
            helper.make_node("Shape", ["kept"], ["score"], start=0, end=1),
        ],
        "blocking",
        [helper.make_tensor_value_info("input", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("score", TensorProto.INT64, [1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def picky(most: int = 2) -> onnx.ModelProto:
    """Of [N, 1]: 0.25 for even numbers and 0.75 for odd ones, NaN for `most`, an error for more.

    For -2**63 its process ends (SIGFPE, on x86).
    """
    scores = np.where(np.arange(most + 1) % 2, 0.75, 0.25).astype(np.float32)
    scores[most] = np.nan
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Div", ["whole", "by"], ["less"]),
            helper.make_node("Mul", ["less", "zero"], ["nothing"]),
            helper.make_node("Add", ["whole", "nothing"], ["at"]),
            helper.make_node("Gather", ["scores", "at"], ["score"]),
        ],
        "picky",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [
            numpy_helper.from_array(np.array([-1], np.int64), "by"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(scores, "scores"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def filling() -> onnx.ModelProto:
    """Takes a number and gives it back, after filling so many float32 in memory."""
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=1),
            helper.make_node("Cast", ["nothing"], ["zero"], to=TensorProto.INT64),
            helper.make_node("Add", ["size", "zero"], ["same"]),
        ],
        "filling",
        [helper.make_tensor_value_info("size", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("same", TensorProto.INT64, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
