"""The road to a served model over HTTP, and the Open Inference Protocol over it: every malformed thing is a 4xx."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server, wait_for
from tests.models import linear

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
KEY = {"name": "who", "dtype": "STRING"}


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def ok(answer: Any) -> Any:
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None


class Site:
    """A server with one model `score` of one feature `spend:amount` in Production."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = server.http
        self.post = lambda path, body=None: ok(self.http.post(path, json=body or {}))
        self.put = lambda path, content: ok(self.http.put(path, content=content))
        self._data()
        self.first = self.register(1.0)

    def _data(self) -> None:
        columns = [KEY, {"name": "moment", "dtype": "TIMESTAMP"}, {"name": "amount", "dtype": "FP64"}]
        self.post("/api/v1/sources", {"name": "sales", "columns": columns, "event_time": "moment"})
        times = pa.array([NOW - timedelta(minutes=n) for n in range(60)], pa.timestamp("us", "UTC"))
        who = [f"u{n % 20}" for n in range(60)]
        rows = parquet(who=who, moment=times, amount=[float(n) for n in range(60)])
        ok(self.http.post("/api/v1/sources/sales/rows", content=rows, params={"format": "parquet"}))
        view = {
            "name": "spend",
            "join_keys": [KEY],
            "features": [{"name": "amount", "dtype": "FP64"}],
            "sql": "SELECT who, amount, moment AS event_time FROM sales",
            "sources": ["sales"],
        }
        self.post("/api/v1/features/views", view)
        self.post("/api/v1/features/materialize")
        self.post("/api/v1/labels", {"name": "good", "keys": [KEY], "value": {"name": "good", "dtype": "INT64"}})
        labels = parquet(who=who, event_time=times, known_at=times, good=[n % 2 for n in range(60)])
        ok(self.http.post("/api/v1/labels/good/rows", content=labels, params={"format": "parquet"}))
        spec = {"name": "sales", "spine": "SELECT who, moment AS event_time FROM sales", "features": ["spend:amount"]}
        self.dataset = self.post("/api/v1/datasets", {**spec, "label_set": "good"})

    def register(self, weight: float) -> dict[str, Any]:
        run = self.post("/api/v1/runs", {"experiment": "e", "dataset": "sales@v1", "git_commit": "c" * 40})["id"]
        ok(self.http.post(f"/api/v1/runs/{run}/log", json={"metrics": [{"key": "auc", "value": 0.8}]}))
        self.put(f"/api/v1/runs/{run}/artifacts/m.onnx", linear([weight]).SerializeToString())
        inputs = np.array([[1.0], [2.0]], np.float32)
        sample = io.BytesIO()
        np.savez(sample, inputs=inputs, outputs=1 / (1 + np.exp(-weight * inputs[:, 0])))
        self.put(f"/api/v1/runs/{run}/artifacts/s.npz", sample.getvalue())
        body = {"run_id": run, "artifact": "m.onnx", "sample": "s.npz"}
        return self.post("/api/v1/models/score/versions", body)

    def promote(self, version: int) -> dict[str, Any]:
        made = self.post(f"/api/v1/models/score/versions/{version}/promote")
        return wait_for(
            lambda: (p := self.http.get(f"/api/v1/promotions/{made['id']}").json())["state"] != "testing" and p,
            what="the gates",
        )

    def user(self, name: str, role: str) -> dict[str, str]:
        self.post("/api/v1/users", {"name": name, "role": role})
        secret = self.post("/api/v1/tokens", {"user": name, "name": "t"})["secret"]
        return {"Authorization": f"Bearer {secret}"}

    def infer(self, *inputs: dict[str, Any], **more: Any) -> Any:
        return self.http.post("/v2/models/score/infer", json={"inputs": list(inputs), **more})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = Server(tmp_path_factory.mktemp("v2") / "data")
    try:
        made = Site(server)
        promotion = made.promote(1)
        assert promotion["state"] == "waiting_approval", promotion["gates"]
        grace = made.user("grace", "approver")
        path = f"/api/v1/promotions/{promotion['id']}/approve"
        refused = server.http.post(path, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "refused")
        assert ok(server.http.post(path, json={}, headers=grace))["state"] == "completed"
        yield made
    finally:
        server.stop()


def tensor(*values: Any, shape: list[int] | None = None, datatype: str = "FP32", name: str = "input") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(values), 1], "data": list(values)}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# -- what serves --------------------------------------------------------------------------------------------------------------


def test_a_version_names_what_it_came_from(site: Site) -> None:
    assert site.first["features"] == ["spend@v1:amount"]
    assert (site.first["dataset"], site.first["trained_by"]) == ("sales@v1", "admin")
    assert site.first["inputs"] == [{"name": "input", "dtype": "FP32", "shape": [-1, 1]}]
    assert site.http.get("/api/v1/models/score").json()["stages"] == {"Production": 1}
    assert site.http.get("/api/v1/endpoints").json()[0]["champion"] == 1


def test_metadata_and_health_are_the_protocols(site: Site) -> None:
    assert site.http.get("/v2").json()["name"] == "mlbox"
    assert site.http.get("/v2/health/live").json() == {"live": True}
    assert site.http.get("/v2/health/ready").json()["ready"] is True
    found = site.http.get("/v2/models/score").json()
    assert (found["name"], found["versions"], found["platform"]) == ("score", ["1"], "onnx_onnxv1")
    assert found["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1]}]
    assert site.http.get("/v2/models/score/versions/1/ready").json()["ready"] is True


def test_rows_are_scored_flat_or_nested_with_null_for_missing(site: Site) -> None:
    found = ok(site.infer(tensor(1.0, 2.0), id="mine"))
    assert (found["id"], found["model_name"], found["model_version"]) == ("mine", "score", "1")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP64", [2])
    assert output["data"] == pytest.approx([sigmoid(1), sigmoid(2)], rel=1e-5)
    nested = ok(site.infer(tensor([1.0], [2.0])))
    assert nested["outputs"][0]["data"] == output["data"]
    assert ok(site.infer(tensor(None)))["outputs"][0]["data"] == [None]


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
        ([tensor(1.0, 2.0, shape=[1, 2])], "Expected [-1,1]"),
        ([tensor(1.0, shape=[1])], "Expected [-1,1]"),
        ([tensor(1.0, shape=[2, 1])], "1 values for the shape [2, 1]"),
        ([tensor(1.0, shape=[-1, 1])], "shape"),
        ([tensor("high")], "finite number"),
        ([tensor({"a": 1})], "values for the shape"),
        ([tensor(1.0), tensor(1.0)], "named twice"),
        ([tensor(1.0), tensor(1.0, name="other")], "unexpected inference input 'other'"),
        ([tensor("u1", shape=[1], datatype="BYTES", name="whom")], "'who'"),
        ([tensor(7, shape=[1], datatype="INT64", name="who")], "STRING"),
        ([tensor("u1", shape=[1, 2], datatype="BYTES", name="who")], "the shape"),
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
    for path in ("/v2/models/nope/infer", "/v2/models/score/versions/9/infer"):
        assert site.http.post(path, json={"inputs": [tensor(1.0)]}).status_code == 404
    for body in (
        b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [NaN]}]}',
        b"{",
        b"[]",
        b"\xff",
    ):
        assert site.http.post("/v2/models/score/infer", content=body).status_code == 400
    assert site.infer(tensor(1.0), outputs=[{"name": "other"}]).status_code == 400
    assert site.http.get("/v2/models/score").status_code == 200, "and the server is up"


tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["input", "who", "x"]),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "BOOL", "?"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "data": st.lists(
            st.none()
            | st.booleans()
            | st.floats(allow_nan=False, allow_infinity=False)
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
    assert samples["ml_predictions_total"].labels.keys() == {"model", "version", "role", "outcome"}
    assert samples["ml_prediction_score_count"].value >= 200
    assert samples["ml_prediction_latency_seconds_count"].value >= 200
    assert {"mlbox_jobs", "mlbox_build_info"} <= samples.keys()
    openmetrics = site.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
