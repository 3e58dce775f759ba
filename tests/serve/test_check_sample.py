"""Models of any tensors are compared with what their source model answered, and judged by it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mlbox.errors import InvalidInput
from mlbox.records import ModelVersion
from mlbox.serve.inference.check import compare_onnx, inspect_onnx
from mlbox.serve.inference.check_sample import arrays_of, compared
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.store.registry.registry import NewVersion
from mlbox.web.box import Box
from tests.models import linear
from tests.web.site import open_box

TEXTS = np.array([["a"], ["b"]], object)


def mixed() -> bytes:
    """`sum` of two numbers' tensors, and `same` texts."""
    tensors = {
        "left": (TensorProto.FLOAT, ["N", 2]),
        "right": (TensorProto.INT64, ["N", 2]),
        "texts": (TensorProto.STRING, ["N", 1]),
        "sum": (TensorProto.FLOAT, ["N", 2]),
        "same": (TensorProto.STRING, ["N", 1]),
    }
    infos = {name: helper.make_tensor_value_info(name, *kind) for name, kind in tensors.items()}
    nodes = [
        helper.make_node("Cast", ["right"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["left", "float"], ["sum"]),
        helper.make_node("Identity", ["texts"], ["same"]),
    ]
    graph = helper.make_graph(nodes, "g", list(infos.values())[:3], list(infos.values())[3:])
    found: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return found


def sample(folder: Path, **changes: Any) -> Path:
    """What the model answers, with changes; a name's underscore stands for the slash, and None leaves an array out."""
    arrays: dict[str, Any] = {
        "input_left": np.array([[1, 2], [3, 4]], np.float32),
        "input_right": np.array([[1, 1], [2, 2]]),
        "input_texts": np.array([["a"], ["b"]]),
        "output_sum": np.array([[2, 3], [5, 6]], np.float32),
        "output_same": np.array([["a"], ["b"]]),
    }
    arrays |= changes
    path = folder / "sample.npz"
    np.savez(path, **{name.replace("_", "/", 1): data for name, data in arrays.items() if data is not None})
    return path


SESSION = Session(mixed(), providers=CPU)


def test_what_a_model_answers_is_compared_output_by_output(tmp_path: Path) -> None:
    assert compared(SESSION, sample(tmp_path)) == {
        "difference": 0.0,
        "output": "sum",
        "low": 2.0,
        "high": 6.0,
        "rows": 2,
    }
    found = compared(SESSION, sample(tmp_path, output_sum=np.array([[2, 3], [5, 6.5]])))
    assert (found["difference"], found["output"]) == (0.5, "sum")
    other = compared(SESSION, sample(tmp_path, output_same=np.array([["a"], ["c"]])))
    assert (other["difference"], other["output"]) == (None, "same")
    texts = compared(SESSION, sample(tmp_path, output_sum=None))
    assert (texts["difference"], texts["low"], texts["high"]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("left", "expected", "difference"),
    [
        ([[math.nan, 2], [3, 4]], [[math.nan, 3], [5, 6]], 0.0),
        ([[math.nan, 2], [3, 4]], [[2, 3], [5, 6]], None),
        ([[1, 2], [3, 4]], [[2, 3]], None),
        ([[math.inf, 2], [3, 4]], [[math.inf, 3], [5, 6]], 0.0),
    ],
)
def test_missing_values_are_equal_and_other_shapes_are_not(
    tmp_path: Path, left: Any, expected: Any, difference: float | None
) -> None:
    path = sample(tmp_path, input_left=np.array(left, np.float32), output_sum=np.array(expected))
    assert compared(SESSION, path)["difference"] == difference


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_right": None}, "no array 'input/right'"),
        ({"output_sum": None, "output_same": None}, "no array 'output/sum'"),
        ({"input_texts": np.zeros((2, 1))}, "'texts' is float64"),
        ({"input_left": np.array([["a", "b"]] * 2)}, "'left' is <U1"),
        ({"input_left": np.zeros((2, 3), np.float32)}, r"'left' is float32\[2, 3\], and the model takes FP32\[-1, 2\]"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        compared(SESSION, sample(tmp_path, **changes))
    assert caught.value.field == "sample"


def test_the_comparison_is_made_in_a_process_of_its_own(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(mixed())
    assert compare_onnx(model, sample(tmp_path)).difference == 0.0
    with pytest.raises(InvalidInput, match="no array"):
        compare_onnx(model, sample(tmp_path, input_left=None))
    assert set(arrays_of(sample(tmp_path))) == {f"input/{n}" for n in ("left", "right", "texts")} | {
        "output/sum",
        "output/same",
    }


def test_a_tabular_model_is_compared_by_its_scores(tmp_path: Path) -> None:
    session = Session(linear([1.0, 1.0]).SerializeToString(), providers=CPU)
    rows = np.array([[1, 2], [3, 4]], np.float32)
    path = tmp_path / "sample.npz"
    np.savez(path, inputs=rows, outputs=session.score(rows) + 0.25)
    found = compared(session, path)
    assert found["difference"] == pytest.approx(0.25)
    assert (found["output"], found["rows"]) == ("score", 2)


# -- the gates ----------------------------------------------------------------------------------------------------------------


def registered(box: Box, folder: Path, **changes: Any) -> ModelVersion:
    digest, size = box.artifacts.put([mixed()])
    found = inspect_onnx(box.artifacts.path(digest))
    kept, _ = box.artifacts.put([sample(folder, **changes).read_bytes()])
    return box.registry.register(
        NewVersion(
            model="mixed",
            artifact=digest,
            size=size,
            sample=kept,
            inputs=found.inputs,
            outputs=found.outputs,
            trained_by="ann",
            submitted_by="ann",
        )
    )


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, set()),
        ({"output_sum": np.zeros((2, 2), np.float32)}, {"parity"}),
        ({"input_left": np.full((2, 2), np.nan, np.float32)}, {"parity", "sanity"}),
    ],
)
def test_the_gates_judge_a_model_of_any_tensors_by_its_sample(
    tmp_path: Path, changes: dict[str, Any], failed: set[str]
) -> None:
    box = open_box(tmp_path / "data")
    try:
        promotion = box.promotions.propose(registered(box, tmp_path, **changes), actor="ann")
        results = {result.gate: result for result in box.promoter.results(promotion)}
    finally:
        box.close()
    judged = {"signature", "latency", "parity", "sanity"}
    assert {name for name in judged if not results[name].passed} == failed, results
    assert "texts BYTES[-1, 1] to sum FP32[-1, 2]" in results["signature"].measured
