"""MLflow's tracking over raw HTTP: what it takes, what it refuses and how, and that it is the same run as everywhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server

API = "/api/2.0/mlflow"


class Wire:
    """Someone who speaks MLflow's REST."""

    def __init__(self, server: Server) -> None:
        self.server, self.http = server, server.http

    def send(self, method: str, path: str, **message: Any) -> Any:
        answer = self._ask(method, path, message)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, method: str, path: str, status: int, code: str, **message: Any) -> str:
        answer = self._ask(method, path, message)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code), answer.text
        words: str = answer.json()["message"]
        return words

    def _ask(self, method: str, path: str, message: dict[str, Any]) -> httpx.Response:
        how: dict[str, Any] = {"params": message} if method == "GET" else {"json": message}
        return self.http.request(method, f"{API}/{path}", **how)

    def experiment(self, name: str) -> str:
        made: str = self.send("POST", "experiments/create", name=name)["experiment_id"]
        return made

    def run(self, experiment_id: str = "0", **more: Any) -> dict[str, Any]:
        info: dict[str, Any] = self.send("POST", "runs/create", experiment_id=experiment_id, **more)["run"]["info"]
        return info


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    server = Server(tmp_path_factory.mktemp("mlflow") / "data")
    yield Wire(server)
    server.stop()


def test_an_experiment_lives_is_deleted_and_comes_back(wire: Wire) -> None:
    missing = wire.refused("GET", "experiments/get-by-name", 404, "RESOURCE_DOES_NOT_EXIST", experiment_name="a b/c")
    assert "a b/c" in missing
    made = wire.experiment("a b/c")
    wire.refused("POST", "experiments/create", 400, "RESOURCE_ALREADY_EXISTS", name="a b/c")
    run = wire.run(made)["run_id"]
    wire.send("POST", "experiments/set-experiment-tag", experiment_id=made, key="team", value="ops")
    wire.send("POST", "experiments/delete", experiment_id=made)
    found = wire.send("GET", "experiments/get", experiment_id=made)["experiment"]
    assert (found["lifecycle_stage"], found["artifact_location"]) == ("deleted", f"mlflow-artifacts:/{made}")
    assert found["tags"] == [{"key": "team", "value": "ops"}]
    wire.refused("POST", "runs/create", 400, "INVALID_PARAMETER_VALUE", experiment_id=made)
    wire.refused("POST", "runs/set-tag", 400, "INVALID_PARAMETER_VALUE", run_id=run, key="k", value="v")
    wire.send("POST", "experiments/restore", experiment_id=made)
    assert wire.send("GET", "runs/get", run_id=run)["run"]["info"]["lifecycle_stage"] == "active"
    wire.send("POST", "experiments/update", experiment_id=made, new_name="renamed")
    by_tag = wire.send("POST", "experiments/search", filter="tags.team = 'ops'")["experiments"]
    assert [one["name"] for one in by_tag] == ["renamed"]
    wire.refused("POST", "experiments/delete", 400, "INVALID_PARAMETER_VALUE", experiment_id="0")


def test_a_run_is_the_same_run_for_the_native_api(wire: Wire) -> None:
    info = wire.run(wire.experiment("one"), run_name="first", start_time=1_700_000_000_123)
    points = [
        {"key": "auc", "value": value, "timestamp": 5, "step": step} for step, value in enumerate((0.5, 0.9, 0.7))
    ]
    wire.send("POST", "runs/log-batch", run_id=info["run_id"], metrics=points, params=[{"key": "lr", "value": "0.1"}])
    wire.send("POST", "runs/update", run_id=info["run_id"], status="FINISHED", end_time=1_700_000_009_000)
    native = wire.http.get(f"/api/v1/runs/{info['run_id']}").json()
    assert (native["name"], native["params"], native["metrics"]["auc"]["value"]) == ("first", {"lr": "0.1"}, 0.7)
    assert (native["extremes"]["auc"], native["status"], native["user"]) == ([0.5, 0.9], "FINISHED", "admin")
    assert wire.http.get(f"/runs/{info['run_id']}", headers={"accept": "text/html"}).status_code == 200
    back = wire.send("GET", "runs/get", run_id=info["run_id"])["run"]["info"]
    assert (back["start_time"], back["end_time"]) == (1_700_000_000_123, 1_700_000_009_000)
    assert wire.send("POST", "runs/update", run_id=info["run_id"], status="RUNNING")["run_info"]["status"] == "RUNNING"


def test_what_is_no_finite_number_comes_back(wire: Wire) -> None:
    run = wire.run()["run_id"]
    for step, value in enumerate(("NaN", "Infinity", "-Infinity", 1.5)):
        wire.send("POST", "runs/log-metric", run_id=run, key="m", value=value, timestamp=1, step=step)
    found, token = [], ""
    while True:
        page = wire.send("GET", "metrics/get-history", run_id=run, metric_key="m", max_results=1, page_token=token)
        found += [point["value"] for point in page["metrics"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert found == ["NaN", "Infinity", "-Infinity", 1.5]


@pytest.mark.parametrize(
    ("path", "message", "words"),
    [
        ("runs/log-metric", {"key": "m", "value": 1, "timestamp": 10**23}, "Invalid value 1000"),
        (
            "runs/log-metric",
            {"key": "m", "value": "high", "timestamp": 1},
            "Invalid value 'high' for parameter 'value'",
        ),
        ("runs/log-metric", {"key": "../m", "value": 1, "timestamp": 1}, "'../m' for parameter 'key'"),
        ("runs/log-metric", {"key": "m", "value": 1}, "Missing value for required parameter 'timestamp'"),
        (
            "runs/log-metric",
            {"key": "m", "value": 1, "timestamp": 1, "run_id": 31},
            "Invalid value 31 for parameter 'run_id'",
        ),
        ("runs/set-tag", {"key": "k" * 1_000_000, "value": "v"}, "1,000,000"),
        ("runs/set-tag", {"key": "k", "value": "v" * 8001}, "'value' exceeds the maximum length of 8000"),
        ("runs/log-parameter", {"key": "p", "value": "v" * 6001}, "'value' exceeds the maximum length of 6000"),
        ("runs/log-batch", {"params": [{"key": "p", "value": "1"}] * 101}, "at most 100 params. Got 101"),
        ("runs/log-batch", {"params": [{"key": "p", "value": "1"}] * 2}, "Duplicate parameter keys"),
        (
            "runs/log-batch",
            {"metrics": [{"key": "m", "value": 1, "timestamp": 1}, {"key": "", "value": 1, "timestamp": 1}]},
            "metrics[1].key",
        ),
        ("runs/search", {"experiment_ids": ["0"], "filter": "params.p = '1'; DROP TABLE run"}, "Invalid filter"),
        ("runs/search", {"experiment_ids": ["0"], "max_results": 50_001}, "50001 for parameter 'max_results'"),
        ("runs/search", {"experiment_ids": ["0"], "page_token": "zzz"}, "page_token"),
        ("runs/search", {"experiment_ids": ["0"], "order_by": ["planets"]}, "planets"),
        ("experiments/create", {"name": "n" * 501}, "501"),
        ("experiments/create", {"name": "x", "artifact_location": "file:///etc"}, "'artifact_location'"),
        ("experiments/create", {"name": "x", "artifact_location": "mlflow-artifacts:/../../x"}, "relative path"),
        ("experiments/create", {}, "Missing value for required parameter 'name'"),
    ],
)
def test_what_is_not_valid_is_refused_by_name_and_leaves_nothing(
    wire: Wire, path: str, message: dict[str, Any], words: str
) -> None:
    run = wire.run()["run_id"]
    given = {"run_id": run, **message} if path.startswith(("runs/log", "runs/set")) else message
    assert words in wire.refused("POST", path, 400, "INVALID_PARAMETER_VALUE", **given)
    data = wire.send("GET", "runs/get", run_id=run)["run"]["data"]
    assert (data["metrics"], data["params"]) == ([], [])
    wire.refused("GET", "experiments/get-by-name", 404, "RESOURCE_DOES_NOT_EXIST", experiment_name="x")


def test_a_parameter_is_written_once_and_a_batch_is_whole_or_nothing(wire: Wire) -> None:
    run = wire.run()["run_id"]
    for _ in range(2):
        wire.send("POST", "runs/log-parameter", run_id=run, key="lr", value="0.1")
    batch = {"metrics": [{"key": "m", "value": 1, "timestamp": 1}], "params": [{"key": "lr", "value": "0.2"}]}
    refused = wire.refused("POST", "runs/log-batch", 400, "INVALID_PARAMETER_VALUE", run_id=run, **batch)
    assert "Changing param values is not allowed" in refused
    assert wire.send("GET", "runs/get", run_id=run)["run"]["data"]["metrics"] == []


def test_artifacts_go_up_come_down_in_parts_and_go_away(wire: Wire) -> None:
    info = wire.run()
    root = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    folder = "/api/2.0/mlflow-artifacts/artifacts"
    content = bytes(range(256)) * 9000
    wire.http.put(f"{folder}/{root}/d/one.bin", content=content).raise_for_status()
    assert wire.http.get(f"{folder}/{root}/d/one.bin").content == content
    part = wire.http.get(f"{folder}/{root}/d/one.bin", headers={"Range": "bytes=1000000-1000004"})
    assert (part.status_code, part.content) == (206, content[1_000_000:1_000_005])
    assert part.headers["content-range"] == f"bytes 1000000-1000004/{len(content)}"
    assert wire.http.get(f"{folder}/{root}/d/one.bin", headers={"Range": "bytes=99999999-"}).status_code == 416
    listed = wire.http.get(folder, params={"path": f"{root}/d"}).json()["files"]
    assert listed == [{"path": "one.bin", "is_dir": False, "file_size": len(content)}]
    of_run = wire.send("GET", "artifacts/list", run_id=info["run_id"])
    assert (of_run["root_uri"], of_run["files"]) == (info["artifact_uri"], [{"path": "d", "is_dir": True}])
    assert wire.http.put(f"{folder}/{root}/..%2Fx", content=b"x").status_code == 400
    wire.http.delete(f"{folder}/{root}/d").raise_for_status()
    assert wire.http.get(f"{folder}/{root}/d/one.bin").status_code == 404


def test_what_is_not_there_and_who_is_not_known_is_told_in_mlflows_shape(wire: Wire) -> None:
    wire.refused("POST", "traces", 404, "ENDPOINT_NOT_FOUND")
    answer = httpx.get(f"{wire.server.url}{API}/runs/get", params={"run_id": "x"})
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    info = wire.http.get("/ajax-api/3.0/mlflow/server-info").json()
    assert info["multipart_uploads_enabled"] is False


def test_logged_models_are_found_by_what_was_measured_of_them(wire: Wire) -> None:
    group = wire.experiment("logged")
    run = wire.run(group)["run_id"]
    made = wire.send("POST", "logged-models", experiment_id=group, name="clf", source_run_id=run)["model"]["info"]
    wire.send("POST", "runs/outputs", run_id=run, models=[{"model_id": made["model_id"], "step": 3}])
    point = {"key": "auc", "value": 0.9, "timestamp": 1, "model_id": made["model_id"], "dataset_name": "d"}
    wire.send("POST", "runs/log-metric", run_id=run, **point)
    wire.send("PATCH", f"logged-models/{made['model_id']}", status="LOGGED_MODEL_READY")
    for filter, count in (
        ("metrics.auc > 0.5", 1),
        ("metrics.auc > 0.95", 0),
        ("name = 'clf'", 1),
        ("status = 'READY'", 1),
    ):
        found = wire.send("POST", "logged-models/search", experiment_ids=[group], filter=filter)["models"]
        assert len(found) == count, filter
    outputs = wire.send("GET", "runs/get", run_id=run)["run"]["outputs"]["model_outputs"]
    assert outputs == [{"model_id": made["model_id"], "step": 3}]


def test_logged_models_are_read_page_by_page_whatever_goes_and_comes_meanwhile(wire: Wire) -> None:
    group = wire.experiment("many-logged")
    run = wire.run(group)["run_id"]
    values: list[float | str | None] = [0.5, None, 0.9, "Infinity", 0.1, "NaN", 0.9, "-Infinity"]
    made = []
    for number, value in enumerate(values):
        model = wire.send("POST", "logged-models", experiment_id=group, name=f"m{number}", source_run_id=run)["model"][
            "info"
        ]
        made.append(model["model_id"])
        if value is not None:
            metric = {"key": "auc", "value": value, "timestamp": 1, "step": 0, "model_id": model["model_id"]}
            wire.send("POST", "runs/log-batch", run_id=run, metrics=[metric])
    order = [{"field_name": "metrics.auc", "ascending": False}]
    asked = {"experiment_ids": [group], "order_by": order, "max_results": 2}
    whole = wire.send("POST", "logged-models/search", experiment_ids=[group], order_by=order)["models"]
    names = [model["info"]["name"] for model in whole]
    assert names[0] == "m3"
    assert set(names[1:3]) == {"m2", "m6"}
    assert names[3:6] == ["m0", "m4", "m7"]
    assert set(names[6:]) == {"m1", "m5"}
    first = wire.send("POST", "logged-models/search", **asked)
    wire.send("DELETE", f"logged-models/{made[3]}")
    newer = wire.send("POST", "logged-models", experiment_id=group, name="newer", source_run_id=run)["model"]["info"]
    paged, page = [model["info"]["name"] for model in first["models"]], first
    while token := page.get("next_page_token"):
        page = wire.send("POST", "logged-models/search", **asked, page_token=token)
        paged += [model["info"]["name"] for model in page["models"]]
    assert [name for name in paged if name != newer["name"]] == names
    other = wire.http.post(
        f"{API}/logged-models/search", json={"experiment_ids": [group], "page_token": first["next_page_token"]}
    )
    assert (other.status_code, other.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_an_upload_that_is_cut_half_way_leaves_nothing(wire: Wire) -> None:
    info = wire.run()
    root = info["artifact_uri"].removeprefix("mlflow-artifacts:/")

    def half() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ConnectionError("the client is gone")

    with pytest.raises(ConnectionError):
        wire.http.put(f"/api/2.0/mlflow-artifacts/artifacts/{root}/cut.bin", content=half())
    listed = wire.send("GET", "artifacts/list", run_id=info["run_id"])
    assert listed["files"] == []
    assert wire.http.get(f"/api/2.0/mlflow-artifacts/artifacts/{root}/cut.bin").status_code == 404


# -- data -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prices(wire: Wire) -> dict[str, Any]:
    """Two versions of a dataset; the second one."""
    for last in (3, 4):
        rows = "n,price\n" + "".join(f"{n},{n / 2}\n" for n in range(last))
        answer = wire.http.post("/api/v1/datasets/prices/rows?format=csv", content=rows.encode())
    version: dict[str, Any] = answer.raise_for_status().json()
    return version


def source(**said: str) -> str:
    return json.dumps(said)


@pytest.mark.parametrize(
    ("given", "linked"),
    [
        ({"name": "prices@v2"}, "prices@v2"),
        ({"name": "mine", "source": source(url="BOX/api/v1/datasets/prices@v1/files/part-00000.parquet")}, "prices@v1"),
        ({"name": "mine", "source": source(url="BOX/datasets/prices@v2")}, "prices@v2"),
        ({"name": "mine", "source": source(uri="/data/jobs/0/1/datasets/prices@v1/part-00000.parquet")}, "prices@v1"),
        ({"name": "mine", "source": source(url="https://elsewhere/datasets/prices@v1")}, None),
        ({"name": "mine", "source": source(url="BOX.elsewhere/datasets/prices@v1")}, None),
        ({"name": "mine", "source": source(uri="s3://bucket/datasets/prices@v1/x.parquet")}, None),
        ({"name": "mine", "source": "prices@v1"}, None),
        ({"name": "mine", "source": "[" * 10_000}, None),
        ({"name": "prices@v9"}, None),
        ({"name": "prices"}, None),
    ],
)
def test_logged_data_that_is_a_version_links_its_run_to_it(
    wire: Wire, prices: dict[str, Any], given: dict[str, str], linked: str | None
) -> None:
    run = wire.run()["run_id"]
    data = {"digest": run, "source_type": "local", **given}
    data["source"] = data.get("source", "{}").replace("BOX", wire.server.url)
    wire.send("POST", "runs/log-inputs", run_id=run, datasets=[{"dataset": data}])
    assert wire.http.get(f"/api/v1/runs/{run}").json()["dataset"] == linked
    page = wire.http.get(f"/runs/{run}", headers={"accept": "text/html"}).text
    assert (f'href="/datasets/{linked}"' in page) is (linked is not None)
    (read,) = wire.send("GET", "runs/get", run_id=run)["run"]["inputs"]["dataset_inputs"]
    assert read["dataset"] == data, "and the client hears what it said"


def test_a_run_stays_with_the_first_version_that_it_named(wire: Wire, prices: dict[str, Any]) -> None:
    run = wire.run()["run_id"]
    plain = {"digest": "1", "source_type": "local", "source": "{}"}
    both = [{"dataset": {"name": name, **plain}} for name in ("other", "prices@v2", "prices@v1")]
    wire.send("POST", "runs/log-inputs", run_id=run, datasets=both)
    wire.send("POST", "runs/log-inputs", run_id=run, datasets=both[2:])
    assert wire.http.get(f"/api/v1/runs/{run}").json()["dataset"] == "prices@v2"
    events = wire.http.get("/api/v1/audit", params={"subject": f"run:{run}"}).json()
    assert [event["data"] for event in events if event["type"] == "run.dataset"] == [{"dataset": "prices@v2"}]


def test_a_run_of_a_version_says_so_to_mlflow(wire: Wire, prices: dict[str, Any]) -> None:
    body = {"experiment": "of-a-version", "dataset": "prices"}
    run = wire.http.post("/api/v1/runs", json=body).raise_for_status().json()
    assert run["dataset"] == "prices@v2", "the latest one, by its number"
    (read,) = wire.send("GET", "runs/get", run_id=run["id"])["run"]["inputs"]["dataset_inputs"]
    assert (read["dataset"]["name"], read["dataset"]["digest"]) == ("prices@v2", prices["hash"][:36])
    assert json.loads(read["dataset"]["source"]) == {"url": f"{wire.server.url}/api/v1/datasets/prices@v2"}
    assert json.loads(read["dataset"]["profile"]) == {"num_rows": 4}
    columns = json.loads(read["dataset"]["schema"])["mlflow_colspec"]
    assert [(column["name"], column["type"]) for column in columns] == [("n", "long"), ("price", "double")]
    asked = {"experiment_ids": [run["experiment_id"]], "filter": "datasets.name = 'prices@v2'"}
    found = wire.send("POST", "runs/search", **asked)["runs"]
    assert [one["info"]["run_id"] for one in found] == [run["id"]]


def test_a_run_of_a_version_that_is_none_does_not_begin(wire: Wire) -> None:
    answer = wire.http.post("/api/v1/runs", json={"experiment": "e", "dataset": "nothing@v1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
