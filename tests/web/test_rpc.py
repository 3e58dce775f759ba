"""The Open Inference Protocol by gRPC: the same answers, rules and words as by REST, and never INTERNAL."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.web.access_log import AccessLog
from mlbox.web.logs import Sink, as_json
from mlbox.web.rpc import health_pb2
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.rpc.calls import CALLS
from mlbox.web.rpc.server import INFER_PATH, SERVICE, RpcServer
from tests.conftest import Server, wait_for
from tests.web.served import Site, ok, open_site, sigmoid, tensor
from tests.web.site import app_of, open_box
from tests.web.test_edge_tls import make_files

Code = grpc.StatusCode
PROBES = {"ServerLive", "ServerReady"}
RESPONSES = {
    method.name: method.output_type._concrete_class
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
}


def place_of(server: Server) -> str:
    """Where a server answers gRPC."""
    found = wait_for(lambda: re.findall(r"mlbox answers gRPC on (\S+)", server.log), what="the gRPC port")
    place: str = found[-1]
    return place


class Rpc:
    """A client of the protocol, as a program without a library of its own would be."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self.channel = channel
        self.auth = (("authorization", f"Bearer {token}"),)

    def __call__(self, name: str, request: Any = None, *, metadata: Any = None) -> Any:
        asked = CALLS[name].request() if request is None else request
        content = asked if isinstance(asked, bytes) else asked.SerializeToString()
        return self.raw(f"/{SERVICE}/{name}", content, RESPONSES[name].FromString, metadata)

    def raw(self, path: str, content: bytes, read: Callable[[bytes], Any], metadata: Any = None) -> Any:
        call = self.channel.unary_unary(path, response_deserializer=read)
        return call(content, metadata=self.auth if metadata is None else metadata, timeout=60)

    def infer(self, *inputs: Any, raw: Any = (), model: str = "score", **more: Any) -> Any:
        return self("ModelInfer", pb.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw, **more))

    def stream(self, *requests: Any) -> Any:
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
        )
        return call((r.SerializeToString() for r in requests), metadata=self.auth, timeout=60)

    def refused(self, name: str, request: Any = None, *, metadata: Any = None) -> tuple[Any, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self(name, request, metadata=metadata)
        return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("rpc") / "data", "--grpc-port", "0")
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def rpc(site: Site) -> Iterator[Rpc]:
    with grpc.insecure_channel(place_of(site.server)) as channel:
        yield Rpc(channel, site.server.token)


def given_input(*shape: int, name: str = "input", datatype: str = "FP32", **contents: Any) -> Any:
    filled = {"contents": pb.InferTensorContents(**contents)} if contents else {}
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, **filled)


def values(response: Any, place: int = 0) -> Any:
    dtype = {"FP32": "<f4", "FP64": "<f8"}[response.outputs[place].datatype]
    return np.frombuffer(response.raw_output_contents[place], dtype).reshape(list(response.outputs[place].shape))


def test_who_asks_is_known_before_anything_of_the_message_is_read(site: Site, rpc: Rpc) -> None:
    """The client never sends its message: whoever waited for it would wait for ever."""
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(120)
        yield b""

    call = rpc.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    try:
        for metadata in ((), (("authorization", "Bearer mlb_wrong"),), (*rpc.auth, *rpc.auth)):
            with pytest.raises(grpc.RpcError) as caught:
                call(nothing(), metadata=metadata, timeout=60)
            assert caught.value.code() in (Code.UNAUTHENTICATED, Code.INVALID_ARGUMENT)
    finally:
        silent.set()


# -- what there is ------------------------------------------------------------------------------------------------------------


def test_every_call_of_the_service_is_answered() -> None:
    assert {*CALLS, "ModelStreamInfer"} == RESPONSES.keys()


def test_metadata_configuration_and_readiness_are_rests(site: Site, rpc: Rpc) -> None:
    assert rpc("ServerLive").live
    assert rpc("ServerReady").ready
    plain = site.http.get("/v2").json()
    assert (rpc("ServerMetadata").name, list(rpc("ServerMetadata").extensions)) == ("mlbox", plain["extensions"])
    found = rpc("ModelMetadata", pb.ModelMetadataRequest(name="score"))
    assert (found.name, list(found.versions), found.platform) == ("score", ["1"], "onnx_onnxv1")
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [("input", "FP32", [-1, 1])]
    config = rpc("ModelConfig", pb.ModelConfigRequest(name="score", version="1")).config
    assert (config.input[0].data_type, list(config.input[0].dims)) == (pb.TYPE_FP32, [1])
    assert (config.max_batch_size, config.parameters["features"].string_value) == (10_000, "spend@v1:amount")
    assert rpc("ModelReady", pb.ModelReadyRequest(name="score", version="1")).ready
    for name, version in (("nope", ""), ("score", "9"), ("score", "0")):
        assert not rpc("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready


def test_statistics_and_the_repository_are_rests(site: Site, rpc: Rpc) -> None:
    rpc.infer(given_input(1, 1, fp32_contents=[1.0]))
    (stats,) = rpc("ModelStatistics", pb.ModelStatisticsRequest(name="score")).model_stats
    plain = site.http.get("/v2/models/score/stats").json()["model_stats"][0]
    assert (stats.inference_count, stats.inference_stats.success.ns) == (
        plain["inference_count"],
        plain["inference_stats"]["success"]["ns"],
    )
    assert [one.name for one in rpc("ModelStatistics").model_stats] == ["score"]
    index = rpc("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
    assert [(one.name, one.version, one.state) for one in index] == [("score", "1", "READY")]
    rpc("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="score"))
    assert rpc("RepositoryIndex").models[0].state == "UNAVAILABLE"
    rpc("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="score"))
    assert rpc("RepositoryIndex").models[0].state == "READY"
    asked = pb.RepositoryModelLoadRequest(model_name="score")
    asked.parameters["config"].string_param = '{"dynamic_batching": {"max_queue_delay_microseconds": 7}}'
    rpc("RepositoryModelLoad", asked)
    config = rpc("ModelConfig", pb.ModelConfigRequest(name="score")).config
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    asked.parameters["config"].int64_param = 7
    assert rpc.refused("RepositoryModelLoad", asked)[0] == Code.INVALID_ARGUMENT
    asked.parameters["file:1/model.onnx"].bytes_param = b"onnx"
    code, words = rpc.refused("RepositoryModelLoad", asked)
    assert (code, "only what the registry lets serve" in words) == (Code.PERMISSION_DENIED, True)


def test_what_is_not_offered_says_so_and_clients_may_clean_up(rpc: Rpc) -> None:
    for kind in ("System", "Cuda"):
        assert not rpc(f"{kind}SharedMemoryStatus").regions
        rpc(f"{kind}SharedMemoryUnregister")
        code, words = rpc.refused(f"{kind}SharedMemoryRegister")
        assert (code, "shared memory" in words) == (Code.UNIMPLEMENTED, True)
    assert rpc.refused("TraceSetting")[0] == rpc.refused("LogSettings")[0] == Code.UNIMPLEMENTED


def test_health_is_grpcs_own_and_for_everyone(rpc: Rpc) -> None:
    check = lambda name: rpc.raw(  # noqa: E731
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(service=name).SerializeToString(),
        health_pb2.HealthCheckResponse.FromString,
        (),
    )
    assert check("").status == check(SERVICE).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check("other")
    assert caught.value.code() == Code.NOT_FOUND


# -- inference ----------------------------------------------------------------------------------------------------------------


def test_raw_and_typed_tensors_are_answered_as_rest_answers(site: Site, rpc: Rpc) -> None:
    rows = np.array([[1.0], [2.0], [np.nan]], np.float32)
    plain = ok(site.infer(tensor(1.0, 2.0, None), id="mine"))["outputs"][0]["data"]
    raw = rpc.infer(given_input(3, 1), raw=[rows.tobytes()], id="mine")
    typed = rpc.infer(given_input(3, 1, fp32_contents=rows.ravel()), id="mine")
    for found in (raw, typed):
        assert (found.id, found.model_name, found.model_version) == ("mine", "score", "1")
        assert (found.outputs[0].name, list(found.outputs[0].shape)) == ("score", [3, 1])
        assert np.array_equal(values(found)[:2, 0], np.array(plain[:2], np.float32))
        assert np.isnan(values(found)[2, 0])
    assert raw.parameters["role"].string_param == "champion"


def test_entities_are_looked_up_and_logged(site: Site, rpc: Rpc) -> None:
    found = rpc.infer(given_input(2, name="who", datatype="BYTES", bytes_contents=[b"u3", b"u4"]))
    assert values(found) == pytest.approx([sigmoid(3), sigmoid(4)], rel=1e-5)
    log = site.http.get("/api/v1/predictions", params={"model": "score", "limit": 1}).json()
    assert (log[0]["entity"], log[0]["caller"]) == ({"who": "u4"}, "admin")


def test_the_largest_and_the_outputs_are_asked_for_by_name(rpc: Rpc) -> None:
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="score")
    wanted.parameters["classification"].int64_param = 1
    found = rpc.infer(given_input(1, 1, fp32_contents=[0.0]), outputs=[wanted])
    assert (found.outputs[0].datatype, found.raw_output_contents[0][4:]) == ("BYTES", b"0.500000:0")


def test_a_stream_answers_in_order_and_goes_on_after_an_error(rpc: Rpc) -> None:
    asked = [
        pb.ModelInferRequest(model_name="score", id=str(n), inputs=[given_input(1, 1, fp32_contents=[float(n)])])
        for n in range(5)
    ]
    asked[2].inputs[0].datatype = "FP33"
    asked[4].parameters["triton_enable_empty_final_response"].bool_param = True
    found = list(rpc.stream(*asked))
    assert [one.infer_response.id for one in found] == ["0", "1", "2", "3", "4"]
    assert [bool(one.error_message) for one in found] == [False, False, True, False, False]
    assert "'FP33'" in found[2].error_message
    assert values(found[3].infer_response)[0, 0] == pytest.approx(sigmoid(3), rel=1e-5)
    assert found[4].infer_response.parameters["triton_final_response"].bool_param


# -- who may, and what is wrong -----------------------------------------------------------------------------------------------


def test_the_rules_are_those_of_http(site: Site, rpc: Rpc) -> None:
    asked = pb.ModelInferRequest(model_name="score", inputs=[given_input(1, 1, fp32_contents=[1.0])])
    vera = (("authorization", site.user("vera", "viewer")["Authorization"]),)
    assert rpc("ModelMetadata", pb.ModelMetadataRequest(name="score"), metadata=vera).name == "score"
    assert rpc.refused("ModelInfer", asked, metadata=vera)[0] == Code.PERMISSION_DENIED
    load = pb.RepositoryModelLoadRequest(model_name="score")
    assert rpc.refused("RepositoryModelLoad", load, metadata=vera)[0] == Code.PERMISSION_DENIED
    for metadata in ((), (("authorization", "Bearer mlb_none"),), (("authorization", "Digest x"),)):
        for name in CALLS.keys() - PROBES:
            assert rpc.refused(name, metadata=metadata)[0] == Code.UNAUTHENTICATED, name
        assert rpc("ServerLive", metadata=metadata).live, "probes have no token"
        assert rpc("ServerReady", metadata=metadata).ready
    assert rpc.refused("ServerMetadata", metadata=(*rpc.auth, *rpc.auth))[0] == Code.INVALID_ARGUMENT


def test_calls_of_one_caller_that_say_the_same_are_each_counted_logged_and_asked_about(site: Site, rpc: Rpc) -> None:
    site.user("tom", "member")
    made = ok(site.http.post("/api/v1/tokens", json={"user": "tom", "name": "calls"}))
    metadata = (("authorization", f"Bearer {made['secret']}"), ("user", "tom"))
    asked = [
        pb.ModelInferRequest(
            model_name="score", inputs=[given_input(1, 1)], raw_input_contents=[np.float32(n).tobytes()]
        )
        for n in range(5)
    ]
    found = [rpc("ModelInfer", one, metadata=metadata) for one in asked]
    assert [values(one).ravel()[-1] for one in found] == pytest.approx([sigmoid(n) for n in range(5)], rel=1e-5)
    ids = {one.parameters["prediction_id"].string_param for one in found}
    rows = ok(site.http.get("/api/v1/predictions?model=score&limit=100"))
    assert (len(ids), {row["caller"] for row in rows if row["id"] in ids}) == (5, {"tom"})
    assert ids <= {row["id"] for row in rows}

    def lines() -> list[str]:
        return [one for one in site.server.log.splitlines() if made["id"] in one and "ModelInfer" in one]

    wait_for(lambda: len(lines()) == 5, what="a line for each")
    assert len({re.findall('"request_id":"([^"]+)"', one)[0] for one in lines()}) == 5
    ok(site.http.put("/api/v1/teams/everyone/members/tom", json={"role": "viewer"}))
    assert rpc.refused("ModelInfer", asked[0], metadata=metadata)[0] == Code.PERMISSION_DENIED
    ok(site.http.put("/api/v1/teams/everyone/members/tom", json={"role": "member"}))
    assert rpc("ModelInfer", asked[0], metadata=metadata).model_name == "score"
    ok(site.http.delete(f"/api/v1/tokens/{made['id']}"))
    assert rpc.refused("ModelInfer", asked[0], metadata=metadata)[0] == Code.UNAUTHENTICATED


def test_nothing_that_is_kept_of_a_caller_is_what_he_sent_to_be_known(tmp_path: Path) -> None:
    """All that is reached from the server, the box aside, after calls that were answered in each way."""
    box = open_box(tmp_path / "data", grpc_port=0)
    sink = Sink(tmp_path / "log")
    log = AccessLog(app_of(box), sink, as_json, "on")
    secret = (box.data_dir.root / "admin-token").read_text().strip()
    rpc = RpcServer(box, log)
    asked = pb.ModelInferRequest(
        model_name="none", inputs=[given_input(1, 1)], raw_input_contents=[np.float32(1).tobytes()]
    ).SerializeToString()

    async def call() -> set[Any]:
        place = await rpc.start()
        found = set()
        async with grpc.aio.insecure_channel(place) as channel:
            for more in ((), (("x-request-id", "a"),), ()):
                infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await infer(asked, metadata=(("authorization", f"Bearer {secret}"), *more), timeout=60)
                found.add(refused.value.code())
        return found

    async def whole() -> tuple[set[Any], list[str]]:
        codes = await call()
        gc.collect()
        kept = list(texts_within(rpc, but={id(box), id(log)}))
        await rpc.stop(0)
        return codes, kept

    codes, kept = asyncio.run(whole())
    log.close()
    sink.close()
    box.close()
    assert codes == {Code.NOT_FOUND}
    assert INFER_PATH in kept
    assert not [text for text in kept if secret in text]


def texts_within(root: Any, *, but: set[int]) -> Iterator[str]:
    """Every text and every bytes that an object leads to."""
    seen, left = set(but), [root]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FrameType):
            continue
        seen.add(id(one))
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes):
            yield one.decode("latin-1")
        elif isinstance(one, types.FunctionType):
            left += [one.__closure__, one.__defaults__]  # its globals are the module's
        else:
            left += gc.get_referents(one)


def test_a_model_that_is_private_to_others_is_absent(site: Site, rpc: Rpc) -> None:
    site.post("/api/v1/teams", {"name": "lab"})
    site.post("/api/v1/models", {"name": "lab.secret"})
    site.put("/api/v1/private/model/lab.secret", b"")
    otto, mia = ((("authorization", site.user(name, "member")["Authorization"]),) for name in ("otto", "mia"))
    ok(site.http.put("/api/v1/teams/lab/members/mia", json={"role": "member"}))
    one = given_input(1, 1, fp32_contents=[1.0])
    words = {}
    for who, metadata in (("otto", otto), ("mia", mia)):
        for name in ("lab.secret", "lab.nowhere"):
            asked = pb.ModelInferRequest(model_name=name, inputs=[one])
            code, details = rpc.refused("ModelInfer", asked, metadata=metadata)
            assert code == Code.NOT_FOUND
            words[who, name] = details.replace(name, "NAME")
    assert words["otto", "lab.secret"] == words["otto", "lab.nowhere"] != words["mia", "lab.secret"]


@pytest.mark.parametrize(
    ("inputs", "raw", "words"),
    [
        ([], [], "no inputs"),
        ([given_input(1, 1)], [], "0 values for the shape [1, 1]"),
        ([given_input(1, 1)], [b"1234", b"1234"], "2 raw_input_contents for 1 inputs"),
        ([given_input(1, 1)], [b"12345"], "5 bytes for the shape [1, 1]"),
        ([given_input(1, 1, fp32_contents=[1.0])], [b"1234"], "has contents, and there are raw"),
        ([given_input(-1, 1)], [b"1234"], "'input' has the shape [-1, 1]"),
        ([given_input(2**62, 2**62)], [b"1234"], "4 bytes for the shape"),
        ([given_input()], [b"1234"], "'input' has the shape []"),
        ([given_input(10_001, 1)], [bytes(40_004)], "batch-size must be <= 10000"),
        ([given_input(0, 1)], [b""], "'input' for 'score' has no rows"),
        ([given_input(1, 1, fp64_contents=[1.0])], [], "'FP32' and its values in fp64_contents"),
        ([given_input(1, 1, datatype="FP64", fp64_contents=[1.0])], [], "data-type is 'FP64'"),
        ([given_input(1, 1, datatype="FP16", fp32_contents=[1.0])], [], "raw_input_contents"),
        ([given_input(1, 1, datatype="INT8", int_contents=[300])], [], "300, which is no INT8"),
        ([given_input(1, 1, datatype="UINT8", uint_contents=[256])], [], "256, which is no UINT8"),
        ([given_input(1, 1, datatype="?")], [b"1234"], "datatype '?'"),
        ([given_input(1, 1, name="other")], [b"1234"], "unexpected inference input 'other'"),
        (
            [given_input(1, name="who", datatype="BYTES", bytes_contents=[b"\xff"])],
            [],
            "'who' has a text that is not UTF-8",
        ),
        ([given_input(1, name="who", datatype="BYTES")], [b"\xff\xff\xff\xffab"], "goes on past its end"),
    ],
)
def test_a_malformed_request_names_the_tensor(rpc: Rpc, inputs: Any, raw: Any, words: str) -> None:
    asked = pb.ModelInferRequest(model_name="score", inputs=inputs, raw_input_contents=raw)
    code, details = rpc.refused("ModelInfer", asked)
    assert (code, words in details) == (Code.INVALID_ARGUMENT, True), details


def test_what_is_not_there_and_what_is_too_large(site: Site, rpc: Rpc) -> None:
    one = given_input(1, 1, fp32_contents=[1.0])
    for name, version, code in (
        *(("nope", "", Code.NOT_FOUND), ("score", "9", Code.NOT_FOUND), ("", "", Code.NOT_FOUND)),
        *(("score", version, Code.INVALID_ARGUMENT) for version in ("v1", "9" * 30)),
    ):
        asked = pb.ModelInferRequest(model_name=name, model_version=version, inputs=[one])
        assert rpc.refused("ModelInfer", asked)[0] == code, (name, version)
    huge = pb.ModelInferRequest(model_name="score", inputs=[given_input(1, 1)], raw_input_contents=[bytes(11 << 20)])
    assert rpc.refused("ModelInfer", huge)[0] == Code.RESOURCE_EXHAUSTED
    packed = rpc.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        packed(huge.SerializeToString(), metadata=rpc.auth, compression=grpc.Compression.Gzip, timeout=60)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED, "a bomb is not unpacked"
    assert site.http.get("/readyz").status_code == 200


tensors = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=st.sampled_from(["input", "who", "x"]),
    datatype=st.sampled_from(["FP32", "BYTES", "INT8", "UINT32", "BOOL", "FP16", "?"]),
    shape=st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3),
    contents=st.none()
    | st.builds(
        pb.InferTensorContents,
        fp32_contents=st.lists(st.floats(width=32), max_size=3),
        int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
        bytes_contents=st.lists(st.binary(max_size=3), max_size=2),
        bool_contents=st.lists(st.booleans(), max_size=2),
    ),
)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["score", "score", "nope", ""]),
    model_version=st.sampled_from(["", "1", "2", "x"]),
    inputs=st.lists(tensors, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=8), max_size=2),
    parameters=st.dictionaries(
        st.sampled_from(["key", "keys", "priority", "timeout"]),
        st.builds(pb.InferParameter, int64_param=st.integers(-5, 5)) | st.builds(pb.InferParameter),
    ),
).map(lambda message: message.SerializeToString())


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from([*CALLS]), content=st.binary(max_size=40) | requests)
def test_no_message_is_a_fault_of_the_server(rpc: Rpc, name: str, content: bytes) -> None:
    path = f"/{SERVICE}/{name if len(content) <= 40 else 'ModelInfer'}"
    ended = rpc.channel.unary_unary(path).future(content, metadata=rpc.auth, timeout=60)
    assert ended.code() not in (Code.INTERNAL, Code.UNKNOWN), ended.details()


# -- the server around it -----------------------------------------------------------------------------------------------------


def test_each_call_has_a_line_in_the_log(site: Site, rpc: Rpc) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        rpc("ModelMetadata", pb.ModelMetadataRequest(name="nope"), metadata=(*rpc.auth, ("x-request-id", "mine-1")))
    assert ("x-request-id", "mine-1") in [(one.key, one.value) for one in caught.value.trailing_metadata()]
    line = wait_for(
        lambda: next((one for one in site.server.log.splitlines() if '"mine-1"' in one), None), what="the line"
    )
    assert '"path":"/inference.GRPCInferenceService/ModelMetadata"' in line
    assert '"status":404' in line
    assert '"principal":"admin"' in line


def test_it_speaks_tls_where_the_server_does_and_ends_with_it(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    server = make_server("--grpc-port", "0", "--tls-cert", str(files.cert), "--tls-key", str(files.key))
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with grpc.secure_channel(place_of(server), credentials) as channel:
        rpc = Rpc(channel, server.token)
        assert rpc("ServerLive").live
        waiting = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert health_pb2.HealthCheckResponse.FromString(next(waiting)).status == 1
        server.process.send_signal(signal.SIGTERM)
        assert health_pb2.HealthCheckResponse.FromString(next(waiting)).status == 2
        assert server.process.wait(timeout=60) == 0
    assert "Traceback" not in server.log


def test_a_box_without_grpc_does_not_import_it() -> None:
    program = "import sys, mlbox.web.server; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
