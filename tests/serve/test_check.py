"""Models are looked at in a process that may die."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlbox.errors import InvalidInput
from mlbox.serve import check
from mlbox.serve.runtime import Session
from tests.models import linear, save


def test_a_good_model_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    found = check.inspect_onnx(save(linear([1.0, 2.0]), tmp_path))
    assert [(i.name, i.dtype, i.shape) for i in found.inputs] == [("input", "FP32", (-1, 2))]
    assert [(o.name, o.dtype) for o in found.outputs] == [("score", "FP32")]
    assert found.size > 0


def test_scores_are_the_same_in_the_process_and_in_the_server(tmp_path: Path) -> None:
    path = save(linear([1.0, -2.0]), tmp_path)
    rows = np.array([[1, 2], [3, 4], [0.5, np.nan]], np.float32)
    scores = check.score_onnx(path, rows)
    assert scores[:2] == pytest.approx([1 / (1 + np.exp(3)), 1 / (1 + np.exp(5))], rel=1e-4)
    assert np.array_equal(scores, Session(path).score(rows), equal_nan=True)


def test_latency_is_measured(tmp_path: Path) -> None:
    found = check.measure_latency(save(linear([1.0]), tmp_path), batch=1, runs=20)
    assert 0 < found.p50_ms <= found.p95_ms


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 50])
def test_a_file_that_is_no_model_is_named_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        check.inspect_onnx(path)
    assert caught.value.field == "artifact"


def external(tmp_path: Path) -> onnx.ModelProto:
    model = linear([1.0, 2.0])
    onnx.save_model(model, tmp_path / "ext.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return onnx.load_model(tmp_path / "ext.onnx", load_external_data=False)


def of_two_inputs(tmp_path: Path) -> onnx.ModelProto:
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("a", "b", "score")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["score"])], "g", row[:2], row[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_integers(tmp_path: Path) -> onnx.ModelProto:
    row = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 1]) for name in ("input", "score")]
    graph = helper.make_graph([helper.make_node("Abs", ["input"], ["score"])], "g", row[:1], row[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_an_unknown_operator(tmp_path: Path) -> onnx.ModelProto:
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("input", "score")]
    graph = helper.make_graph([helper.make_node("Magic", ["input"], ["score"])], "g", row[:1], row[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_one_row(tmp_path: Path) -> onnx.ModelProto:
    return linear([1.0], batch=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external, "in other files"),
        (of_two_inputs, "one FP32"),
        (of_integers, "one FP32"),
        (of_an_unknown_operator, "cannot be loaded and run"),
        (of_one_row, "batches of 1 only"),
    ],
)
def test_a_model_that_cannot_be_served_says_why(tmp_path: Path, make, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check.inspect_onnx(save(make(tmp_path), tmp_path))


def test_a_model_that_kills_its_process_is_an_error_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process and a real signal: the limit on CPU time, which an endless model would meet."""
    endless = helper.make_node("Loop", ["trip", "keep", "input"], ["score"], body=_same())
    constants = [
        helper.make_tensor("trip", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("keep", TensorProto.BOOL, [], [True]),
    ]
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("input", "score")]
    graph = helper.make_graph([endless], "g", row[:1], row[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr(check, "TIMEOUT_SECONDS", 3)
    with pytest.raises(InvalidInput, match="longer than 3 s"):
        check.inspect_onnx(save(model, tmp_path))


def _same() -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["cond"], ["again"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_a_sample_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sample.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"no \.npz"):
        check.read_sample(path)


def test_a_sample_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.npz"
    np.savez(path, inputs=np.array([object()], dtype=object), outputs=np.zeros(1))
    with pytest.raises(InvalidInput, match=r"no \.npz"):
        check.read_sample(path)
