"""How a model is served is set by its owner, written down, told, shown in every protocol, and counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.conftest import wait_for
from tests.web.served import Site, open_site, sigmoid, tensor

PATH = "/api/v1/models/score/serving"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = open_site(tmp_path_factory.mktemp("site"))
    yield made
    made.server.stop()


def test_what_is_set_is_kept_told_and_shown_in_tritons_words(site: Site) -> None:
    at = site.http.get(PATH).json()["revision"]
    changed = site.http.patch(PATH, json={"max_batch": 16, "max_delay_us": 200})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["revision"], changed.json()["max_batch"]) == (at + 1, 16)
    again = site.http.patch(PATH, json={"queue_limit": 7}).json()
    assert (again["revision"], again["max_batch"], again["queue_limit"]) == (at + 2, 16, 7)
    assert site.http.patch(PATH, json={"queue_limit": 7}).json()["revision"] == at + 2
    config = site.http.get("/v2/models/score/config").json()
    assert config["dynamic_batching"]["preferred_batch_size"] == [16]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 200
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 7
    events = site.http.get("/api/v1/audit", params={"type": "serving.set"}).json()
    assert [event["data"]["config"]["revision"] for event in events][:2] == [at + 2, at + 1]
    assert site.http.patch(PATH, json={"max_batch": 1}).json()["max_batch"] == 1
    assert "dynamic_batching" not in site.http.get("/v2/models/score/config").json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_batch": 0}, "max_batch"),
        ({"max_batch": "many"}, "max_batch"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ({"nonsense": 1}, "nonsense"),
        ({"revision": 3}, "revision"),
        ({"default_priority": 99}, "default_priority"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_set(site: Site, body: dict[str, Any], field: str) -> None:
    before = site.http.get(PATH).json()
    answer = site.http.patch(PATH, json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
    assert site.http.get(PATH).json() == before


def test_only_who_may_change_it_does(site: Site) -> None:
    viewer = site.user("vera", "viewer")
    assert site.http.patch(PATH, json={"max_batch": 2}, headers=viewer).status_code == 403
    assert site.http.get(PATH, headers=viewer).status_code == 200
    assert site.http.patch("/api/v1/models/nobody/serving", json={}).status_code == 404


@pytest.mark.parametrize("parameters", [{"priority": -1}, {"priority": "high"}, {"timeout": 1.5}, {"timeout": True}])
def test_a_priority_or_timeout_that_is_none_is_named(site: Site, parameters: dict[str, Any]) -> None:
    answer = site.infer(tensor(1.0), parameters=parameters)
    assert answer.status_code == 400
    assert f"The parameter {next(iter(parameters))} is" in answer.json()["error"]


def test_configurations_change_under_requests_and_none_fails(site: Site) -> None:
    stop = threading.Event()
    failed: list[str] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=site.server.url, headers=site.http.headers) as http:
            while not stop.is_set():
                body = {"inputs": [tensor(float(number))], "parameters": {"priority": number, "timeout": 10_000_000}}
                answer = http.post("/v2/models/score/infer", json=body)
                if answer.status_code != 200 or abs(answer.json()["outputs"][0]["data"][0] - sigmoid(number)) > 1e-5:
                    failed.append(answer.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        assert site.http.patch(PATH, json={"max_batch": 1 + number, "max_delay_us": number}).status_code == 200
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def test_requests_and_batches_are_counted_on_the_metrics_page(site: Site) -> None:
    def samples() -> dict[str, float]:
        page = site.http.get("/metrics").text
        return {
            sample.name: sample.value
            for family in read_text(page)
            for sample in family.samples
            if sample.labels.get("model_name") == "score" and "le" not in sample.labels
        }

    assert site.infer(tensor(1.0)).status_code == 200
    before = samples()
    assert site.infer(tensor(1.0, 2.0, 3.0)).status_code == 200
    wait_for(
        lambda: (
            (after := samples())["mlbox_inference_requests_total"] == before["mlbox_inference_requests_total"] + 1
            and after["mlbox_inference_rows_total"] == before["mlbox_inference_rows_total"] + 3
            and after["mlbox_inference_batch_rows_count"] == before["mlbox_inference_batch_rows_count"] + 1
        ),
        what="the counts",
    )
    assert samples()["mlbox_inference_compute_seconds_total"] > before["mlbox_inference_compute_seconds_total"]
