"""The road to a served model over HTTP, and the Open Inference Protocol over it: every malformed thing is a 4xx."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.models import linear
from tests.web.served import Site, ok, open_site, sigmoid, tensor

WORKERS = pytest.param(("--workers", "2"), id="workers", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param((), id="inside"), WORKERS])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Models run in the server, and in processes of their own: the answers are the same."""
    made = open_site(tmp_path_factory.mktemp("v2") / "data", *request.param)
    yield made
    made.server.stop()


# -- what serves --------------------------------------------------------------------------------------------------------------


def test_a_version_names_what_it_came_from(site: Site) -> None:
    assert site.first["features"] == ["spend@v1:amount"]
    assert (site.first["dataset"], site.first["trained_by"]) == ("sales@v1", "admin")
    assert site.first["inputs"] == [{"name": "input", "dtype": "FP32", "shape": [-1, 1], "axes": ["N", ""]}]
    assert site.http.get("/api/v1/models/score").json()["stages"] == {"Production": 1}
    assert site.http.get("/api/v1/endpoints").json()[0]["champion"] == 1


def test_metadata_and_health_are_the_protocols(site: Site) -> None:
    assert site.http.get("/v2").json()["name"] == "mlbox"
    for headers in ({}, {"Authorization": "Bearer mlb_wrong"}):  # probes have no token
        assert httpx.get(f"{site.server.url}/v2/health/live", headers=headers).json() == {"live": True}
        assert httpx.get(f"{site.server.url}/v2/health/ready", headers=headers).json() == {"ready": True, "live": True}
    found = site.http.get("/v2/models/score").json()
    assert (found["name"], found["versions"], found["platform"]) == ("score", ["1"], "onnx_onnxv1")
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1]}]
    assert site.http.get("/v2/models/score/versions/1/ready").json()["ready"] is True


def test_rows_are_scored_flat_or_nested_with_null_for_missing(site: Site) -> None:
    found = ok(site.infer(tensor(1.0, 2.0), id="mine"))
    assert (found["id"], found["model_name"], found["model_version"]) == ("mine", "score", "1")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [2, 1])
    assert output["data"] == pytest.approx([sigmoid(1), sigmoid(2)], rel=1e-5)
    nested = ok(site.infer(tensor([1.0], [2.0])))
    assert nested["outputs"][0]["data"] == output["data"]
    assert ok(site.infer(tensor(None)))["outputs"][0]["data"] == [None]


def test_a_body_that_curl_sends_without_a_type_is_read(site: Site) -> None:
    body = json.dumps({"inputs": [tensor(1.0)]})
    for path in ("score", "score/versions/1"):
        answer = site.http.post(
            f"/v2/models/{path}/infer", content=body, headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert ok(answer)["outputs"][0]["data"] == pytest.approx([sigmoid(1)], rel=1e-5)


def test_ids_are_looked_up_over_both_protocols(site: Site) -> None:
    ids = tensor("u3", "u4", shape=[2], datatype="BYTES", name="who")
    over_v2 = ok(site.infer(ids))["outputs"][0]["data"]
    native = site.post("/api/v1/models/score/predict", {"entities": [{"who": "u3"}, {"who": "u4"}]})
    assert over_v2 == [row["score"] for row in native] == pytest.approx([sigmoid(3), sigmoid(4)], rel=1e-5)
    log = site.http.get("/api/v1/predictions", params={"model": "score", "limit": 1}).json()
    assert (log[0]["entity"], log[0]["features"], log[0]["version"]) == ({"who": "u4"}, {"spend@v1:amount": 4.0}, 1)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "no inputs"),
        ([tensor(1.0, datatype="FP64")], "data-type is 'FP64'"),
        ([tensor(1.0, datatype="FP33")], "the datatype 'FP33'"),
        ([tensor("u1", shape=[1], datatype="FP16", name="who")], "the datatype 'FP16'"),
        ([tensor(1.0, 2.0, shape=[1, 2])], "Expected [-1,1]"),
        ([tensor(1.0, shape=[1])], "Expected [-1,1]"),
        ([tensor(1.0, shape=[2, 1])], "1 values for the shape [2, 1]"),
        ([tensor(1.0, shape=[-1, 1])], "shape"),
        ([tensor(1.0, name="X")], "unexpected inference input 'X' for model 'score'. Send 'input' [-1,1]"),
        ([tensor(shape=[1 << 62, 0, 1 << 62])], "shape"),
        ([tensor("high")], "'high', which is no FP32"),
        ([tensor(True)], "True, which is no FP32"),
        ([tensor({"a": 1})], "which is no FP32"),
        ([tensor(1e39)], "fits into a float32"),
        ([tensor(10**400)], "fits into a float32"),
        ([tensor([1.0, 2.0], [3.0, 4.0], shape=[4, 1])], "not nested like the shape [4, 1]"),
        ([tensor([1.0], 2.0)], "not nested like the shape [2, 1]"),
        ([tensor([[1.0]])], "which is no FP32"),
        ([tensor(1.0, shape=[10**30, 1])], "1 values for the shape"),
        ([tensor(shape=[0, 1])], "has no rows"),
        ([tensor(1.0), tensor(1.0)], "unexpected inference input 'input' twice"),
        ([tensor(1.0), tensor(1.0, name="other")], "unexpected inference input 'other'"),
        ([tensor("u1", shape=[1], datatype="BYTES", name="whom")], "'who'"),
        ([tensor(7, shape=[1], datatype="INT64", name="who")], "STRING"),
        ([tensor(300, shape=[1], datatype="UINT8", name="who")], "300, which is no UINT8"),
        ([tensor(None, shape=[1], datatype="BYTES", name="who")], "None, which is no BYTES"),
        ([tensor("u1", "u2", shape=[1, 2], datatype="BYTES", name="who")], "Expected [1], got [1, 2]"),
        ([tensor("u1", shape=[], datatype="BYTES", name="who")], "has the shape []"),
        ([tensor(1.0, 2.0, shape=[1, 2], name="X")], "Send 'input' [-1,1]"),
        ([tensor("u" * 2000, shape=[1], datatype="BYTES", name="who")], "at most 1,000 characters"),
    ],
)
def test_a_malformed_request_is_a_400_that_names_the_tensor(
    site: Site, inputs: list[dict[str, Any]], words: str
) -> None:
    answer = site.infer(*inputs)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]


def test_what_is_not_there_is_a_404_and_nan_is_no_json(site: Site) -> None:
    assert site.infer(tensor("zoe", shape=[1], datatype="BYTES", name="who")).status_code == 404
    for path in (
        *("/v2/models/nope/infer", "/v2/models/score/versions/9/infer", "/v2/models/score/versions/0/infer"),
        f"/v2/models/score/versions/{10**25}/infer",
    ):
        assert site.http.post(path, json={"inputs": [tensor(1.0)]}).status_code == 404
    for body in (
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}',
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": ' + b"1" * 5000 + b"}]}",
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [' + b"9," * 50_000 + b'1], "data": [1]}]}',
    ):
        answer = site.http.post("/v2/models/score/infer", content=body)
        assert (answer.status_code, type(answer.json()["error"])) == (400, str)
    assert site.infer(tensor(1.0), outputs=[{"name": "other"}]).status_code == 400
    for parameters in ({"keys": ["a", "b", "c"]}, {"keys": "ab"}, {"key": ["a"]}, {"keys": [{}, {}]}):
        assert site.infer(tensor(1.0, 2.0), parameters=parameters).status_code == 400
    assert site.http.get("/v2/models/score").status_code == 200, "and the server is up"


def binary(site: Site, head: dict[str, Any], content: bytes, **headers: str) -> Any:
    text = json.dumps(head).encode()
    return site.http.post(
        "/v2/models/score/infer",
        content=text + content,
        headers={"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
        | headers,
    )


def test_binary_tensors_go_in_and_come_out(site: Site) -> None:
    rows = np.array([[1.0], [2.0], [np.nan]], np.float32)
    given = {"name": "input", "datatype": "FP32", "shape": [3, 1], "parameters": {"binary_data_size": 12}}
    plain = ok(binary(site, {"inputs": [given]}, rows.tobytes()))["outputs"][0]["data"]
    assert plain[:2] == pytest.approx([sigmoid(1), sigmoid(2)], rel=1e-5)
    one = {"outputs": [{"name": "score", "parameters": {"binary_data": True}}]}
    for asked in (one, {"parameters": {"binary_data_output": True}}):
        answer = binary(site, {"inputs": [given], **asked}, rows.tobytes())
        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": 12}
        found = np.frombuffer(answer.content[length:], np.float32)
        assert np.array_equal(found[:2], np.array(plain[:2], np.float32))


def test_ids_may_be_binary_texts(site: Site) -> None:
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"u3", b"u4"))
    given = {"name": "who", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(texts)}}
    found = ok(binary(site, {"inputs": [given]}, texts))["outputs"][0]["data"]
    assert found == pytest.approx([sigmoid(3), sigmoid(4)], rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "datatype", "size", "content", "words"),
    [
        ([1, 1], "FP32", 4, b"123", "3 are left"),
        ([1, 1], "FP32", 4, b"12345", "1 bytes behind the JSON"),
        ([1, 1], "FP32", -1, b"1234", "-1 bytes"),
        ([1, 1], "FP32", True, b"1", "True bytes"),
        ([2, 1], "FP32", 4, b"1234", "4 bytes for the shape"),
        ([1, 1], "FP99", 4, b"1234", "datatype 'FP99'"),
        ([-1, 1], "FP32", 4, b"1234", "has the shape"),
        ([1, 1], "BYTES", 3, b"\x01\x00\x00", "goes on past its end"),
        ([1, 1], "BYTES", 6, b"\xff\xff\xff\xffab", "goes on past its end"),
        ([1, 1], "BYTES", 5, b"\x01\x00\x00\x00\xff", "not UTF-8"),
        ([2, 1], "BYTES", 5, b"\x01\x00\x00\x00a", "1 values for"),
    ],
)
def test_malformed_binary_data_is_a_400_that_says_what_is_wrong(
    site: Site, shape: list[int], datatype: str, size: Any, content: bytes, words: str
) -> None:
    given = {"name": "input", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    answer = binary(site, {"inputs": [given]}, content)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "9" * 4000, "\u0663"])
def test_a_length_that_is_none_is_a_400(site: Site, length: str) -> None:
    body = json.dumps({"inputs": [tensor(1.0)]}).encode()
    headers = {"Inference-Header-Content-Length": length.encode(), "Content-Type": "application/json"}
    answer = site.http.post("/v2/models/score/infer", content=body, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 400, answer.text


def test_a_body_without_json_is_the_one_input_of_one_row(site: Site) -> None:
    send = lambda content: site.http.post(  # noqa: E731
        "/v2/models/score/infer", content=content, headers={"Inference-Header-Content-Length": "0"}
    )
    answer = send(np.array([2.0], np.float32).tobytes())
    head = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:head])["outputs"][0]["shape"] == [1, 1]
    assert np.frombuffer(answer.content[head:], np.float32)[0] == pytest.approx(sigmoid(2), rel=1e-5)
    for wrong in (b"", b"123", b"12345", b"12345678"):
        assert (send(wrong).status_code, "'input'" in send(wrong).json()["error"]) == (400, True)


def test_what_is_compressed_is_read_and_a_bomb_is_not(site: Site) -> None:
    body = json.dumps({"inputs": [tensor(1.0)]}).encode()
    send = lambda content, kind, **more: site.http.post(  # noqa: E731
        "/v2/models/score/infer",
        content=content,
        headers={"Content-Encoding": kind, "Content-Type": "application/json", **more},
    )
    wanted = ok(site.infer(tensor(1.0)))["outputs"]
    assert ok(send(gzip.compress(body), "gzip"))["outputs"] == wanted
    answer = send(zlib.compress(body), "deflate", **{"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert ok(answer)["outputs"] == wanted
    assert send(gzip.compress(b" " * (11 << 20)), "gzip").status_code == 413
    for content in (gzip.compress(body)[:-3], b"none", b""):
        assert send(content, "gzip").status_code == 400
    assert send(body, "br").status_code == 415


def test_the_largest_of_an_output_come_by_their_place(site: Site) -> None:
    asked = [{"name": "score", "parameters": {"classification": 1}}]
    (output,) = ok(site.infer(tensor(0.0), outputs=asked))["outputs"]
    assert (output["datatype"], output["data"]) == ("BYTES", ["0.500000:0"])
    for wrong in (0, -1, "a", True):
        assert (
            site.infer(tensor(0.0), outputs=[{"name": "score", "parameters": {"classification": wrong}}]).status_code
            == 400
        )


def test_configuration_and_statistics_are_tritons(site: Site) -> None:
    config = site.http.get("/v2/models/score/config").json()
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [1]}]
    assert (config["output"][0]["dims"], config["max_batch_size"]) == ([1], 10_000)
    before = site.http.get("/v2/models/score/versions/1/stats").json()["model_stats"][0]
    ok(site.infer(tensor(1.0, 2.0, 3.0)))
    (after,) = site.http.get("/v2/models/score/stats").json()["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert 3 in {batch["batch_size"] for batch in after["batch_stats"]}
    assert [one["name"] for one in site.http.get("/v2/models/stats").json()["model_stats"]] == ["score"]


def test_the_repository_loads_what_the_registry_lets_serve(site: Site) -> None:
    ok(site.infer(tensor(1.0)))
    index = site.http.post("/v2/repository/index", json={"ready": True}).json()
    assert index == [{"name": "score", "version": "1", "state": "READY", "reason": ""}]
    assert site.http.post("/v2/repository/models/score/unload", json={}).status_code == 200
    assert site.http.post("/v2/repository/index").json()[0]["state"] == "UNAVAILABLE"
    assert site.http.post("/v2/repository/models/score/load").status_code == 200
    answer = site.http.post("/v2/repository/models/score/load", json={"parameters": {"file:1/model.onnx": "AAAA"}})
    assert (answer.status_code, "registry lets serve" in answer.json()["error"]) == (403, True)
    for address in ("nope", "score@nope"):
        assert site.http.post(f"/v2/repository/models/{address}/load").status_code == 404
    run = site.post("/api/v1/runs", {"experiment": "e"})["id"]
    site.put(f"/api/v1/runs/{run}/artifacts/m.onnx", linear([1.0]).SerializeToString())
    site.post("/api/v1/models/unapproved/versions", {"run_id": run, "artifact": "m.onnx"})
    for address, said in (
        ("unapproved", "there is unapproved/1 in stage None"),
        ("unapproved@staging", "No version of 'unapproved' is in Staging"),
        ("unapproved@v1", "unapproved/1 is in stage None and may not serve"),
    ):
        refused = site.http.post(f"/v2/repository/models/{address}/load")
        assert (refused.status_code, said in refused.json()["error"]) == (403, True)
    curl = {"Content-Type": "application/x-www-form-urlencoded"}  # of `curl -d`, as Triton's pages have it
    listed = site.http.post("/v2/repository/index", content='{"ready": true}', headers=curl)
    assert ok(listed) == index
    config = json.dumps({"parameters": {"config": "{}"}})
    assert site.http.post("/v2/repository/models/score/load", content=config, headers=curl).status_code == 200


def test_a_load_with_a_configuration_changes_how_the_model_is_served(site: Site) -> None:
    def load(config: Any) -> tuple[int, str]:
        text = config if isinstance(config, str) else json.dumps(config)
        answer = site.http.post("/v2/repository/models/score/load", json={"parameters": {"config": text}})
        return answer.status_code, answer.text

    before = site.http.get("/api/v1/models/score/serving").json()
    config = site.http.get("/v2/models/score/config").json()
    assert load(config) == (200, ""), "what clients got they may send"
    batching = config["dynamic_batching"]
    batching |= {"preferred_batch_size": [8, 16], "max_queue_delay_microseconds": "100", "preserve_ordering": False}
    batching["default_queue_policy"] |= {"max_queue_size": 50, "default_timeout_microseconds": 2_500_000}
    assert load({**config, "response_cache": {"enable": True}}) == (200, "")
    after = site.http.get("/api/v1/models/score/serving").json()
    wanted = {"max_batch": 16, "max_delay_us": 100, "queue_limit": 50, "timeout_ms": 2500.0}
    assert after.items() >= wanted.items()
    assert after["cache_bytes"] > 0
    assert site.http.get("/v2/models/score/config").json()["response_cache"] == {"enable": True}
    assert ok(site.infer(tensor(1.0)))["outputs"]
    for wrong, word in (
        ("{", "config"),
        ("[]", "config"),
        ({"max_batch_size": 3}, "preferred_batch_size is how many rows are joined"),
        ({"input": []}, "input"),
        ({"ensemble_scheduling": {}}, "ensemble_scheduling"),
        ({"dynamic_batching": 1}, "dynamic_batching"),
        ({"dynamic_batching": {"preferred_batch_size": [1e9]}}, "preferred_batch_size"),
        ({"dynamic_batching": {"preferred_batch_size": [2**63]}}, "preferred_batch_size"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": -1}}, "max_delay_us"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": "soon"}}, "max_queue_delay_microseconds"),
        ({"dynamic_batching": {"default_queue_policy": {"timeout_action": "DELAY"}}}, "timeout_action"),
        ({"response_cache": {"enable": 1}}, "response_cache"),
    ):
        status, words = load(wrong)
        assert (status, word in words, "failed to load" in words) == (400, True, True), words
    assert site.http.get("/api/v1/models/score/serving").json() == after
    vera = site.user("vincent", "viewer")
    refused = site.http.post("/v2/repository/models/score/load", json={"parameters": {"config": "{}"}}, headers=vera)
    assert refused.status_code == 403
    back = {name: before[name] for name in (*wanted, "cache_bytes")}
    ok(site.http.patch("/api/v1/models/score/serving", json=back))


def test_the_answer_says_who_gave_it(site: Site) -> None:
    one = ok(site.infer(tensor(1.0), parameters={"key": "a", "unknown": [1]}))
    assert one["parameters"].keys() == {"model_version", "role", "prediction_id"}
    assert (one["parameters"]["model_version"], one["parameters"]["role"]) == ("1", "champion")
    assert (
        site.http.get("/api/v1/predictions?model=score&limit=1").json()[0]["id"] == one["parameters"]["prediction_id"]
    )
    two = ok(site.infer(tensor(1.0, 2.0), parameters={"keys": ["a", 7]}))
    assert two["parameters"] == {"model_version": "1", "role": "champion"}
    assert ok(site.infer(tensor(1.0, 2.0), parameters={"keys": ["a"]}))["parameters"]["role"] == "champion"


def test_a_viewer_looks_and_does_not_infer(site: Site) -> None:
    vera = site.user("vera", "viewer")
    assert site.http.get("/v2/models/score", headers=vera).status_code == 200
    answer = site.http.post("/v2/models/score/infer", json={"inputs": [tensor(1.0)]}, headers=vera)
    assert (answer.status_code, type(answer.json()["error"])) == (403, str)


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["input", "who", "x"]),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "BOOL", "?"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "data": st.lists(
            st.none()
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.integers(-(2**70), 2**70)
            | st.text(max_size=3)
            | st.just([1]),
            max_size=4,
        ),
    }
)


@settings(max_examples=150, deadline=None)
@given(
    inputs=st.lists(tensors, max_size=3), parameters=st.dictionaries(st.sampled_from(["key", "keys"]), st.integers())
)
def test_no_tensors_are_a_fault_of_the_server(site: Site, inputs: list[Any], parameters: dict[str, Any]) -> None:
    assert site.infer(*inputs, parameters=parameters).status_code < 500


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | json_values},
    optional={"id": json_values, "parameters": json_values, "outputs": json_values},
)


@settings(max_examples=150, deadline=None)
@given(body=json_values | requests)
def test_no_json_is_a_fault_of_the_server(site: Site, body: Any) -> None:
    answer = site.http.post("/v2/models/score/infer", json=body)
    assert answer.status_code < 500
    assert answer.status_code == 200 or isinstance(answer.json()["error"], str)


# -- registering and promoting what should not be ----------------------------------------------------------------------------


def test_a_file_that_is_no_model_is_refused_and_the_server_is_up(site: Site) -> None:
    run = site.post("/api/v1/runs", {"experiment": "e", "dataset": "sales@v1"})["id"]
    site.put(f"/api/v1/runs/{run}/artifacts/bad.onnx", b"not a model")
    for body, field in (
        ({"run_id": run, "artifact": "bad.onnx"}, "artifact"),
        ({"run_id": run, "artifact": "missing.onnx"}, "artifact"),
        ({"run_id": "nope", "artifact": "bad.onnx"}, "run"),
    ):
        answer = site.http.post("/api/v1/models/score/versions", json=body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]["field"] == field


def test_a_version_that_lies_about_its_metric_fails_that_gate(site: Site) -> None:
    run = site.post("/api/v1/runs", {"experiment": "e", "dataset": "sales@v1"})["id"]
    site.put(f"/api/v1/runs/{run}/artifacts/m.onnx", linear([1.0]).SerializeToString())
    body = {"run_id": run, "artifact": "m.onnx", "metrics": {"auc": 0.99}}
    version = site.post("/api/v1/models/score/versions", body)["version"]
    promotion = site.promote(version)
    failed = {gate["gate"] for gate in promotion["gates"] if not gate["passed"]}
    assert (promotion["state"], failed) == ("rejected", {"lineage", "metric", "parity"})


def test_only_an_admin_lowers_the_bar(site: Site) -> None:
    ann = site.user("ann", "approver")
    policy = site.http.get("/api/v1/models/score/policy").json()
    assert site.http.put("/api/v1/models/score/policy", json=policy, headers=ann).status_code == 403
    assert site.http.put("/api/v1/models/score/policy", json=policy).json()["revision"] == 1


# -- metrics ------------------------------------------------------------------------------------------------------------------


def test_metrics_are_what_prometheus_reads(site: Site) -> None:
    ok(site.infer(*[tensor(*[0.5] * 200)]))
    checked = {result["feature"] for result in site.post("/api/v1/monitoring/score/check")}
    assert checked == {"spend@v1:amount", "score"}, "the score's own drift is watched like a feature's"
    text = site.http.get("/metrics").text
    samples = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert samples["ml_predictions_total"].labels.keys() == {"model_name", "model_version"}
    assert samples["ml_prediction_score_count"].value >= 200
    assert samples["ml_prediction_latency_seconds_count"].value >= 200
    assert {"mlbox_jobs", "mlbox_build_info"} <= samples.keys()
    openmetrics = site.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


# -- addresses ----------------------------------------------------------------------------------------------------------------


def test_a_model_has_addresses_and_what_may_not_serve_is_refused_with_the_reason(site: Site) -> None:
    second, third = site.register(2.0)["version"], site.register(3.0)["version"]
    assert site.promote(second)["state"] == "shadow"
    ok(site.http.put("/api/v1/models/score/aliases/best", json={"version": 1}))
    ok(site.http.put("/api/v1/models/score/aliases/draft", json={"version": third}))
    ask = lambda model, **more: site.http.post(  # noqa: E731
        f"/v2/models/{model}/infer", json={"inputs": [tensor(1.0)]}, **more
    )
    for address, weight in (
        *(("score@production", 1), ("score@best", 1), ("score@v1", 1)),
        *(("score@staging", 2), (f"score@V{second}", 2), (f"score/versions/{second}", 2)),
    ):
        found = ok(ask(address))
        assert found["outputs"][0]["data"] == pytest.approx([sigmoid(weight)], rel=1e-5), address
    assert ok(site.http.get("/v2/models/score@staging"))["versions"] == [str(second)]
    native = site.post("/api/v1/models/score@staging/predict", {"entities": [{"who": "u3"}]})
    assert (native[0]["version"], native[0]["score"]) == (second, pytest.approx(sigmoid(6), rel=1e-5))
    for address in ("score@draft", f"score@v{third}", f"score/versions/{third}"):
        refused = ask(address)
        assert (refused.status_code, "in stage None and may not serve" in refused.json()["error"]) == (403, True)
    assert site.http.post("/v2/repository/models/score@draft/load").status_code == 403
    assert site.http.post("/v2/repository/models/score@staging/load").status_code == 200
    for address, status in (("score@nope", 404), ("score@v99", 404), ("nope@staging", 404), ("score@", 400)):
        assert ask(address).status_code == status, address
    assert ask("score@staging/versions/1").status_code == 400


def test_staging_is_for_those_with_the_role_in_the_models_team(site: Site) -> None:
    ann = site.user("ann-viewer", "viewer")
    site.post("/api/v1/teams", {"name": "guests"})
    ok(site.http.put("/api/v1/teams/guests/members/ann-viewer", json={"role": "member"}))
    ask = lambda model: site.http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor(1.0)]}, headers=ann)  # noqa: E731
    assert ask("score").status_code == 200, "a member somewhere may ask what is in Production"
    refused = ask("score@staging")
    assert (refused.status_code, "a version in Staging" in refused.json()["error"]) == (403, True)


def test_shared_memory_that_is_not_there_can_be_taken_out(site: Site) -> None:
    for kind in ("systemsharedmemory", "cudasharedmemory"):
        assert ok(site.http.get(f"/v2/{kind}/status")) == ok(site.http.get(f"/v2/{kind}/region/a/status")) == []
        assert site.http.post(f"/v2/{kind}/unregister").status_code == 200
        assert site.http.post(f"/v2/{kind}/region/a/unregister").status_code == 200
        assert site.http.post(f"/v2/{kind}/region/a/register", json={"key": "/a"}).status_code == 501
