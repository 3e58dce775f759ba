"""MLflow's registry over HTTP: its codes, messages and pages, and the gate between Staging and Production."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server

API = "/api/2.0/mlflow"


class Client:
    """A person with a token who speaks MLflow's REST."""

    def __init__(self, server: Server, name: str, role: str) -> None:
        self.server = server
        server.http.post("/api/v1/users", json={"name": name, "role": role}).raise_for_status()
        made = server.http.post("/api/v1/tokens", json={"user": name, "name": "t"}).raise_for_status()
        headers = {"Authorization": f"Bearer {made.json()['secret']}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=60)

    def send(self, method: str, path: str, status: int = 200, **message: Any) -> Any:
        """One call; its answer, once its status is the expected one."""
        how = {"params": message} if method == "GET" else {"json": message}
        answer = self.http.request(method, f"{API}/{path}", **how)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json()

    def refused(self, method: str, path: str, code: str, **message: Any) -> str:
        """One call that fails with a code; the message."""
        how = {"params": message} if method == "GET" else {"json": message}
        answer = self.http.request(method, f"{API}/{path}", **how)
        body = answer.json()
        assert body["error_code"] == code, (answer.status_code, body)
        assert answer.status_code == STATUS[code]
        return body["message"]

    def version(self, name: str, **more: Any) -> dict[str, Any]:
        """A version of a model, which is made if it is new."""
        self.http.post(f"{API}/registered-models/create", json={"name": name})
        run = run_with(self.http, "weights", dataset=more.pop("dataset", None))
        made = self.send("POST", "model-versions/create", name=name, source=f"runs:/{run}/model", run_id=run, **more)
        return made["model_version"]

    def move(self, name: str, version: str, stage: str, **more: Any) -> dict[str, Any]:
        path = "model-versions/transition-stage"
        return self.send("POST", path, name=name, version=version, stage=stage, **more)["model_version"]


STATUS = {
    "INVALID_PARAMETER_VALUE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_CONFLICT": 409,
}


def run_with(http: httpx.Client, content: str, dataset: str | None = None, **tags: str) -> str:
    """A finished run of the caller's with two files under model/."""
    body = {"experiment": "e", "git_commit": "c" * 40, "tags": tags, "dataset": dataset}
    run = http.post("/api/v1/runs", json=body).raise_for_status().json()["id"]
    for path in ("model/MLmodel", "model/data/model.pkl"):
        http.put(f"/api/v1/runs/{run}/artifacts/{path}", content=content.encode()).raise_for_status()
    http.post(f"/api/v1/runs/{run}/log", json={"metrics": [{"key": "auc", "value": 0.8}]}).raise_for_status()
    http.post(f"/api/v1/runs/{run}/end", json={}).raise_for_status()
    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("box") / "data")
    yield server
    server.stop()


def person(server: Server, name: str, role: str) -> Iterator[Client]:
    client = Client(server, name, role)
    yield client
    client.http.close()


@pytest.fixture(scope="module")
def ann(server: Server) -> Iterator[Client]:
    yield from person(server, "ann", "member")


@pytest.fixture(scope="module")
def bea(server: Server) -> Iterator[Client]:
    yield from person(server, "bea", "approver")


@pytest.fixture(scope="module")
def eve(server: Server) -> Iterator[Client]:
    yield from person(server, "eve", "viewer")


# -- models -------------------------------------------------------------------------------------------------------------


def test_a_model_is_made_once(ann: Client) -> None:
    tags = [{"key": "team", "value": "ops"}]
    made = ann.send("POST", "registered-models/create", name="first", description="to see", tags=tags)[
        "registered_model"
    ]
    assert (made["name"], made["description"], made["tags"]) == ("first", "to see", tags)
    assert made["creation_timestamp"] == made["last_updated_timestamp"] > 1.6e12
    assert "exists already" in ann.refused("POST", "registered-models/create", "RESOURCE_ALREADY_EXISTS", name="first")
    assert ann.send("GET", "registered-models/get", name="first")["registered_model"] == made
    assert ann.http.get("/ajax-api/2.0/mlflow/registered-models/get", params={"name": "first"}).json()


@pytest.mark.parametrize(
    ("method", "path", "message", "parameter"),
    [
        ("POST", "registered-models/create", {}, "Missing value for required parameter 'name'"),
        ("POST", "registered-models/create", {"name": 31}, "Invalid value 31 for parameter 'name' supplied"),
        ("POST", "registered-models/create", {"name": ""}, "Missing value for required parameter 'name'"),
        ("POST", "registered-models/create", {"name": "a/b"}, "'a/b' is not a valid model"),
        ("POST", "registered-models/create", {"name": "x" * 1_000_000}, "is not a valid model"),
        ("POST", "registered-models/set-tag", {"name": "x"}, "Missing value for required parameter 'key'"),
        ("GET", "registered-models/search", {"max_results": 1001}, "Invalid value 1001 for parameter 'max_results'"),
        ("GET", "registered-models/search", {"max_results": "x"}, "Invalid value 'x' for parameter 'max_results'"),
        ("GET", "registered-models/search", {"page_token": "?"}, "for parameter 'page_token'"),
        ("GET", "registered-models/search", {"filter": "name = 'a'; DROP TABLE model"}, "Invalid filter"),
        ("GET", "registered-models/search", {"order_by": "colour"}, "Invalid order_by clause 'colour'"),
        ("GET", "model-versions/get", {"name": "bad", "version": "one"}, "Invalid value 'one' for parameter 'version'"),
        ("GET", "registered-models/alias", {"name": "bad", "alias": "none"}, "Registered model alias none not found"),
        (
            "POST",
            "model-versions/create",
            {"name": "bad", "source": "s3://b/m"},
            "Invalid model version source: 's3://b/m'",
        ),
        ("POST", "model-versions/create", {"name": "bad", "source": "/etc/passwd"}, "Invalid model version source"),
        ("POST", "model-versions/create", {"name": "bad", "source": "runs:/../x"}, "is not a relative path"),
        ("POST", "model-versions/create", {"name": "bad", "source": "runs://h/x"}, "Invalid model version source"),
        (
            "POST",
            "model-versions/create",
            {"name": "bad", "source": "mlflow-artifacts:/models/x"},
            "lies in the artifacts",
        ),
        ("POST", "model-versions/create", {"name": "bad", "source": "models:/bad/%2e%2e"}, "is not a relative path"),
        (
            "POST",
            "model-versions/transition-stage",
            {"name": "bad", "version": 1, "stage": "Live"},
            "Invalid Model Version stage",
        ),
    ],
)
def test_bad_input_names_the_parameter(
    ann: Client, method: str, path: str, message: dict[str, Any], parameter: str
) -> None:
    ann.http.post(f"{API}/registered-models/create", json={"name": "bad"})
    assert parameter in ann.refused(method, path, "INVALID_PARAMETER_VALUE", **message)


def test_what_is_not_there_is_missing_by_its_code(ann: Client) -> None:
    ann.refused("GET", "registered-models/get", "RESOURCE_DOES_NOT_EXIST", name="none")
    ann.refused("GET", "model-versions/get", "RESOURCE_DOES_NOT_EXIST", name="first", version="99")
    ann.refused("GET", "model-versions/get", "RESOURCE_DOES_NOT_EXIST", name="first", version="9" * 30)
    ann.refused("POST", "model-versions/create", "RESOURCE_DOES_NOT_EXIST", name="none", source="runs:/a/b")
    ann.refused("POST", "model-versions/create", "RESOURCE_DOES_NOT_EXIST", name="first", source=f"runs:/{'0' * 32}/b")
    ann.refused(
        "POST", "model-versions/create", "RESOURCE_DOES_NOT_EXIST", name="first", source=f"models:/m-{'0' * 32}"
    )


def test_models_are_searched_in_pages_both_ways(ann: Client) -> None:
    names = [f"page{number}" for number in range(5)]
    for name in names:
        ann.send("POST", "registered-models/create", name=name)

    def pages(order: str) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            given = {"filter": "name LIKE 'page%'", "max_results": 2, "order_by": order, "page_token": token}
            answer = ann.send("GET", "registered-models/search", **given)
            found += [model["name"] for model in answer["registered_models"]]
            token = answer.get("next_page_token", "")
            if not token:
                return found

    assert pages("name ASC") == names
    assert pages("name DESC") == names[::-1]


def test_tags_aliases_names_and_deletion(ann: Client) -> None:
    ann.version("changing")
    ann.send("POST", "registered-models/set-tag", name="changing", key="team", value="ops")
    ann.send("POST", "registered-models/alias", name="changing", alias="champion", version="1")
    assert (
        ann.send("GET", "registered-models/alias", name="changing", alias="champion")["model_version"]["version"] == "1"
    )
    model = ann.send("GET", "registered-models/get", name="changing")["registered_model"]
    assert (model["tags"], model["aliases"]) == (
        [{"key": "team", "value": "ops"}],
        [{"alias": "champion", "version": "1"}],
    )
    assert model["latest_versions"][0]["aliases"] == ["champion"]
    ann.send("DELETE", "registered-models/delete-tag", name="changing", key="team")
    ann.send("DELETE", "registered-models/alias", name="changing", alias="champion")
    renamed = ann.send("POST", "registered-models/rename", name="changing", new_name="changed")["registered_model"]
    assert (renamed["name"], renamed["tags"], renamed["aliases"]) == ("changed", [], [])
    assert (
        ann.send("PATCH", "registered-models/update", name="changed", description="d")["registered_model"][
            "description"
        ]
        == "d"
    )
    ann.send("DELETE", "model-versions/delete", name="changed", version="1")
    ann.refused("GET", "model-versions/get", "RESOURCE_DOES_NOT_EXIST", name="changed", version="1")
    ann.send("DELETE", "registered-models/delete", name="changed")
    ann.refused("GET", "registered-models/get", "RESOURCE_DOES_NOT_EXIST", name="changed")


# -- versions -----------------------------------------------------------------------------------------------------------


def test_a_version_keeps_what_it_was_registered_with(ann: Client) -> None:
    version = ann.version("kept", description="two layers", tags=[{"key": "a", "value": "1"}])
    assert (version["version"], version["status"], version["current_stage"]) == ("1", "READY", "None")
    assert (version["description"], version["tags"]) == ("two layers", [{"key": "a", "value": "1"}])
    before = ann.server.http.get("/api/v1/models/kept/versions/1").json()
    assert (before["lineage"], before["trained_by"], before["format"]) == ("declared", "ann", "other")
    assert before["unservable"] == "it has no ONNX file."
    ann.http.put(f"/api/v1/runs/{version['run_id']}/artifacts/model/MLmodel", content=b"another")
    uri = ann.send("GET", "model-versions/get-download-uri", name="kept", version="1")["artifact_uri"]
    assert uri == f"mlflow-artifacts:/model-versions/{before['id']}"
    copy = ann.send("POST", "model-versions/create", name="kept", source="models:/kept/1")["model_version"]
    assert (copy["version"], copy["run_id"]) == ("2", version["run_id"])


def test_a_source_is_of_the_run_that_it_claims(ann: Client) -> None:
    one, other = run_with(ann.http, "1"), run_with(ann.http, "2")
    ann.http.post(f"{API}/registered-models/create", json={"name": "claims"})
    message = {"name": "claims", "source": f"runs:/{one}/model", "run_id": other}
    assert "run_id" in ann.refused("POST", "model-versions/create", "INVALID_PARAMETER_VALUE", **message)


def test_versions_are_found_by_run_source_and_tag(ann: Client) -> None:
    version = ann.version("found", tags=[{"key": "kind", "value": "mlp"}])
    for filter in (
        f"run_id = '{version['run_id']}'",
        f"source_path = '{version['source']}'",
        "name='found' AND tags.kind = 'mlp'",
    ):
        answer = ann.send("GET", "model-versions/search", filter=filter)
        assert [v["name"] for v in answer["model_versions"]] == ["found"]
    ann.send("POST", "model-versions/set-tag", name="found", version="1", key="kind", value="gbm")
    ann.send("DELETE", "model-versions/delete-tag", name="found", version="1", key="kind")
    ann.send("PATCH", "model-versions/update", name="found", version="1", description="words")
    found = ann.send("GET", "model-versions/get", name="found", version=1)["model_version"]
    assert (found["tags"], found["description"]) == ([], "words")


def test_the_dataset_tag_links_what_exists_and_flags_what_does_not(ann: Client) -> None:
    ann.version("data")
    ann.send("POST", "model-versions/set-tag", name="data", version="1", key="dataset_version", value="sales-2024")
    version = ann.server.http.get("/api/v1/models/data/versions/1").json()
    assert (version["dataset"], version["tags"]) == (None, {"dataset_version": "sales-2024"})


# -- stages -------------------------------------------------------------------------------------------------------------


def test_the_textbook_way_takes_one_approval_more(ann: Client, bea: Client) -> None:
    first = ann.version("textbook")["version"]
    assert ann.move("textbook", first, "Staging")["current_stage"] == "Staging"
    ann.send("POST", "model-versions/set-tag", name="textbook", version=first, key="approved_by", value="bea")
    path = "model-versions/transition-stage"
    message = {"name": "textbook", "version": first, "stage": "Production", "archive_existing_versions": True}
    refused = ann.refused("POST", path, "PERMISSION_DENIED", **message)
    assert "lacks an approval" in refused
    assert "`mlbox model approve textbook@1`" in refused
    assert "POST /api/v1/models/textbook/versions/1/approve" in refused
    assert "not ann" in refused
    own = ann.http.post("/api/v1/models/textbook/versions/1/approve")
    assert own.status_code == 403
    assert bea.http.post("/api/v1/models/textbook/versions/1/approve").json()["state"] == "completed"
    assert ann.move(**dict(message))["current_stage"] == "Production"

    second = ann.version("textbook")["version"]
    ann.move("textbook", second, "Staging")
    bea.http.post("/api/v1/models/textbook/versions/2/approve", json={"comment": "fine"}).raise_for_status()
    assert ann.move("textbook", second, "Production", archive_existing_versions=True)["current_stage"] == "Production"
    latest = ann.send(
        "GET", "registered-models/get-latest-versions", name="textbook", stages=["Production", "Archived"]
    )
    assert {v["current_stage"]: v["version"] for v in latest["model_versions"]} == {"Production": "2", "Archived": "1"}
    assert len(ann.send("POST", "registered-models/get-latest-versions", name="textbook")["model_versions"]) == 2


def test_an_approver_who_trained_it_is_refused(bea: Client) -> None:
    bea.version("own")
    bea.move("own", "1", "Staging")
    assert "trained, submitted and proposed" in bea.http.post("/api/v1/models/own/versions/1/approve").text


def test_straight_to_production_says_the_whole_way(ann: Client) -> None:
    ann.version("straight")
    message = {"name": "straight", "version": "1", "stage": "production"}
    refused = ann.refused("POST", "model-versions/transition-stage", "PERMISSION_DENIED", **message)
    assert "Move it to Staging first" in refused
    assert "`mlbox model promote straight@1`" in refused
    assert "`mlbox model approve straight@1`" in refused
    assert (
        ann.send("GET", "model-versions/get", name="straight", version="1")["model_version"]["current_stage"] == "None"
    )


def test_out_of_staging_and_back(ann: Client, bea: Client) -> None:
    ann.version("round")
    assert ann.move("round", "1", "Staging")["current_stage"] == "Staging"
    assert ann.move("round", "1", "None")["current_stage"] == "None"
    assert ann.move("round", "1", "Staging")["current_stage"] == "Staging"
    assert ann.move("round", "1", "Archived")["current_stage"] == "Archived"
    assert ann.move("round", "1", "Staging")["current_stage"] == "Staging"
    ann.version("round")
    assert ann.move("round", "2", "Staging", archive_existing_versions=True)["current_stage"] == "Staging"
    assert (
        ann.send("GET", "model-versions/get", name="round", version="1")["model_version"]["current_stage"] == "Archived"
    )
    bea.http.post("/api/v1/models/round/versions/2/approve").raise_for_status()
    path = "model-versions/transition-stage"
    ann.refused("POST", path, "PERMISSION_DENIED", name="round", version="2", stage="Staging")
    ann.refused("POST", path, "RESOURCE_CONFLICT", name="round", version="2", stage="None")
    ann.refused("DELETE", "registered-models/delete", "RESOURCE_CONFLICT", name="round")
    ann.refused("DELETE", "model-versions/delete", "RESOURCE_CONFLICT", name="round", version="2")
    ann.refused(
        "POST",
        path,
        "INVALID_PARAMETER_VALUE",
        name="round",
        version="2",
        stage="Archived",
        archive_existing_versions=True,
    )
    assert ann.move("round", "2", "Archived")["current_stage"] == "Archived"


def test_a_version_without_files_does_not_pass_its_gates(ann: Client) -> None:
    run = run_with(ann.http, "x")
    ann.http.post(f"{API}/registered-models/create", json={"name": "empty"})
    ann.send("POST", "model-versions/create", name="empty", source=f"runs:/{run}/nothing")
    message = {"name": "empty", "version": "1", "stage": "Staging"}
    refused = ann.refused("POST", "model-versions/transition-stage", "PERMISSION_DENIED", **message)
    assert "size wants" in refused


def test_what_was_in_production_when(ann: Client, bea: Client) -> None:
    ann.version("past")
    ann.move("past", "1", "Staging")
    bea.http.post("/api/v1/models/past/versions/1/approve", json={"comment": "fine"}).raise_for_status()
    stays = ann.http.get("/api/v1/models/past/history").json()
    production = next(stay for stay in stays if stay["name"] == "Production")
    assert (production["version"], production["by"], production["approved_by"]) == (1, "bea", ["bea"])
    assert (production["reason"], production["until"]) == ("fine", None)
    assert ann.http.get("/api/v1/models/past/history", params={"at": "2020-03-03"}).json() == []
    today = production["since"][:10]
    found = ann.http.get("/api/v1/models/past/history", params={"at": today}).json()
    assert {stay["name"] for stay in found} == {"Staging", "Production"}
    assert ann.http.get("/api/v1/models/past/history", params={"at": "3 March"}).status_code == 400
    page = ann.http.get("/models/past", params={"at": today}).text
    assert "approved by" in page
    assert (
        "No version was in a stage or under an alias on 2020-03-03" in ann.http.get("/models/past?at=2020-03-03").text
    )


def test_a_viewer_reads_and_changes_nothing(ann: Client, eve: Client) -> None:
    ann.version("seen")
    assert eve.send("GET", "registered-models/get", name="seen")
    for method, path, message in (
        ("POST", "registered-models/create", {"name": "new"}),
        ("POST", "model-versions/transition-stage", {"name": "seen", "version": "1", "stage": "Staging"}),
        ("DELETE", "registered-models/delete", {"name": "seen"}),
    ):
        assert "takes the role member" in eve.refused(method, path, "PERMISSION_DENIED", **message)
