"""Tensors that are what the model declares, with values that are not what it can do with: they cost whoever sends them, alone."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlbox.settings import Settings
from mlbox.web.box import Box
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.rpc.server import SERVICE
from tests.conftest import Server, wait_for
from tests.models import counting, filling, picky
from tests.web.served import ok, tensor
from tests.web.test_golden import echo, serve
from tests.web.test_rpc import place_of

MIB = 2**18
"""Numbers that fill one."""
WORKERS = pytest.param(("--workers", "1"), id="workers", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param((), id="inside"), WORKERS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models may take 256 MiB, and their runs as much."""
    folder = tmp_path_factory.mktemp("odd") / "data"
    with closing(Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")) as box:
        for name, model in (
            ("counting", counting()),
            ("picky", picky()),
            ("filling", filling()),
            ("echo", echo("FP32")),
        ):
            serve(box, name, model)
    made = Server(folder, "--models-memory-gb", "0.25", "--grpc-port", "0", *request.param)
    yield made
    made.stop()


def ask(server: Server, model: str, *values: Any, datatype: str = "FP32", **more: Any) -> httpx.Response:
    name, shape = ("size", [1]) if model == "filling" else ("input", [len(values), 1])
    body = {"inputs": [tensor(*values, shape=shape, datatype=datatype, name=name)], **more}
    return server.http.post(f"/v2/models/{model}/infer", json=body)


def failures(server: Server, model: str, reason: str = "model") -> float:
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == "mlbox_inference_failures_total"]
    return sum(one.value for one in samples if (one.labels["model_name"], one.labels["reason"]) == (model, reason))


def test_a_model_that_loops_is_held_to_its_timeout_though_it_was_quick_when_it_was_timed(server: Server) -> None:
    assert ok(ask(server, "counting", 1.0))["outputs"][0]["shape"] == [1, 1]
    answer = ask(server, "counting", 2e7, parameters={"timeout": 300_000})  # which would take it half a minute
    assert (answer.status_code, "did not answer within 300 ms" in answer.json()["error"]) == (504, True)
    assert ok(ask(server, "counting", 1.0))


def test_a_run_ends_when_the_deadline_of_its_call_is_over(server: Server) -> None:
    """Nobody waits for it then, and what comes next need not either."""
    before = failures(server, "counting", "timeout")
    asked = pb.ModelInferRequest(
        model_name="counting",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 1])],
        raw_input_contents=[struct.pack("<f", 2e7)],
    )
    token = (("authorization", f"Bearer {server.token}"),)
    with grpc.insecure_channel(place_of(server)) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(
            asked.SerializeToString(), metadata=token, timeout=0.5
        )
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: failures(server, "counting", "timeout") == before + 1, what="the run to be given up", seconds=10)
    assert ok(ask(server, "counting", 1.0))


def test_values_that_the_model_refuses_are_told_in_its_words_and_count_as_its_failure(server: Server) -> None:
    before = failures(server, "picky")
    answer = ask(server, "picky", 0.0, 7.0)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "picky/1 does not take these values: indices element out of data bounds, idx=7"
    )
    assert failures(server, "picky") == before + 1
    assert ok(ask(server, "picky", 0.0, 1.0))["outputs"][0]["data"] == [0.25, 0.75]


def test_no_columns_are_no_fault_of_the_server(server: Server) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 0], "data": []}]}
    answer = server.http.post("/v2/models/echo/infer", json=body)
    assert (answer.status_code, "[1, 0] for 1 rows" in answer.json()["error"]) == (400, True)


def test_a_run_that_wants_more_memory_than_there_is_fails_alone(server: Server) -> None:
    """Also after others have taken all of it piece by piece, of which no two are of a size."""
    for size in (2**40, 300 * MIB):
        answer = ask(server, "filling", size, datatype="INT64")
        assert (answer.status_code, "wants more memory" in answer.json()["error"]) == (503, True), answer.text
    for size in (*(n * MIB for n in range(10, 100, 10)), 150 * MIB, 1):
        assert ok(ask(server, "filling", size, datatype="INT64"))["outputs"][0]["data"] == [size]
    assert server.process.poll() is None
