"""Calls that are known again by their bytes are answered as those that are read field by field; nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.events import EventBus
from mlbox.records import Principal
from mlbox.serve.inference.warmup import Speed
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.rpc import wire
from mlbox.web.rpc.alike import Alike, varint
from mlbox.web.v2 import dataplane
from tests.serve.house import House

ANN, BEN = Principal(name="ann", role="member"), Principal(name="ben", role="member")


class Known:
    """A model server, and what knows messages before it."""

    def __init__(self, serving: House) -> None:
        self.serving = serving
        serving.serve_one(1.0, 1.0)
        self.warm()
        self.alike = Alike(serving.server)

    def warm(self) -> None:
        """Have the version in memory, and known to be quick however slow this machine is."""
        for _ in range(2):
            self.slow(asked())
        target = self.serving.server.targets.find("score")
        assert target.alone is not None
        target.alone[1].lane.speed = Speed(1e-6, 1e-9)

    def slow(self, request: Any) -> Any:
        """As a call is answered that is read field by field."""
        read, tensors = wire.decode(request)
        found = dataplane.infer(self.serving.server, request.model_name, None, read, tensors, "ann")
        return wire.encode(read, request.model_name, found)

    def quick(self, request: Any, principal: Principal = ANN) -> Any:
        content = self.alike.answer(request.SerializeToString(), principal)
        return None if content is None else pb.ModelInferResponse.FromString(content)

    def note(self, request: Any) -> None:
        self.alike.note(request, request.SerializeToString())


@pytest.fixture
def known(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[Known]:
    house = House(tmp_path, clock, bus)
    yield Known(house)
    house.close()


def asked(*row: float, outputs: Any = (), **more: Any) -> Any:
    data = np.array([row or (1.0, 2.0)], np.float32)
    one = pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=data.shape)
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs]
    named = {"model_name": "score", "inputs": [one], "raw_input_contents": [data.tobytes()], **more}
    return pb.ModelInferRequest(outputs=wanted, **named)


def without_id(answer: Any) -> tuple[Any, str]:
    own = answer.parameters.pop("prediction_id").string_param
    return answer, own


@pytest.mark.parametrize("outputs", [(), ("score",)])
def test_a_call_like_one_before_is_answered_and_logged_as_that_was(known: Known, outputs: Any) -> None:
    assert known.quick(asked(outputs=outputs)) is None, "nobody asked so before"
    known.note(asked(outputs=outputs))
    for row in ((1.0, 2.0), (-3.5, 0.25), (float("nan"), 1.0)):
        slow, _ = without_id(known.slow(asked(*row, outputs=outputs)))
        quick, own = without_id(known.quick(asked(*row, outputs=outputs)))
        assert quick == slow
        logged = {one.id: one for one in known.serving.log.recent("score")}
        assert (logged[own].caller, logged[own].role) == ("ann", "champion")
        assert list(logged[own].features.values()) == [None if value != value else value for value in row]


def test_what_is_not_of_the_usual_form_is_not_known(known: Known) -> None:
    two_rows = asked(raw_input_contents=[bytes(16)])
    two_rows.inputs[0].shape[0] = 2
    own = asked()
    own.parameters["priority"].int64_param = 1
    typed = asked(raw_input_contents=[])
    typed.inputs[0].contents.fp32_contents.extend([1.0, 2.0])
    classes = asked(outputs=["score"])
    classes.outputs[0].parameters["classification"].int64_param = 1
    odd = [
        two_rows,
        own,
        typed,
        classes,
        asked(id="mine"),
        asked(model_version="1"),
        asked(raw_input_contents=[b"1234"]),
    ]
    for request in odd:
        known.note(request)
        assert known.quick(request) is None


def test_who_asks_and_which_version_answers_are_looked_at_each_time(known: Known) -> None:
    known.note(asked())
    _, own = without_id(known.quick(asked(), BEN))
    assert {one.id: one.caller for one in known.serving.log.recent("score")}[own] == "ben"
    known.serving.server.unload("score", 1)
    assert known.quick(asked()) is None, "it is not in memory"
    known.warm()
    assert known.quick(asked()) is not None
    for wrong in (asked(model_name="none"), asked(1.0)):  # another model, and a row that is too short
        known.note(wrong)
        assert known.quick(wrong) is None


def test_a_message_that_is_cut_or_goes_on_is_another_one(known: Known) -> None:
    known.note(asked())
    whole = asked().SerializeToString()
    again = whole + b"\x3a\x04abcd"
    for content in (whole[:-1], whole + b"\x00", again, b"", whole[1:]):
        assert known.alike.answer(content, ANN) is None
    known.alike.note(asked(), again)  # whose last tensor is not its first
    assert known.alike.answer(again, ANN) is None


@settings(max_examples=50)
@given(st.integers(0, 2**40))
def test_numbers_are_written_as_protobuf_writes_them(number: int) -> None:
    parameter = pb.InferParameter(int64_param=number)
    assert parameter.SerializeToString() == b"\x10" + varint(number)
