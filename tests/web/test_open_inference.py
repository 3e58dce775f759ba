"""The Open Inference Protocol row by row, on a running server by REST and by gRPC.

`docs/reference/open-inference.md` has the table of what the protocol's clients need. Each row of it is a case here for each wire
that it names, and there is no case that is not in it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from onnx import TensorProto

from mlbox.serve.inference.rows import MAX_ROWS
from mlbox.settings import Settings
from mlbox.web.box import Box
from mlbox.web.rpc import health_pb2
from mlbox.web.rpc import inference_pb2 as pb
from mlbox.web.rpc.server import SERVICE
from tests.conftest import Server
from tests.models import linear, sums
from tests.serve.test_runtime import TYPES
from tests.web.served import ok
from tests.web.test_golden import NUMPY, echo, serve
from tests.web.test_rpc import RESPONSES, Rpc, place_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "open-inference.md"
Code = grpc.StatusCode
Kind = tuple[str, str]
INFER, ONE = "/v2/models/simple/infer", np.arange(16, dtype=np.int32).reshape(1, 16)
EXTENSIONS = {
    *("classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics"),
    "schedule_policy",
}


class Wires(NamedTuple):
    """A server, by each of its wires."""

    http: httpx.Client
    rpc: Rpc

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=content, headers={"content-type": "application/json", **named})


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    folder = tmp_path_factory.mktemp("protocol") / "data"
    with closing(Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")) as box:
        serve(box, "simple", sums(TensorProto.INT32))
        serve(box, "score", linear([1.0]))
        for dtype in TYPES:
            serve(box, f"echo-{dtype}", echo(dtype))
    server = Server(folder, "--grpc-port", "0", "--max-models", "20", "--invocations-model", "score")
    with grpc.insecure_channel(place_of(server)) as channel:
        yield Wires(server.http, Rpc(channel, server.token))
    server.stop()


CASES: dict[Kind, Callable[[Wires], None]] = {}


def case(row: str, wire: str) -> Callable[[Callable[[Wires], None]], Callable[[Wires], None]]:
    """What a row of the table is on one wire."""

    def known(check: Callable[[Wires], None]) -> Callable[[Wires], None]:
        CASES[row, wire] = check
        return check

    return known


def rows_of(page: str) -> list[tuple[str, str, str, str]]:
    """The level, what it is, and what the table says of each wire."""
    table = page.partition("| level |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [(level, what, rest, rpc) for level, what, rest, rpc, *_ in cells]


def test_the_table_and_the_cases_are_of_the_same_rows() -> None:
    rows = rows_of(PAGE.read_text())
    assert {level for level, *_ in rows} == {"MUST", "SHOULD", "OPTIONAL"}
    said = [
        (what, wire)
        for _, what, *cells in rows
        for wire, cell in zip(("REST", "gRPC"), cells, strict=True)
        if cell != "-"
    ]
    assert len(said) == len(set(said))
    assert set(said) == CASES.keys()
    offered = {cell for level, _, *cells in rows for cell in cells if level != "OPTIONAL"}
    assert offered <= {"yes", "-"}, "all that is MUST or SHOULD is there"


def cases() -> list[Any]:
    """The cases with names that read."""
    return [pytest.param(check, id=f"{row}-{wire}") for (row, wire), check in CASES.items()]


# -- a request, on each wire ----------------------------------------------------------------------------------------------------


def asked(**more: Any) -> dict[str, Any]:
    """A request of `simple`: the numbers to 15, twice."""
    shape = {"datatype": "INT32", "shape": [1, 16], "data": ONE.ravel().tolist()}
    return {"inputs": [{"name": "INPUT0", **shape}, {"name": "INPUT1", **shape}], **more}


def message(model: str = "simple", *, data: np.ndarray = ONE, names: Any = ("INPUT0", "INPUT1"), **more: Any) -> Any:
    """The same as a message."""
    inputs = [pb.ModelInferRequest.InferInputTensor(name=name, datatype="INT32", shape=data.shape) for name in names]
    return pb.ModelInferRequest(
        model_name=model, inputs=inputs, raw_input_contents=[data.tobytes()] * len(inputs), **more
    )


def binary(head: dict[str, Any], content: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + content, {"inference_header_content_length": str(len(text))}


def parts_of(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:length]), answer.content[length:]


# -- what there is --------------------------------------------------------------------------------------------------------------


@case("health", "REST")
def _(wires: Wires) -> None:
    assert wires.get("/v2/health/live").json() == {"live": True}
    assert wires.get("/v2/health/ready").json() == {"ready": True, "live": True}


@case("health", "gRPC")
def _(wires: Wires) -> None:
    assert wires.rpc("ServerLive").live
    assert wires.rpc("ServerReady").ready
    check = health_pb2.HealthCheckRequest(service=SERVICE).SerializeToString()
    found = wires.rpc.raw("/grpc.health.v1.Health/Check", check, health_pb2.HealthCheckResponse.FromString, ())
    assert found.status == health_pb2.HealthCheckResponse.SERVING


@case("server metadata", "REST")
def _(wires: Wires) -> None:
    found = wires.get("/v2").json()
    assert (found["name"], set(found["extensions"])) == ("mlbox", EXTENSIONS)
    assert found["version"]


@case("server metadata", "gRPC")
def _(wires: Wires) -> None:
    found = wires.rpc("ServerMetadata")
    assert (found.name, set(found.extensions)) == ("mlbox", EXTENSIONS)
    assert found.version


@case("model metadata", "REST")
def _(wires: Wires) -> None:
    for path in ("/v2/models/simple", "/v2/models/simple/versions/1"):
        found = wires.get(path).json()
        assert (found["name"], found["versions"], found["platform"]) == ("simple", ["1"], "onnx_onnxv1")
        tensors = [
            {"name": f"{way}{n}", "datatype": "INT32", "shape": [-1, 16]} for way in ("INPUT", "OUTPUT") for n in (0, 1)
        ]
        assert found["inputs"] + found["outputs"] == tensors


@case("model metadata", "gRPC")
def _(wires: Wires) -> None:
    for version in ("", "1"):
        found = wires.rpc("ModelMetadata", pb.ModelMetadataRequest(name="simple", version=version))
        assert (found.name, list(found.versions), found.platform) == ("simple", ["1"], "onnx_onnxv1")
        first = found.inputs[0]
        assert (first.name, first.datatype, list(first.shape), len(found.outputs)) == ("INPUT0", "INT32", [-1, 16], 2)


@case("model ready", "REST")
def _(wires: Wires) -> None:
    for path in ("simple", "simple/versions/1"):
        assert wires.get(f"/v2/models/{path}/ready").status_code == 200
    for path in ("nope", "simple/versions/9"):
        answer = wires.get(f"/v2/models/{path}/ready")
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


@case("model ready", "gRPC")
def _(wires: Wires) -> None:
    ready = lambda name, version="": wires.rpc("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready  # noqa: E731
    assert [ready("simple"), ready("simple", "1"), ready("nope"), ready("simple", "9")] == [True, True, False, False]


@case("configuration", "REST")
def _(wires: Wires) -> None:
    for path in ("simple", "simple/versions/1"):
        found = wires.get(f"/v2/models/{path}/config").json()
        assert (found["name"], found["platform"], found["backend"]) == ("simple", "onnxruntime_onnx", "onnxruntime")
        assert found["input"][0] == {"name": "INPUT0", "data_type": "TYPE_INT32", "dims": [16]}
        assert (len(found["output"]), found["max_batch_size"]) == (2, MAX_ROWS)
        assert found["instance_group"][0]["kind"] == "KIND_CPU"
        assert {"dynamic_batching", "version_policy"} <= found.keys()


@case("configuration", "gRPC")
def _(wires: Wires) -> None:
    found = wires.rpc("ModelConfig", pb.ModelConfigRequest(name="simple")).config
    assert (found.name, found.platform, found.max_batch_size) == ("simple", "onnxruntime_onnx", MAX_ROWS)
    assert (found.input[0].name, list(found.input[0].dims)) == ("INPUT0", [16])
    assert found.dynamic_batching.max_queue_delay_microseconds >= 0


@case("statistics", "REST")
def _(wires: Wires) -> None:
    """Rows and runs are counted apart."""
    stats = lambda: wires.get("/v2/models/simple/stats").json()["model_stats"][0]  # noqa: E731
    ok(wires.post(INFER, asked()))
    before, two = stats(), {"datatype": "INT32", "shape": [2, 16], "data": [0] * 32}
    ok(wires.post(INFER, {"inputs": [{"name": "INPUT0", **two}, {"name": "INPUT1", **two}]}))
    after = stats()
    assert (after["name"], after["version"]) == ("simple", "1")
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > 1_600_000_000_000
    kinds = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert after["inference_stats"].keys() == kinds
    assert all(found.keys() == {"count", "ns"} for found in after["inference_stats"].values())
    batch = after["batch_stats"][0]
    assert batch.keys() == {"batch_size", "compute_input", "compute_infer", "compute_output"}
    assert after["memory_usage"][0]["byte_size"] > 0
    assert after["response_stats"] == {}
    assert {one["name"] for one in wires.get("/v2/models/stats").json()["model_stats"]} >= {"simple"}
    assert wires.get("/v2/models/simple/versions/1/stats").status_code == 200


@case("statistics", "gRPC")
def _(wires: Wires) -> None:
    wires.rpc("ModelInfer", message())
    (found,) = wires.rpc("ModelStatistics", pb.ModelStatisticsRequest(name="simple")).model_stats
    assert (found.name, found.version) == ("simple", "1")
    assert found.inference_count >= found.execution_count > 0
    assert found.inference_stats.success.ns > 0
    assert found.batch_stats[0].compute_infer.count > 0
    assert found.memory_usage[0].byte_size > 0
    assert len(wires.rpc("ModelStatistics").model_stats) >= 1


# -- inference ------------------------------------------------------------------------------------------------------------------


@case("inference", "REST")
def _(wires: Wires) -> None:
    nested = asked(id="7")
    for tensor in nested["inputs"]:
        tensor["data"] = [tensor["data"]]
    for body in (asked(id="7"), nested):
        for path in (INFER, "/v2/models/simple/versions/1/infer", f"{INFER}?test=1"):
            found = ok(wires.post(path, body))
            assert (found["id"], found["model_name"], found["model_version"]) == ("7", "simple", "1")
            assert [(one["name"], one["datatype"], one["shape"]) for one in found["outputs"]] == [
                ("OUTPUT0", "INT32", [1, 16]),
                ("OUTPUT1", "INT32", [1, 16]),
            ]
            assert [one["data"] for one in found["outputs"]] == [(2 * ONE).ravel().tolist(), [0] * 16]
    left_out = asked(id=None, parameters=None, outputs=None)  # as clients of typed records say it
    for tensor in left_out["inputs"]:
        tensor["parameters"] = None
    assert len(ok(wires.post(INFER, left_out))["outputs"]) == 2
    found = ok(wires.post(INFER, asked(outputs=[{"name": "OUTPUT1", "parameters": None}])))
    assert ("id" in found, [one["name"] for one in found["outputs"]]) == (False, ["OUTPUT1"])


@case("inference", "gRPC")
def _(wires: Wires) -> None:
    for version in ("", "1"):
        found = wires.rpc("ModelInfer", message(id="7", model_version=version))
        assert (found.id, found.model_name, found.model_version) == ("7", "simple", "1")
        assert found.raw_output_contents[0] == (2 * ONE).tobytes()
    typed = message()
    typed.ClearField("raw_input_contents")
    for tensor in typed.inputs:
        tensor.contents.int_contents[:] = ONE.ravel().tolist()
    assert wires.rpc("ModelInfer", typed).raw_output_contents[0] == (2 * ONE).tobytes()
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="OUTPUT1")
    assert [one.name for one in wires.rpc("ModelInfer", message(outputs=[output])).outputs] == ["OUTPUT1"]
    answers = list(wires.rpc.stream(message(id="a"), message(id="b")))
    assert [one.infer_response.id for one in answers] == ["a", "b"]


def numbers(dtype: str) -> np.ndarray:
    return np.array([[0, 1, 1]], NUMPY[dtype])


@case("datatypes", "REST")
def _(wires: Wires) -> None:
    for dtype in TYPES:
        data = ["ä", "", "z"] if dtype == "BYTES" else numbers(dtype).ravel().tolist()
        given = {"name": "x", "datatype": dtype, "shape": [1, 3], "data": data}
        answer = wires.post(f"/v2/models/echo-{dtype}/infer", {"inputs": [given]})
        if dtype in ("FP16", "BF16"):
            assert (answer.status_code, dtype in answer.json()["error"]) == (400, True)
        else:
            assert ok(answer)["outputs"][0]["data"] == data, dtype
    given = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [None, 1.0, 2.0]}
    assert ok(wires.post("/v2/models/echo-FP32/infer", {"inputs": [given]}))["outputs"][0]["data"] == [None, 1.0, 2.0]


@case("datatypes", "gRPC")
def _(wires: Wires) -> None:
    for dtype in TYPES:
        raw = b"\2\0\0\0\xc3\xa4" + b"\0\0\0\0" * 2 if dtype == "BYTES" else numbers(dtype).tobytes()
        given = pb.ModelInferRequest.InferInputTensor(name="x", datatype=dtype, shape=[1, 3])
        asked_ = pb.ModelInferRequest(model_name=f"echo-{dtype}", inputs=[given], raw_input_contents=[raw])
        found = wires.rpc("ModelInfer", asked_)
        assert (found.outputs[0].datatype, found.raw_output_contents[0]) == (dtype, raw)


@case("binary tensors", "REST")
def _(wires: Wires) -> None:
    """The first input behind the JSON and the second in it; likewise out. A body without JSON is one row."""
    body = asked(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}])
    del body["inputs"][0]["data"]
    body["inputs"][0]["parameters"] = {"binary_data_size": ONE.nbytes}
    content, headers = binary(body, ONE.tobytes())
    found, rest = parts_of(wires.post(INFER, content, **headers))
    assert (rest, found["outputs"][0]["parameters"]) == ((2 * ONE).tobytes(), {"binary_data_size": 64})
    assert found["outputs"][1]["data"] == [0] * 16
    found, rest = parts_of(wires.post(INFER, asked(parameters={"binary_data_output": True})))
    assert (len(rest), "data" in found["outputs"][0]) == (128, False)
    raw = wires.post(
        "/v2/models/score/infer", np.array([[0.0]], np.float32).tobytes(), inference_header_content_length="0"
    )
    assert np.frombuffer(parts_of(raw)[1], np.float32).tolist() == [0.5]


@case("binary tensors", "gRPC")
def _(wires: Wires) -> None:
    both = message()
    both.inputs[0].contents.int_contents[:] = [1]
    fewer = message()
    del fewer.raw_input_contents[1:]
    short = message()
    short.raw_input_contents[0] = b"123"
    for wrong in (both, fewer, short):
        assert wires.rpc.refused("ModelInfer", wrong)[0] == Code.INVALID_ARGUMENT


WRONG: list[tuple[str, dict[str, Any], str]] = [
    # what is changed in the first input, and the words that tell of it
    ("a name", {"name": "INPUT9"}, "unexpected inference input 'INPUT9'"),
    ("a type", {"datatype": "UINT32"}, "inference input 'INPUT0' data-type is 'UINT32'"),
    ("a rank", {"shape": [16]}, "unexpected shape for input 'INPUT0'"),
    ("a size", {"shape": [1, 15], "data": [0] * 15}, "unexpected shape for input 'INPUT0'"),
    ("other rows", {"shape": [2, 16], "data": [0] * 32}, "the inputs 'INPUT0' and 'INPUT1'"),
    ("a length", {"data": [0] * 15}, "INPUT0"),
    ("a negative size", {"shape": [-1, 16]}, "INPUT0"),
    ("an unknown type", {"datatype": "FP33"}, "INPUT0"),
]


@case("errors", "REST")
def _(wires: Wires) -> None:
    for what, change, words in WRONG:
        body = asked()
        body["inputs"][0] |= change
        answer = wires.post(INFER, body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), what
        assert words in answer.json()["error"], what
    for body in (b"{", b"", b"[1]", {}, {"inputs": []}, b'{"inputs": ' + b"[" * 5000):
        answer = wires.post(INFER, body)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), answer.text
    for path, words in (
        ("nope", "Request for unknown model: 'nope' is not found"),
        ("simple/versions/9", "version 9 is not"),
    ):
        answer = wires.post(f"/v2/models/{path}/infer", asked())
        assert (answer.status_code, words in answer.json()["error"]) == (404, True)
    answer = wires.get(INFER)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
    assert (
        wires.post(INFER, asked(outputs=[{"name": "zzz"}]))
        .json()["error"]
        .startswith("unexpected inference output 'zzz'")
    )
    assert (
        wires.get("/v2/models").status_code
        == wires.post("/v2/models/simple/versions/v1/infer", asked()).status_code
        == 404
    )


@case("errors", "gRPC")
def _(wires: Wires) -> None:
    for what, change, words in WRONG:
        wrong = message()
        first = {name: value for name, value in change.items() if name != "data"}
        wrong.inputs[0].MergeFrom(
            pb.ModelInferRequest.InferInputTensor(**{k: v for k, v in first.items() if k != "shape"})
        )
        if "shape" in first:
            wrong.inputs[0].shape[:] = first["shape"]
        if "data" in change:
            wrong.raw_input_contents[0] = np.array(change["data"], np.int32).tobytes()
        code, told = wires.rpc.refused("ModelInfer", wrong)
        assert (code, words in told) == (Code.INVALID_ARGUMENT, True), (what, told)
    for model, version, words in (
        ("nope", "", "Request for unknown model: 'nope'"),
        ("simple", "9", "version 9 is not found"),
    ):
        code, told = wires.rpc.refused("ModelInfer", message(model, model_version=version))
        assert (code, words in told) == (Code.NOT_FOUND, True), told
    code, told = wires.rpc.refused("ModelInfer", message(model_version="v1"))
    assert (code, "specified version string 'v1'" in told) == (Code.INVALID_ARGUMENT, True)
    assert wires.rpc.refused("ModelInfer", b"\xff")[0] == Code.INVALID_ARGUMENT


# -- extensions -----------------------------------------------------------------------------------------------------------------


@case("compression", "REST")
def _(wires: Wires) -> None:
    body = json.dumps(asked()).encode()
    for how, pack in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        answer = wires.post(INFER, pack(body), content_encoding=how, accept_encoding=how)
        assert answer.headers["content-encoding"] == how
        assert ok(answer)["outputs"][0]["data"] == (2 * ONE).ravel().tolist()


@case("compression", "gRPC")
def _(wires: Wires) -> None:
    call = wires.rpc.channel.unary_unary(
        f"/{SERVICE}/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
    )
    for how in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        found = call(message().SerializeToString(), metadata=wires.rpc.auth, compression=how, timeout=60)
        assert found.raw_output_contents[0] == (2 * ONE).tobytes()


@case("repository", "REST")
def _(wires: Wires) -> None:
    index = lambda **body: {  # noqa: E731
        (one["name"], one["version"]): (one["state"], one["reason"])
        for one in ok(wires.post("/v2/repository/index", body))
    }
    change = lambda verb, model="score", **parameters: wires.post(  # noqa: E731
        f"/v2/repository/models/{model}/{verb}", {"parameters": parameters}
    )
    assert change("load").status_code == 200
    assert index(ready=True)["score", "1"] == ("READY", "")
    assert change("unload", unload_dependents=True).status_code == 200
    assert (index()["score", "1"], ("score", "1") in index(ready=True)) == (("UNAVAILABLE", "unloaded"), False)
    assert wires.get("/v2/models/score/ready").status_code == 503
    given = {"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [0.0]}
    assert wires.post("/v2/models/score/infer", {"inputs": [given]}).status_code == 200, (
        "it comes back when it is asked"
    )
    assert wires.get("/v2/models/score/ready").status_code == 200
    answer = change("load", **{"file:1/model.onnx": "AAAA", "config": "{}"})
    assert (answer.status_code, "only what the registry lets serve" in answer.json()["error"]) == (403, True)
    answer = change("load", config='{"max_batch_size": "16"}')
    assert (answer.status_code, "max_batch_size" in answer.json()["error"]) == (400, True)
    assert change("load", config="{}").status_code == 200
    answer = change("load", "nope")
    assert (answer.status_code, answer.json()["error"].startswith("failed to load 'nope'")) == (404, True)


@case("repository", "gRPC")
def _(wires: Wires) -> None:
    load = lambda **more: pb.RepositoryModelLoadRequest(model_name="score", **more)  # noqa: E731
    index = lambda: {one.name: one.state for one in wires.rpc("RepositoryIndex").models}  # noqa: E731
    wires.rpc("RepositoryModelLoad", load())
    assert index()["score"] == "READY"
    wires.rpc("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="score"))
    assert index()["score"] == "UNAVAILABLE"
    assert not wires.rpc("ModelReady", pb.ModelReadyRequest(name="score")).ready
    wires.rpc("RepositoryModelLoad", load())
    wires.rpc("RepositoryModelLoad", load(parameters={"config": pb.ModelRepositoryParameter(string_param="{}")}))
    file = load(parameters={"file:1/model.onnx": pb.ModelRepositoryParameter(bytes_param=b"a")})
    code, words = wires.rpc.refused("RepositoryModelLoad", file)
    assert (code, words.startswith("failed to load 'score'")) == (Code.PERMISSION_DENIED, True)


@case("schedule policy", "REST")
def _(wires: Wires) -> None:
    assert wires.post(INFER, asked(parameters={"priority": 1, "timeout": 60_000_000})).status_code == 200
    for wrong in ({"priority": -1}, {"timeout": "soon"}, {"priority": True}):
        answer = wires.post(INFER, asked(parameters=wrong))
        assert (answer.status_code, next(iter(wrong)) in answer.json()["error"]) == (400, True)


@case("schedule policy", "gRPC")
def _(wires: Wires) -> None:
    urgent = message()
    urgent.parameters["priority"].uint64_param = 1
    urgent.parameters["timeout"].int64_param = 60_000_000
    assert wires.rpc("ModelInfer", urgent).outputs
    urgent.parameters["timeout"].int64_param = -1
    assert wires.rpc.refused("ModelInfer", urgent)[0] == Code.INVALID_ARGUMENT


BEST = ["30.000000:15", "28.000000:14"]


@case("classification", "REST")
def _(wires: Wires) -> None:
    output = {"name": "OUTPUT0", "parameters": {"classification": 2}}
    (found,) = ok(wires.post(INFER, asked(outputs=[output])))["outputs"]
    assert (found["datatype"], found["shape"], found["data"]) == ("BYTES", [1, 2], BEST)


@case("classification", "gRPC")
def _(wires: Wires) -> None:
    output = pb.ModelInferRequest.InferRequestedOutputTensor(name="OUTPUT0")
    output.parameters["classification"].int64_param = 2
    found = wires.rpc("ModelInfer", message(outputs=[output]))
    assert (found.outputs[0].datatype, list(found.outputs[0].shape)) == ("BYTES", [1, 2])
    assert re.findall(rb"[\d.]+:\d+", found.raw_output_contents[0]) == [text.encode() for text in BEST]


SCALARS: dict[str, Any] = {"own": "a", "flag": True, "number": 2, "triton_x": "y"}
SEQUENCE: dict[str, Any] = {"sequence_id": 3, "sequence_start": True, "sequence_end": True}


@case("parameters", "REST")
def _(wires: Wires) -> None:
    assert wires.post(INFER, asked(parameters={**SCALARS, "share": 0.5, "nothing": None})).status_code == 200


@case("parameters", "gRPC")
def _(wires: Wires) -> None:
    assert wires.rpc("ModelInfer", with_parameters(SCALARS)).outputs


def with_parameters(given: dict[str, Any]) -> Any:
    found = message()
    for name, value in given.items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
        setattr(found.parameters[name], kind, value)
    return found


@case("service", "gRPC")
def _(wires: Wires) -> None:
    """Every rpc is answered, with a code that says what is wrong where nothing was said."""
    assert len(RESPONSES) == 20
    for name in RESPONSES.keys() - {"ModelStreamInfer"}:
        call = wires.rpc.channel.unary_unary(f"/{SERVICE}/{name}").future(b"", metadata=wires.rpc.auth, timeout=60)
        call.exception()
        assert call.code() in (Code.OK, Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED), name


# -- what is refused, or left out -----------------------------------------------------------------------------------------------


def refused(answer: httpx.Response, words: str) -> None:
    assert (answer.status_code, list(answer.json())) == (501, ["error"]), answer.text
    assert words in answer.json()["error"]


def memory(wires: Wires, kind: str, region: dict[str, Any]) -> None:
    path = f"/v2/{kind}sharedmemory"
    for place in (path, f"{path}/region/a"):
        assert ok(wires.get(f"{place}/status")) == []
        assert wires.post(f"{place}/unregister").status_code == 200
    refused(wires.post(f"{path}/region/a/register", region), "no shared memory")
    body = asked()
    body["inputs"][0] |= {"parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 64}}
    del body["inputs"][0]["data"]
    output = asked(outputs=[{"name": "OUTPUT0", "parameters": {"shared_memory_region": "a"}}])
    for wrong, name in ((body, "INPUT0"), (output, "OUTPUT0")):
        answer = wires.post(INFER, wrong)
        assert (answer.status_code, f"{name!r} is in shared memory" in answer.json()["error"]) == (400, True)


def memory_by_rpc(wires: Wires, kind: str) -> None:
    assert not wires.rpc(f"{kind}SharedMemoryStatus").regions
    wires.rpc(f"{kind}SharedMemoryUnregister")
    code, words = wires.rpc.refused(f"{kind}SharedMemoryRegister")
    assert (code, "no shared memory" in words) == (Code.UNIMPLEMENTED, True)
    given, output = message(), pb.ModelInferRequest.InferRequestedOutputTensor(name="OUTPUT0")
    given.inputs[0].parameters["shared_memory_region"].string_param = "a"
    del given.raw_input_contents[0]
    output.parameters["shared_memory_region"].string_param = "a"
    for wrong, name in ((given, "INPUT0"), (message(outputs=[output]), "OUTPUT0")):
        code, words = wires.rpc.refused("ModelInfer", wrong)
        assert (code, f"{name!r} is in shared memory" in words) == (Code.INVALID_ARGUMENT, True)


@case("system shared memory", "REST")
def _(wires: Wires) -> None:
    memory(wires, "system", {"key": "/a", "offset": 0, "byte_size": 64})


@case("system shared memory", "gRPC")
def _(wires: Wires) -> None:
    memory_by_rpc(wires, "System")


@case("CUDA shared memory", "REST")
def _(wires: Wires) -> None:
    memory(wires, "cuda", {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 64})


@case("CUDA shared memory", "gRPC")
def _(wires: Wires) -> None:
    memory_by_rpc(wires, "Cuda")


@case("sequences", "REST")
def _(wires: Wires) -> None:
    """Not in the list of extensions; a model that keeps no state answers as Triton's does, whatever is said of a sequence."""
    assert "sequence" not in wires.get("/v2").json()["extensions"]
    assert "sequence_batching" not in wires.get("/v2/models/simple/config").json()
    found = ok(wires.post(INFER, asked(parameters=SEQUENCE)))
    assert found["outputs"][0]["data"] == (2 * ONE).ravel().tolist()


@case("sequences", "gRPC")
def _(wires: Wires) -> None:
    assert wires.rpc("ModelInfer", with_parameters(SEQUENCE)).raw_output_contents[0] == (2 * ONE).tobytes()


@case("trace and logging", "REST")
def _(wires: Wires) -> None:
    for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/simple/trace/setting"):
        refused(wires.get(path), "tracing or logging")
        refused(wires.post(path, {}), "tracing or logging")


@case("trace and logging", "gRPC")
def _(wires: Wires) -> None:
    for name in ("TraceSetting", "LogSettings"):
        assert wires.rpc.refused(name)[0] == Code.UNIMPLEMENTED


@case("generate", "REST")
def _(wires: Wires) -> None:
    for what in ("generate", "generate_stream"):
        refused(wires.post(f"/v2/models/simple/{what}", {"text_input": "a"}), "generate")


@case("repositories by name", "REST")
def _(wires: Wires) -> None:
    for path in ("index", "models/simple/load", "models/simple/unload"):
        refused(wires.post(f"/v2/repository/other/{path}", {}), "repositories by name")


# -- beside the protocol --------------------------------------------------------------------------------------------------------


@case("MLflow's scoring", "REST")
def _(wires: Wires) -> None:
    forms: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["input"], "data": [[0.0], [1.0]]}},
        {"dataframe_records": [{"input": 0.0}, {"input": 1.0}]},
        {"instances": [[0.0], [1.0]]},
        {"inputs": {"input": [[0.0], [1.0]]}},
    ]
    answers = [ok(wires.post(path, form)) for form in forms for path in ("/invocations", "/invocations/score")]
    answers.append(ok(wires.post("/invocations", b"input\n0.0\n1.0\n", content_type="text/csv")))
    for answer in answers:
        assert np.ravel(list(pluck(answer["predictions"]))).tolist() == pytest.approx([0.5, 0.7310586])
    for body in ({}, forms[0] | forms[1], {"inputs": {"other": [1.0]}}, b"{"):
        refused_ = wires.post("/invocations", body)
        assert (refused_.status_code, set(refused_.json())) == (400, {"error_code", "message"}), refused_.text
    assert [wires.get(path).status_code for path in ("/ping", "/health", "/version")] == [200] * 3


def pluck(found: Any) -> Iterator[Any]:
    """The numbers of an answer, whatever they are nested in."""
    if isinstance(found, dict | list):
        for one in found.values() if isinstance(found, dict) else found:
            yield from pluck(one)
    else:
        yield found


@case("Triton's metrics", "REST")
def _(wires: Wires) -> None:
    ok(wires.post(INFER, asked()))
    wires.post("/v2/models/simple/infer", asked(outputs=[{"name": "zzz"}]))
    page = wires.get("/metrics").text
    for name in (
        *(
            "request_success",
            "count",
            "exec_count",
            "pending_request_count",
            "request_duration_us",
            "queue_duration_us",
        ),
        *("compute_input_duration_us", "compute_infer_duration_us", "compute_output_duration_us"),
    ):
        found = re.search(rf'^nv_inference_{name}{{model="simple",version="1"}} (\S+)$', page, re.MULTILINE)
        assert found, name
        assert float(found[1]) >= 0
    assert "# TYPE nv_inference_request_failure" in page


@pytest.mark.parametrize("check", cases())
def test_row(wires: Wires, check: Callable[[Wires], None]) -> None:
    check(wires)
