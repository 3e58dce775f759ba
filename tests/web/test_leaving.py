"""Clients that hang up, or cancel: their runs are ended and what of theirs waits never runs, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
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
from tests.models import counting
from tests.web.served import ok, tensor
from tests.web.test_golden import serve
from tests.web.test_rpc import place_of

WHILE = 1_000_000
"""Microseconds that are longer than what the model usually takes, by far."""
FOR_EVER, SHORT = 2e9, 1.0
"""What the model counts up to: the first takes it hours, and a request may take that long."""
LEAVING = 10
INFER = "/v2/models/counting/infer"
Ask = Callable[[Server, float], Callable[[], None]]
WORKERS = pytest.param(("--workers", "1"), id="workers", marks=pytest.mark.slow)


def made(folder: Path, *more: str) -> Server:
    """A server of two models that were asked nothing yet."""
    with closing(Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")) as box:
        for name in ("counting", "unasked"):
            serve(box, name, counting())
    found = Server(folder, "--grpc-port", "0", *more)
    for name in ("counting", "unasked"):
        ok(found.http.patch(f"/api/v1/models/{name}/serving", json={"timeout_ms": 3_600_000, "max_batch": 1}))
    return found


@pytest.fixture(scope="module", params=[pytest.param((), id="inside"), WORKERS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = made(tmp_path_factory.mktemp("leaving") / "data", *request.param)
    ok(found.http.post(INFER, json=body_of(SHORT)))  # which says what is usual
    yield found
    found.stop()


def figure(server: Server, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def cancelled(server: Server) -> float:
    return figure(server, "mlbox_inference_failures_total", reason="cancelled")


def errors(server: Server) -> float:
    """Rows that count against a version, but for those of `is_busy`."""
    late = figure(server, "mlbox_inference_failures_total", reason="queue_timeout")
    return figure(server, "ml_prediction_outcomes_total", outcome="error") - late


def waits(server: Server, model: str = "counting") -> float:
    return figure(server, "mlbox_inference_pending", model_name=model)


def body_of(value: float) -> dict[str, Any]:
    return {"inputs": [tensor(value)]}


def long_and_wrong(value: float) -> dict[str, Any]:
    return {"inputs": [tensor(*[value] * 50_000, "x")]}


def by_http(path: str, *lines: str, of: Callable[[float], Any] = body_of, chunked: bool = False) -> Ask:
    def ask(server: Server, value: float) -> Callable[[], None]:
        url = httpx.URL(server.url)
        wire = socket.create_connection((url.host, url.port or 0), timeout=60)
        content = json.dumps(of(value)).encode()
        framing, sent = f"Content-Length: {len(content)}", content
        if chunked:
            framing, sent = "Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {server.token}"]
        head += ["Content-Type: application/json", framing, *lines]
        wire.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + sent)
        return wire.close

    return ask


def asked_of(value: float) -> bytes:
    content: bytes = pb.ModelInferRequest(
        model_name="counting",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=[1, 1])],
        raw_input_contents=[struct.pack("<f", value)],
    ).SerializeToString()
    return content


def by_grpc(server: Server, value: float) -> Callable[[], None]:
    channel = grpc.insecure_channel(place_of(server))
    token = (("authorization", f"Bearer {server.token}"),)
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(asked_of(value), metadata=token)

    def cancel() -> None:
        call.cancel()
        channel.close()

    return cancel


def by_stream(server: Server, value: float) -> Callable[[], None]:
    channel = grpc.insecure_channel(place_of(server))
    token = (("authorization", f"Bearer {server.token}"),)
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter([asked_of(value)]), metadata=token)

    def cancel() -> None:
        call.cancel()
        channel.close()

    return cancel


WAYS: dict[str, Ask] = {
    "http": by_http(INFER),
    "http, by the app": by_http(INFER, chunked=True),
    "invocations": by_http("/invocations/counting", of=lambda value: {"inputs": [[value]]}),
    "grpc": by_grpc,
    "grpc stream": by_stream,
}


@pytest.mark.parametrize("way", WAYS)
def test_who_leaves_ends_what_runs_and_waits_for_him_and_nothing_else(server: Server, way: str) -> None:
    """All of it would go on for hours, and what waits would come after it. What ran had taken longer than usual by then."""
    before, blamed, ask = cancelled(server), errors(server), WAYS[way]
    with contextlib.ExitStack() as leave:
        end_run = leave.enter_context(contextlib.ExitStack())
        end_run.callback(ask(server, FOR_EVER))
        wait_for(lambda: is_busy(server), what="the run to begin")
        leave_queue = ask(server, FOR_EVER)
        wait_for(lambda: waits(server) == 1, what="another to wait")
        leave_queue()
        wait_for(lambda: waits(server) == 0, what="it to leave the queue")
        assert cancelled(server) == before + 1
        assert is_busy(server, WHILE), "whoever is still there is not given up"
        end_run.close()
        wait_for(lambda: cancelled(server) == before + 2, what="the run to be given up")
        assert ok(server.http.post(INFER, json=body_of(SHORT)))["outputs"][0]["shape"] == [1, 1]
    wait_for(lambda: errors(server) > blamed, what="the version to be blamed for the run")
    assert errors(server) <= blamed + 2
    assert server.process.poll() is None


def is_busy(server: Server, microseconds: int = 100_000, path: str = INFER) -> bool:
    """A request waits behind the run, until it is given up itself."""
    answer = server.http.post(path, json=body_of(SHORT) | {"parameters": {"timeout": microseconds}})
    return answer.status_code == 503


def test_nothing_is_blamed_for_a_model_that_has_never_answered(server: Server) -> None:
    """Nobody knows what it usually takes, however long its client waited."""
    before, blamed, path = cancelled(server), errors(server), "/v2/models/unasked/infer"
    with contextlib.ExitStack() as leave:
        leave.callback(by_http(path, "X-Request-Id: unasked")(server, FOR_EVER))
        leave_queue = by_http(path)(server, FOR_EVER)
        wait_for(lambda: waits(server, "unasked") == 1, what="one to run, and another to wait")
        leave_queue()
        wait_for(lambda: cancelled(server) == before + 1, what="it to leave the queue")
        assert is_busy(server, WHILE, path)
    wait_for(lambda: '"unasked"' in server.log, what="the end of the request")
    assert (cancelled(server), errors(server)) == (before + 2, blamed)


def test_who_has_gone_has_no_status_in_the_log(server: Server) -> None:
    for ask in (by_http(INFER, "X-Request-Id: left-1"), by_http(INFER, "X-Request-Id: left-2", chunked=True)):
        before = cancelled(server)
        leave = ask(server, FOR_EVER)
        wait_for(lambda: is_busy(server), what="the run to begin")
        leave()
        wait_for(lambda before=before: cancelled(server) == before + 1, what="it to be given up")  # type: ignore[misc]

    def lines() -> list[Any]:
        found = [json.loads(line) for line in server.log.splitlines() if line.startswith("{") and '"left-' in line]
        return [one["status"] for one in found if one["logger"] == "mlbox.access"]

    assert wait_for(lambda: len(found := lines()) == 2 and found, what="both lines") == [None, None]


def test_who_left_before_he_could_be_told_what_was_wrong_is_in_the_log_with_that(server: Server) -> None:
    """He hangs up while a long body is read, whose last value is no number."""
    for place in range(LEAVING):
        for chunked in (False, True):
            own = f"X-Request-Id: wrong-{place}-{chunked}"
            by_http(INFER, own, of=long_and_wrong, chunked=chunked)(server, 1.0)()

    def statuses() -> list[Any]:
        found = [json.loads(line) for line in server.log.splitlines() if line.startswith("{") and '"wrong-' in line]
        return [one["status"] for one in found if one["logger"] == "mlbox.access"]

    found = wait_for(lambda: len(found := statuses()) == 2 * LEAVING and found, what="all lines")
    assert found == [400] * 2 * LEAVING


@pytest.mark.parametrize("more", [pytest.param((), id="inside"), WORKERS])
def test_a_server_that_stops_waits_for_no_run_that_takes_longer_than_its_grace(tmp_path: Path, more: Any) -> None:
    """Though its clients are still there, and their model may take an hour."""
    server = made(tmp_path / "data", *more)
    with contextlib.ExitStack() as leave:
        for ask in WAYS.values():
            leave.callback(ask(server, FOR_EVER))
        wait_for(lambda: waits(server) == len(WAYS) - 1, what="one to run, and the others to wait")
        assert server.stop() == 0
    assert "Event loop is closed" not in server.log
