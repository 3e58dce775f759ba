"""The way to a model: requests are joined, queued by priority, refused, given up; each is answered once, and by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mlbox.errors import InvalidInput, TimedOut, TooMany, Unavailable
from mlbox.records import ServingConfig
from mlbox.serve.inference.lanes import Lane
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.warmup import Speed, warm
from mlbox.serve.inference.watch import Watch
from mlbox.serve.inference.work import Apart, Left, Ran, Unfit, Work, failure_of
from mlbox.store.asking import presence, waiting
from tests.conftest import wait_for
from tests.models import linear

MODEL = linear([1.0, -2.0]).SerializeToString()
QUICK = Speed(1e-6, 1e-9)


class Held(Session):
    """A session that runs when it is let."""

    def __init__(self, model: bytes) -> None:
        super().__init__(model, providers=CPU)
        self.gate, self.busy = threading.Event(), threading.Event()

    def answer(self, *given: Any) -> Any:
        self.busy.set()
        assert self.gate.wait(60)
        return super().answer(*given)


class Place:
    """A lane of its own, and what it counted."""

    def __init__(self, session: Session, *, number: int = 1, **config: Any) -> None:
        self.session = session
        self.statistics = Statistics()
        self.watch = Watch()
        self.lane = Lane(f"m/{number}", session, ServingConfig(**config), self.statistics, self.watch)

    @property
    def totals(self) -> Any:
        return self.statistics.of("m", 1)

    def hold(self) -> Future[Ran]:
        """Have the lane run something until the gate is opened."""
        first = self.lane.submit(work([[0.0, 0.0]]))
        assert self.session.busy.wait(60)
        return first

    def close(self) -> None:
        if isinstance(self.session, Held):
            self.session.gate.set()
        self.lane.close()
        self.watch.close()


def work(rows: Any, dtype: Any = np.float32, name: str = "input", **more: Any) -> Work:
    data = np.array(rows, dtype)
    kind = {"f": "FP32", "i": "INT64"}[data.dtype.kind]
    return Work([Tensor(name, kind, data)], ["score"], **{"rows": len(data), **more})


def scores(ran: Ran) -> list[float]:
    assert ran.scores is not None
    return ran.scores.tolist()


@pytest.fixture
def held() -> Iterator[Place]:
    place = Place(Held(MODEL))
    yield place
    place.close()


def test_requests_that_wait_are_joined_and_each_gets_its_own_rows(held: Place) -> None:
    first = held.hold()
    asked = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]], [[0.5, 0.5]]]
    waiting = [held.lane.submit(work(rows)) for rows in asked]
    assert held.lane.pending == 3
    held.session.gate.set()
    first.result(60)
    alone = Session(MODEL, providers=CPU)
    for rows, future in zip(asked, waiting, strict=True):
        ran = future.result(60)
        assert scores(ran) == pytest.approx(alone.score(np.array(rows, np.float32)).tolist())
        assert ran.outputs[0].shape == (len(rows), 1)
    totals = held.totals
    assert (totals.rows, totals.executions, totals.success.count) == (5, 2, 4)
    assert {rows: found.count for rows, found in totals.batches.items()} == {1: 1, 4: 1}
    assert totals.queue.ns > 0
    assert held.lane.pending == 0


def test_a_batch_is_not_larger_than_it_may_be_and_a_large_request_runs_alone(held: Place) -> None:
    held.lane.configure(ServingConfig(max_batch=3))
    held.hold()
    sizes = [2, 2, 5, 1, 1]
    waiting = [held.lane.submit(work(np.ones((size, 2)))) for size in sizes]
    held.session.gate.set()
    assert [len(scores(future.result(60))) for future in waiting] == sizes
    assert sorted(held.totals.batches) == [1, 2, 5]
    held.lane.configure(ServingConfig(max_batch=1))
    assert not held.lane.joins


def test_requests_of_other_shapes_are_not_joined() -> None:
    rows = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", "F"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    node = helper.make_node("ReduceSum", ["input", "axes"], ["score"], keepdims=0)
    place = Place(Held(onnx_of([node], [rows], [score], [axes])))
    place.hold()
    waiting = [place.lane.submit(work(np.ones((1, width)))) for width in (3, 4, 3)]
    place.session.gate.set()
    assert [scores(future.result(60)) for future in waiting] == [[3.0], [4.0], [3.0]]
    assert place.totals.executions == 3
    place.close()


def onnx_of(nodes: Any, inputs: Any, outputs: Any, constants: Any = ()) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    found: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return found


def test_what_fails_in_a_batch_fails_alone() -> None:
    """An index that is out of range fails the run; its neighbours are answered."""
    table = numpy_helper.from_array(np.array([10.0, 20.0], np.float32), "table")
    index = helper.make_tensor_value_info("input", TensorProto.INT64, ["N"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    session = Held(onnx_of([helper.make_node("Gather", ["table", "input"], ["score"])], [index], [score], [table]))
    place = Place(session)
    first = place.lane.submit(work([0], np.int64))
    assert session.busy.wait(60)
    waiting = [place.lane.submit(work([n], np.int64)) for n in (0, 7, 1)]
    session.gate.set()
    assert first.result(60).outputs[0].tolist() == [10.0]
    assert [waiting[n].result(60).outputs[0].tolist() for n in (0, 2)] == [[10.0], [20.0]]
    with pytest.raises(InvalidInput, match="m/1 does not take these values: indices element out of data bounds"):
        waiting[1].result(60)
    assert (place.totals.success.count, place.totals.fail.count, place.totals.reasons) == (3, 1, {"model": 1})
    place.close()


FLOAT, INT, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
REFUSALS: dict[str, tuple[Any, int, Any, str]] = {
    "INVALID_ARGUMENT": (helper.make_node("Gather", ["table", "input"], ["y"]), INT, np.array([7]), "idx=7"),
    "FAIL": (
        helper.make_node("OneHotEncoder", ["input"], ["y"], domain="ai.onnx.ml", cats_strings=["a"], zeros=0),
        TEXT,
        np.array(["b"], object),
        "Unknown Category and zeros = 0 (OneHotEncoder)",
    ),
    "FAIL, with a place": (
        helper.make_node("Reshape", ["table", "input"], ["y"]),
        INT,
        np.array([7, 2]),
        "values: The input tensor cannot be reshaped to the requested shape. Input shape:{3}, requested shape:{7,2} (Resh",
    ),
    "sizes": (helper.make_node("Add", ["table", "input"], ["y"]), FLOAT, np.ones(5, np.float32), "3 by 5 (Add)"),
    "RUNTIME_EXCEPTION": (
        helper.make_node("Cast", ["input"], ["y"], to=FLOAT),
        TEXT,
        np.array(["three"], object),
        "these values: stod (Cast)",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_an_operator_refuses_is_told_in_its_words_and_blamed_on_the_values(what: str) -> None:
    node, kind, values, words = REFUSALS[what]
    table = numpy_helper.from_array(np.arange(3, dtype=np.float32), "table")
    inputs = [helper.make_tensor_value_info("input", kind, ["N"])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", FLOAT, None)], [table])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(Exception, match="ONNXRuntimeError") as failed:
        Session(model, providers=CPU).run({"input": values})
    told = failure_of("m/1", failed.value)
    assert (type(told), told.status, words in told.message) == (Unfit, 400, True), told.message


@pytest.mark.parametrize(
    "words",
    [
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices",
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Non-zero status code returned while running Conv node. Name:'' Status"
        " Message: no such kernel",
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'' Status Message: CUDA"
        " failure 2: out of memory",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:''"
        " Status Message: std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'' Status Message: Out"
        " of memory",
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Tile node. Name:'' Status Message:"
        " /a/bfc_arena.cc:360 void* BFCArena::AllocateRawInternal(size_t) Failed to allocate memory",
    ],
)
def test_what_fails_for_other_reasons_is_blamed_on_no_values(words: str) -> None:
    assert failure_of("m/1", RuntimeError(words)).status == 503


def test_of_requests_that_run_as_one_nothing_is_counted_where_that_fails() -> None:
    """Each is to run by itself then, and is counted there."""
    table = numpy_helper.from_array(np.array([10.0, 20.0], np.float32), "table")
    index = helper.make_tensor_value_info("input", TensorProto.INT64, ["N"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])
    model = onnx_of([helper.make_node("Gather", ["table", "input"], ["score"])], [index], [score], [table])
    place = Place(Session(model, providers=CPU))
    place.lane.speed = QUICK

    def run(*numbers: int) -> list[float]:
        ran, runs = place.lane.run_rows({"input": np.array(numbers, np.int64)}, ["score"], len(numbers))
        place.lane.count(runs)
        answered: list[float] = ran.outputs[0].tolist()
        return answered

    assert run(1, 0) == [20.0, 10.0]
    for numbers in ([0, 7], [7]):
        with pytest.raises(Apart):
            run(*numbers)
    assert (place.totals.success.count, place.totals.rows, place.totals.executions) == (2, 2, 1)
    assert (place.totals.fail.count, place.totals.reasons) == (0, {})
    place.close()


@given(rows=st.integers(1, 9), most=st.integers(1, 4), row_us=st.sampled_from([1.0, 80.0]))
def test_rows_that_are_requests_of_their_own_run_as_few_times_as_is_worth_it(
    rows: int, most: int, row_us: float
) -> None:
    session, statistics = Session(MODEL, providers=CPU), Statistics()
    speed = Speed(row_us * 1e-6, row_us * 1e-6)
    lane = Lane("m/1", session, ServingConfig(max_batch=most), statistics, Watch(), speed=speed)
    data = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    ran, each = lane.run_rows({"input": data}, ["score"], rows)
    assert ran.scores is not None
    assert ran.scores.tolist() == pytest.approx(session.score(data).tolist(), rel=1e-5)
    assert ran.outputs[0].shape[0] == rows
    lane.count(each)
    totals = statistics.of("m", 1)
    runs = -(-rows // most) if row_us < 50 else rows
    assert (totals.rows, totals.success.count, totals.executions) == (rows, rows, runs)


def test_what_is_urgent_comes_first_and_a_shadow_last(held: Place) -> None:
    held.lane.configure(ServingConfig(max_batch=1, priority_levels=3, default_priority=2))
    held.hold()
    order: list[str] = []
    given = {
        "shadow": {"last": True},
        "low": {"priority": 3},
        "none": {},
        "unknown": {"priority": 9},
        "top": {"priority": 1},
    }
    waiting = []
    for name, more in given.items():
        future = held.lane.submit(work([[1.0, 1.0]], **more))
        future.add_done_callback(lambda _, name=name: order.append(name))
        waiting.append(future)
    held.session.gate.set()
    for future in waiting:
        future.result(60)
    assert order == ["top", "none", "unknown", "low", "shadow"]


def test_a_full_queue_refuses_and_says_when_to_come_back(held: Place) -> None:
    held.lane.configure(ServingConfig(queue_limit=2))
    held.hold()
    waiting = [held.lane.submit(work([[1.0, 1.0]])) for _ in range(2)]
    with pytest.raises(TooMany, match="2 requests wait for m/1 already") as refused:
        held.lane.submit(work([[1.0, 1.0]]))
    assert refused.value.retry_seconds >= 1
    held.lane.configure(ServingConfig(queue_limit=3))
    waiting.append(held.lane.submit(work([[1.0, 1.0]])))
    held.session.gate.set()
    assert all(future.result(60) for future in waiting)
    assert held.totals.reasons == {"queue_full": 1}


def test_what_waits_too_long_is_given_up_and_never_runs(held: Place) -> None:
    first = held.hold()
    late = held.lane.submit(work([[1.0, 1.0]], timeout_ms=1))
    with pytest.raises(Unavailable, match="waited for m/1 for 1 ms") as refused:
        late.result(60)
    assert refused.value.retry_seconds >= 1
    held.session.gate.set()
    first.result(60)
    assert (held.totals.executions, held.totals.reasons) == (1, {"queue_timeout": 1})


def test_a_run_past_its_deadline_is_ended_and_the_lane_goes_on() -> None:
    """The model counts as far as it is told, which is for hours."""
    place = Place(Session(counting(), providers=CPU), max_batch=1)
    endless = place.lane.submit(work([2**50], np.int64, timeout_ms=50))
    behind = place.lane.submit(work([3], np.int64))
    with pytest.raises(TimedOut, match="did not answer within 50 ms"):
        endless.result(60)
    assert behind.result(60).outputs[0].tolist() == [3]
    assert place.totals.reasons == {"timeout": 1}
    place.close()


def counting() -> bytes:
    """Adds one as often as its input, a single number, says."""
    number = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("before", "after")]
    go = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "goes")]
    step = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    nodes = [helper.make_node("Add", ["before", "one"], ["after"]), helper.make_node("Identity", ["go"], ["goes"])]
    body = helper.make_graph(nodes, "body", [step, go[0], number[0]], [go[1], number[1]])
    constants = [
        numpy_helper.from_array(np.array(value, kind), name)
        for name, value, kind in (("one", [1], np.int64), ("zero", [0], np.int64), ("true", True, np.bool_))
    ]
    loop = helper.make_node("Loop", ["input", "true", "zero"], ["score"], body=body)
    inputs = [helper.make_tensor_value_info("input", TensorProto.INT64, [1])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.INT64, [1])]
    return onnx_of([loop], inputs, outputs, constants)


def test_whoever_goes_away_is_not_answered_and_holds_nobody_up(held: Place) -> None:
    held.hold()
    gone, there = (held.lane.submit(work([[1.0, 1.0]])) for _ in range(2))
    assert gone.cancel()
    held.session.gate.set()
    assert len(scores(there.result(60))) == 1
    assert sorted(held.totals.batches) == [1]


def test_what_whoever_asked_has_left_is_dropped_or_ended_and_what_others_wait_for_goes_on(held: Place) -> None:
    held.hold()
    with waiting():
        left = held.lane.submit(work([[1.0, 1.0]]))
    there = held.lane.submit(work([[2.0, 2.0]]))
    with pytest.raises(Left, match="m/1 has gone"):
        left.result(60)
    assert held.lane.pending == 1
    held.session.gate.set()
    assert len(scores(there.result(60))) == 1
    place = Place(Session(counting(), providers=CPU), max_batch=1)
    with waiting():
        endless = place.lane.submit(work([2**50], np.int64))
        wait_for(lambda: place.lane.pending == 0, what="it to run")
        assert not endless.done()
    with pytest.raises(Left):
        endless.result(60)
    assert place.lane.submit(work([3], np.int64)).result(60).outputs[0].tolist() == [3]
    place.close()
    assert [one.totals.reasons for one in (held, place)] == [{"cancelled": 1}] * 2


def test_nothing_begins_for_whoever_has_gone(held: Place) -> None:
    with waiting():
        held.hold()
        presence().gone = True
        with pytest.raises(Left):
            held.lane.submit(work([[1.0, 1.0]]))
    assert held.lane.pending == 0


def test_a_closed_lane_answers_what_it_has_and_what_comes_late() -> None:
    place = Place(Held(MODEL), number=2)
    place.hold()
    waiting = place.lane.submit(work([[1.0, 1.0]]))
    place.lane.close()
    place.session.gate.set()
    assert waiting.result(60)
    assert place.lane.submit(work([[1.0, 1.0]])).result(60)
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "mlbox-model-m/2"], what="the thread's end")
    place.close()


def test_a_model_that_does_not_answer_by_row_is_joined_no_more() -> None:
    """Its output says N rows, and has one for all."""
    rows = helper.make_tensor_value_info("input", TensorProto.INT64, ["N"])
    out = helper.make_tensor_value_info("score", TensorProto.INT64, ["M"])
    model = onnx_of(
        [
            helper.make_node("NonZero", ["input"], ["where"]),
            helper.make_node("Squeeze", ["where", "axis"], ["score"]),
        ],
        [rows],
        [out],
        [numpy_helper.from_array(np.array([0], np.int64), "axis")],
    )
    place = Place(Held(model))
    first = place.lane.submit(work([0], np.int64))
    assert place.session.busy.wait(60)
    waiting = [place.lane.submit(work(row, np.int64)) for row in ([0, 4], [5, 0])]
    place.session.gate.set()
    assert first.result(60).outputs[0].tolist() == []
    assert [future.result(60).outputs[0].tolist() for future in waiting] == [[1], [0]]
    assert not place.lane.joins
    with pytest.raises(Apart):
        place.lane.run_rows({"input": np.array([4, 0], np.int64)}, ["score"], 2)
    place.close()


def test_a_quick_model_runs_where_it_is_asked() -> None:
    place = Place(Session(MODEL, providers=CPU))
    assert not place.lane.quick(1)
    place.lane.speed = QUICK
    assert place.lane.quick(1)
    assert not place.lane.quick(10**6)
    asked = work([[1.0, 2.0]])
    assert len(scores(place.lane.run(asked))) == 1
    assert asked.future is None
    place.close()


def test_a_model_that_was_not_quick_after_all_runs_in_its_own_thread_from_then_on() -> None:
    place = Place(Session(counting(), providers=CPU))
    place.lane.speed = QUICK
    for turns, quick in ((1, True), (1_000_000, False)):
        asked = work([turns], np.int64)
        assert place.lane.run(asked).outputs[0].tolist() == [turns]
        assert (asked.future, place.lane.quick(1)) == (None, quick)
    place.lane.run(asked := work([1], np.int64))
    assert asked.future is not None
    place.close()


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_any_requests_run_at_once_are_answered_as_alone(sizes: list[int], seed: int) -> None:
    session = Session(MODEL, providers=CPU)
    lane = Lane("m/1", session, ServingConfig(), Statistics(), Watch(), speed=QUICK)
    rng = np.random.default_rng(seed)
    works = [work(rng.normal(size=(size, 2))) for size in sizes]
    lane.run_now(works)
    for one in works:
        assert scores(one.result()) == pytest.approx(session.score(one.tensors[0].data).tolist(), rel=1e-5)


def test_a_warm_model_has_a_speed_unless_it_depends_on_more_than_rows() -> None:
    session = Session(MODEL, providers=CPU)
    speed = warm(session, session.inputs)
    assert speed is not None
    assert 0 < speed.of(1) <= speed.of(100)
    free = linear([1.0])
    free.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "F"
    del free.graph.node[:], free.graph.initializer[:]
    free.graph.node.append(helper.make_node("Identity", ["input"], ["score"]))
    free.graph.output[0].CopyFrom(onnx.ModelProto.FromString(free.SerializeToString()).graph.input[0])
    free.graph.output[0].name = "score"
    wide = Session(free.SerializeToString(), providers=CPU)
    assert warm(wide, wide.inputs) is None


def test_a_request_that_is_wrong_for_the_model_is_no_reason_to_stop() -> None:
    place = Place(Session(MODEL, providers=CPU))
    wrong = place.lane.submit(work([[1.0, 2.0, 3.0]]))
    with pytest.raises((Unavailable, InvalidInput)):
        wrong.result(60)
    assert len(scores(place.lane.submit(work([[1.0, 2.0]])).result(60))) == 1
    place.close()
