"""Versions that MLflow's client registers: what of them serves, what is only loaded, and how lineage is linked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.house import linear
from tests.web.served import Site, ok, open_site

API = "/api/2.0/mlflow"
MODEL = "by-client"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("served") / "data"
    made = open_site(folder)
    yield made
    made.server.stop()


def logged(site: Site, *, sample: bool = True, onnx: bool = True, **run: Any) -> str:
    """A run as a client leaves it behind: an MLmodel folder; its id."""
    made = site.post("/api/v1/runs", {"experiment": "e", "git_commit": "c" * 40, **run})["id"]
    ok(site.http.post(f"/api/v1/runs/{made}/log", json={"metrics": [{"key": "auc", "value": 0.8}]}))
    path = f"/api/v1/runs/{made}/artifacts/model"
    site.put(f"{path}/MLmodel", b"flavors: {}")
    if onnx:
        site.put(f"{path}/model.onnx", linear([1.0]).SerializeToString())
    if sample:
        inputs = np.array([[1.0], [2.0]], np.float32)
        content = io.BytesIO()
        np.savez(content, inputs=inputs, outputs=1 / (1 + np.exp(-inputs[:, 0])))
        site.put(f"{path}/sample.npz", content.getvalue())
    return str(made)


def register(site: Site, name: str, run: str, **more: Any) -> dict[str, Any]:
    """A version by MLflow's REST, as mlbox sees it."""
    site.http.post(f"{API}/registered-models/create", json={"name": name, "description": "to score"})
    body = {"name": name, "source": f"runs:/{run}/model", "run_id": run, **more}
    made = ok(site.http.post(f"{API}/model-versions/create", json=body))["model_version"]
    return dict(ok(site.http.get(f"/api/v1/models/{name}/versions/{made['version']}")))


def move(site: Site, name: str, version: int, stage: str) -> Any:
    body = {"name": name, "version": str(version), "stage": stage}
    return site.http.post(f"{API}/model-versions/transition-stage", json=body)


def test_an_onnx_file_with_a_sample_and_a_dataset_serves_after_all_gates(site: Site) -> None:
    version = register(site, MODEL, logged(site, dataset="sales@v1"))
    assert (version["format"], version["unservable"]) == ("onnx", "")
    assert version["features"] == ["spend@v1:amount"]
    assert version["reference"]
    refused = move(site, MODEL, 1, "Staging")
    assert (refused.status_code, "nothing of intended use and limitations" in refused.text) == (403, True)
    ok(
        site.http.post(
            f"/api/v1/models/{MODEL}/card", json={"intended_use": "to score", "limitations": "of one feature"}
        )
    )
    staged = move(site, MODEL, 1, "Staging")
    assert staged.status_code == 200, staged.text
    gates = {gate["gate"] for gate in site.http.get("/api/v1/promotions", params={"model": MODEL}).json()[0]["gates"]}
    assert {"parity", "latency", "sanity", "facts"} <= gates
    who = site.user("hedy", "approver")
    ok(site.http.post(f"/api/v1/models/{MODEL}/versions/1/approve", headers=who))
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    assert site.http.post(f"/v2/models/{MODEL}/infer", json=body).status_code == 200

    later = register(site, MODEL, logged(site, onnx=False, sample=False))
    refused = move(site, MODEL, later["version"], "Staging")
    assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert f"{MODEL}/1 serves predictions, and {MODEL}/2 cannot be served" in refused.json()["message"]
    assert "mlbox.export_onnx" in refused.json()["message"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"onnx": False}, "it has no ONNX file."),
        ({"sample": False, "dataset": "sales@v1"}, "it has no sample.npz"),
        ({}, "names no features"),
    ],
)
def test_why_a_version_cannot_be_served(site: Site, what: dict[str, Any], why: str) -> None:
    version = register(site, "unserved", logged(site, **what))
    assert version["format"] == "other"
    assert why in version["unservable"]


def test_a_version_for_clients_is_in_production_and_does_not_answer(site: Site) -> None:
    register(site, "loaded", logged(site, onnx=False))
    assert move(site, "loaded", 1, "Staging").status_code == 200
    who = site.user("joan", "approver")
    ok(site.http.post("/api/v1/models/loaded/versions/1/approve", headers=who))
    assert move(site, "loaded", 1, "Production").json()["model_version"]["current_stage"] == "Production"
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    answer = site.http.post("/v2/models/loaded/infer", json=body)
    assert answer.status_code == 403
    assert "for clients to load, and cannot be served: it has no ONNX file." in answer.text
    assert "loaded" not in {endpoint["model"] for endpoint in site.http.get("/api/v1/endpoints").json()}


def test_the_tag_dataset_version_is_a_link_where_it_names_one(site: Site) -> None:
    by_run = register(site, "linked", logged(site, onnx=False, tags={"dataset_version": "sales@v1"}))
    by_version = register(site, "linked", logged(site), tags=[{"key": "dataset_version", "value": "sales@v1"}])
    assert (by_run["dataset"], by_version["dataset"]) == ("sales@v1", "sales@v1")
    register(site, "linked", logged(site, onnx=False))
    for value, dataset in (("sales@v9", None), ("sales", None), ("sales@v1", "sales@v1")):
        tag = {"name": "linked", "version": "3", "key": "dataset_version", "value": value}
        ok(site.http.post(f"{API}/model-versions/set-tag", json=tag))
        assert site.http.get("/api/v1/models/linked/versions/3").json()["dataset"] == dataset
    page = site.http.get("/models/linked/3", headers={"accept": "text/html"}).text
    assert "declared" in page
    assert "it has no ONNX file." in page
