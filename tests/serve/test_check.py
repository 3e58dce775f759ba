"""Models are looked at in a process that may die."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlbox.errors import InvalidInput
from mlbox.records import ServingConfig, TensorSpec
from mlbox.serve.inference import check
from mlbox.serve.inference.runtime import Session
from mlbox.serve.inference.warmup import generated
from mlbox.store.sandbox.workers import ForkServer
from tests.models import linear, save


def one_hot(column: str | int, *, zeros: int = 0, between: str = "Identity") -> onnx.ModelProto:
    """Of rows [N, 3] one column, chosen by an index from the file or from nowhere, and its place among 7, 8 and 9."""
    index = numpy_helper.from_array(np.array([column], np.int64), "at") if isinstance(column, int) else None
    graph = helper.make_graph(
        [
            helper.make_node("ArrayFeatureExtractor", ["input", "at"], ["one"], domain="ai.onnx.ml"),
            helper.make_node(between, ["one"], ["meant"]),
            helper.make_node("Cast", ["meant"], ["whole"], to=TensorProto.INT64),
            helper.make_node(
                "OneHotEncoder", ["whole"], ["hot"], domain="ai.onnx.ml", cats_int64s=[7, 8, 9], zeros=zeros
            ),
            helper.make_node("ReduceSum", ["hot", "last"], ["sum"], keepdims=0),
        ],
        "one_hot",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array([2], np.int64), "last"), *([index] if index is not None else [])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_column_of_categories_is_tried_with_one_that_the_model_knows(tmp_path: Path) -> None:
    found = check.inspect_onnx(save(one_hot(1), tmp_path))
    assert (found.known, found.joins) == ((("input", 1, 7),), True)
    assert check.inspect_onnx(save(one_hot(1, zeros=1), tmp_path)).known == ()
    with pytest.raises(InvalidInput):
        check.inspect_onnx(save(one_hot("nowhere"), tmp_path))
    with pytest.raises(InvalidInput, match=r"does not take these values: Unknown Category.*OneHotEncoder") as refused:
        check.inspect_onnx(save(one_hot(1, between="Neg"), tmp_path))
    assert "tried with zeros" in refused.value.hint


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


def test_latency_is_measured_through_the_queue_with_several_at_a_time(tmp_path: Path) -> None:
    path, config = save(linear([1.0]), tmp_path), ServingConfig()
    _, (found,) = check.bench_onnx(path, config=config, rows=[2], concurrency=[4], width=1, seconds=0.05)
    assert found.p99_ms
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
    assert (found.rows, found.concurrency, found.requests >= 20) == (2, 4, True)


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


def external_where_no_initializer_is(tmp_path: Path) -> onnx.ModelProto:
    """In a branch of a condition, as the value of a constant; and never is that file opened."""
    constant = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1, 1], data_location=TensorProto.EXTERNAL)
    constant.external_data.add(key="location", value="/dev/stdin")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=constant)], "b", [], [output])
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("input", "score")]
    condition = helper.make_tensor("k", TensorProto.BOOL, [], [True])
    node = helper.make_node("If", ["k"], ["score"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", row[:1], row[1:], [condition])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_a_custom_operator(tmp_path: Path) -> onnx.ModelProto:
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("input", "score")]
    graph = helper.make_graph(
        [helper.make_node("Magic", ["input"], ["score"], domain="com.acme")], "g", row[:1], row[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def of_one_score_for_all_rows(tmp_path: Path) -> onnx.ModelProto:
    row = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1]), None]
    row[1] = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["M", 1])
    graph = helper.make_graph([helper.make_node("ReduceSum", ["input"], ["score"])], "g", row[:1], row[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


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
        (external_where_no_initializer_is, "in other files"),
        (of_a_custom_operator, "custom operator 'Magic' of 'com.acme'"),
        (of_one_score_for_all_rows, "for 2 rows"),
        (of_an_unknown_operator, "cannot be loaded and run"),
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


def test_a_sample_that_unpacks_to_more_than_is_taken_never_comes_into_the_server(tmp_path: Path) -> None:
    path = tmp_path / "sample.npz"
    np.savez_compressed(path, inputs=np.zeros((1000, 20_000), np.float32), outputs=np.zeros(1000))
    assert path.stat().st_size < 200_000
    with pytest.raises(InvalidInput, match="unpacks to 76 MiB") as caught:
        check.read_sample(path)
    assert caught.value.field == "sample"


def test_a_sample_whose_array_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", header.getvalue())
        archive.writestr("outputs.npy", header.getvalue())
    with pytest.raises(InvalidInput, match=r"no \.npz"):
        check.read_sample(path)


def test_a_good_sample_comes_back_in_the_types_of_the_parity_gate(tmp_path: Path) -> None:
    np.savez(tmp_path / "sample.npz", inputs=np.array([[1, 2], [3, 4]], np.int64), outputs=np.array([[0.5], [np.nan]]))
    sample = check.read_sample(tmp_path / "sample.npz")
    assert (sample.inputs.dtype, sample.inputs.tolist()) == (np.float32, [[1, 2], [3, 4]])
    assert np.array_equal(sample.outputs, [0.5, np.nan], equal_nan=True)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers that end as the bytes of the model say, as they would on the models on which onnxruntime dies."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    forks = ForkServer("tests.serve.odd_workers")
    monkeypatch.setattr(check, "FORKS", forks)
    yield
    forks.close()


@pytest.mark.parametrize(
    ("dies", "words"), [("kill SIGSEGV", "SIGSEGV"), ("exit 7", "exit status 7"), ("exit 0", "exit status 0")]
)
def test_a_process_that_dies_is_the_models_fault_and_the_server_is_up(
    tmp_path: Path, odd: None, dies: str, words: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text(dies)
    with pytest.raises(InvalidInput, match=f"The model ended its process .{words}") as caught:
        check.inspect_onnx(path)
    assert caught.value.field == "artifact"


def test_what_a_library_prints_does_not_mix_with_the_answer(tmp_path: Path, odd: None) -> None:
    assert check.inspect_onnx(save(linear([1.0, 2.0]), tmp_path)).inputs[0].shape == (-1, 2)


def test_a_model_that_wants_more_memory_than_there_is_fails_alone(tmp_path: Path) -> None:
    """Four TiB of zeros, of a file of some hundred bytes."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["one"]),
        helper.make_node("Add", ["input", "one"], ["score"]),
    ]
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in ("input", "score")]
    graph = helper.make_graph(nodes, "g", row[:1], row[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(InvalidInput, match=r"The model (cannot be loaded and run|ended its process)"):
        check.inspect_onnx(save(model, tmp_path))
    assert check.inspect_onnx(save(linear([1.0]), tmp_path)).size > 0


def test_the_temporary_folders_are_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    check.score_onnx(save(linear([1.0]), tmp_path), np.zeros((3, 1), np.float32))
    with pytest.raises(InvalidInput):
        check.read_sample(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_category_goes_where_a_column_takes_it_and_nowhere_else() -> None:
    specs = [
        TensorSpec(name="colour", dtype="BYTES", shape=(-1, 2)),
        TensorSpec(name="byte", dtype="UINT8", shape=(-1,)),
        TensorSpec(name="one", dtype="INT64", shape=()),
    ]
    known = [("colour", 1, "red"), ("colour", 5, "far"), ("byte", 0, -1), ("one", 0, 7), ("other", 0, 1)]
    feeds = generated(specs, 2, known=known)
    assert feeds["colour"].tolist() == [["0", "red"], ["0", "red"]]
    assert (feeds["byte"].tolist(), feeds["one"].tolist()) == ([0, 0], 0)
