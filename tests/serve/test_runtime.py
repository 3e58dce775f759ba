"""A model in memory: what it takes, and what its score is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mlbox.errors import InvalidInput
from mlbox.serve.inference.binding import DEVICES, Device, configured, device_of, run_bound
from mlbox.serve.inference.devices import Devices, choose
from mlbox.serve.inference.loading import Holding
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.inference.tensors import NUMPY, Tensor, check_inputs
from tests.models import linear, save, sums

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph(nodes: list[Any], outputs: list[Any], *constants: Any, width: Any = 2) -> onnx.ModelProto:
    """A model of the input [N, width]."""
    rows = helper.make_tensor_value_info("input", FLOAT, ["N", width])
    made = helper.make_graph(nodes, "g", [rows], outputs, list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def out(name: str, *shape: Any, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def constant(name: str, *values: float, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), name)


ROWS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_the_score_is_the_last_column_of_the_first_floating_point_output(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["input"], ["label"], axis=1, keepdims=0),
        helper.make_node("Identity", ["input"], ["probabilities"]),
    ]
    model = graph(nodes, [out("label", "N", dtype=INT64), out("probabilities", "N", 2)])
    session = Session(save(model, tmp_path))
    assert [o.dtype for o in session.outputs] == ["INT64", "FP32"]
    assert session.score(ROWS).tolist() == [2.0, 4.0, 6.0]


def test_a_vector_is_a_score_as_it_is_and_any_layout_of_rows_is_taken() -> None:
    nodes = [helper.make_node("ReduceSum", ["input", "axes"], ["score"], keepdims=0)]
    model = graph(nodes, [out("score", "N")], constant("axes", 1, dtype=np.int64))
    session = Session(model.SerializeToString(), providers=CPU)
    assert session.score(ROWS).tolist() == [3.0, 7.0, 11.0]
    assert session.score(np.asfortranarray(ROWS.astype(np.float64))).tolist() == [3.0, 7.0, 11.0]
    assert session.score(ROWS).dtype == np.float64


def test_scores_that_are_not_one_for_each_row_are_refused() -> None:
    total = [
        helper.make_node("ReduceSum", ["input"], ["s"], keepdims=0),
        helper.make_node("Add", ["s", "w"], ["score"]),
    ]
    session = Session(graph(total, [out("score", "M")], constant("w", 0, 0)).SerializeToString())
    assert len(session.score(ROWS[:2])) == 2, "by chance as many"
    with pytest.raises(InvalidInput, match=r"is \[2\] for 3 rows") as caught:
        session.score(ROWS)
    assert caught.value.field == "output"
    scalar = [helper.make_node("ReduceSum", ["input"], ["score"], keepdims=0)]
    with pytest.raises(InvalidInput, match=r"is \[\] for 3 rows"):
        Session(graph(scalar, [out("score")]).SerializeToString()).score(ROWS)


def test_a_model_without_a_floating_point_output_gives_tensors_and_no_score() -> None:
    nodes = [helper.make_node("ArgMax", ["input"], ["label"], axis=1, keepdims=0)]
    session = Session(graph(nodes, [out("label", "N", dtype=INT64)]).SerializeToString())
    assert (session.tabular, session.batched) == (False, True)
    assert session.run({"input": ROWS})[0].tolist() == [1, 1, 1]
    with pytest.raises(InvalidInput, match="no floating-point output"):
        session.score(ROWS)


TYPES = {
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
    **{f"{sign}INT{bits}": getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_of_every_type_go_through_with_the_same_bits(dtype: str) -> None:
    values = ["", "ünï"] if dtype == "BYTES" else [0, 1] if dtype in ("BOOL", "BF16") else [0, 100]
    given = np.array([values], NUMPY[dtype])
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TYPES[dtype], ["N", 2])],
        [helper.make_tensor_value_info(name, TYPES[dtype], ["N", 2]) for name in "yz"],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = Session(model.SerializeToString(), providers=CPU)
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == [dtype] * 3
    (found,) = session.run({"x": given}, ["z"])
    assert found.dtype == given.dtype
    assert found.tolist() == given.tolist()
    (empty, _) = session.run({"x": given[:0]})
    assert empty.shape == (0, 2)


def test_a_list_of_dictionaries_is_refused_with_what_to_switch_off() -> None:
    zipmap = helper.make_node("ZipMap", ["input"], ["score"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
    output = helper.make_value_info("score", helper.make_sequence_type_proto(kind))
    rows = helper.make_tensor_value_info("input", FLOAT, ["N", 2])
    made = helper.make_graph([zipmap], "g", [rows], [output])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    with pytest.raises(InvalidInput, match="zipmap"):
        Session(helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())


def test_many_threads_share_one_session_and_get_their_own_rows(tmp_path: Path) -> None:
    session = Session(save(linear([1.0, 0.0]), tmp_path))
    wrong: list[int] = []

    def work(seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(17, 2)).astype(np.float32)
        wanted = 1 / (1 + np.exp(-rows[:, 0].astype(np.float64)))
        for _ in range(50):
            if not np.allclose(session.score(rows), wanted, rtol=1e-4):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("axes", "one"), [(("N", "N"), "N"), ((None, None), "rows"), ((None, "N"), "N"), (("A", "B"), None)]
)
def test_inputs_of_one_axis_have_as_many_of_it(axes: tuple[str | None, str | None], one: str | None) -> None:
    """The axis of rows is one, unless the model gives it names of its own in each input."""
    value = lambda name, axis: helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, 1])  # noqa: E731
    names = list(zip("ab", axes, strict=True))
    made = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}{name}"]) for name, _ in names],
        "two",
        [value(name, axis) for name, axis in names],
        [value(f"{name}{name}", axis) for name, axis in names],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = Session(model.SerializeToString())
    tensors = [Tensor("a", "FP32", ROWS[:2, :1]), Tensor("b", "FP32", ROWS[:, :1])]
    if one is None:
        check_inputs(session.inputs, tensors, "two")
        return
    with pytest.raises(InvalidInput, match=f"'a' and 'b' of model 'two' have 2 and 3 along '{one}'") as caught:
        check_inputs(session.inputs, tensors, "two")
    assert caught.value.field == "b"
    check_inputs(session.inputs, [tensor._replace(data=ROWS[:, :1]) for tensor in tensors], "two")


@pytest.mark.parametrize("model", [linear([1.0, 2.0]), sums(TensorProto.INT32)])
def test_a_run_that_is_bound_to_a_device_gives_what_a_plain_one_does(model: onnx.ModelProto) -> None:
    """The device is the processor, the only one here; CUDA's was never run."""
    session = ort.InferenceSession(model.SerializeToString(), providers=CPU)
    rng = np.random.default_rng(0)
    names = [output.name for output in reversed(session.get_outputs())]
    for rows in (1, 5):
        feeds = {
            one.name: np.asfortranarray(rng.normal(size=(rows, one.shape[1])) * 9).astype(
                np.float32 if one.type == "tensor(float)" else np.int32
            )
            for one in session.get_inputs()
        }
        for wanted in (names, names[:1]):
            expected = session.run(wanted, feeds)
            found = run_bound(session, Device("cpu"), feeds, wanted)
            assert [a.tolist() for a in found] == [a.tolist() for a in expected]
            assert [a.dtype for a in found] == [a.dtype for a in expected]
    with pytest.raises(Exception, match="Invalid rank"):
        run_bound(session, Device("cpu"), {name: data[:, None] for name, data in feeds.items()}, names)


def test_a_device_is_that_of_the_provider_that_comes_first() -> None:
    assert device_of(("CUDAExecutionProvider", *CPU)) == Device("cuda", 0)
    assert device_of(("TensorrtExecutionProvider", "CUDAExecutionProvider", *CPU), 3) == Device("cuda", 3)
    assert device_of(CPU) is device_of(()) is None
    assert Holding(1, ("CUDAExecutionProvider", *CPU)).on_gpu
    assert not Holding(1, CPU).on_gpu


def test_each_provider_of_a_device_is_told_which_and_those_that_are_not_there_are_left_out() -> None:
    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", *CPU]
    for text, tensorrt, wanted in (("1", False, there[1:]), ("1", True, there)):
        providers = Devices.of(text, tensorrt=tensorrt).providers
        on_one = [(name, {"device_id": "1"}) if name not in CPU else name for name in wanted]
        assert configured(providers, there, 1) == on_one
        assert configured(providers, CPU, 1) == [*CPU]
    assert Devices.of("0,2,2", tensorrt=False).numbers == (0, 2)


@given(
    numbers=st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
    sizes=st.lists(st.integers(0, 100), max_size=20),
)
def test_models_go_to_the_device_that_holds_the_least(numbers: list[int], sizes: list[int]) -> None:
    """No device is ahead of another by more than the largest model, and one that is gone counts no more."""
    held: list[tuple[int, int]] = []
    for size in sizes:
        held.append((choose(numbers, [*held, (77, 1000)]), size))
    taken = [sum(size for number, size in held if number == one) for one in numbers]
    assert max(taken) - min(taken) <= max(sizes, default=0)
    assert choose(numbers, []) == numbers[0]


def test_a_session_on_a_device_binds_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Session(linear([1.0, 2.0]).SerializeToString(), providers=CPU)
    monkeypatch.setitem(DEVICES, CPU[0], "cpu")
    bound = Session(linear([1.0, 2.0]).SerializeToString(), providers=CPU)
    assert bound.score(ROWS).tolist() == plain.score(ROWS).tolist()
    options = bound.options()
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        bound.run({"input": ROWS}, options=options)
