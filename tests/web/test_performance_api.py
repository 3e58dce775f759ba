"""Live performance and published labels over HTTP, in Python, and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import mlbox
from mlbox.records import Column, LabelSet
from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.monitored import in_production, served
from tests.web.site import Site, open_box

WHO = Column(name="who", dtype="STRING")


def begin(box: Box) -> list[str]:
    """Four predictions of which two are labelled, one of them by its id alone; the ids."""
    in_production(box)
    box.labels.apply(LabelSet(name="late", keys=(WHO,), value=Column(name="late", dtype="BOOL")), actor="ann")
    box.curation.set_model_tag("delay", "label_set", "late", actor="ann")
    rows = [served(box, [1.0], score=score, entity={"who": f"p{n}"})[0] for n, score in enumerate((0.9, 0.2, 0.7, 0.6))]
    return [row.id for row in rows]


class Program(Site):
    """The app as a program sees it, with a token."""

    def __init__(self, box: Box) -> None:
        super().__init__(box, user="")
        self._secret = box.access.create_token("admin", "test", actor="admin")[1]

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return super().request(method, path, headers={"Authorization": f"Bearer {self._secret}"}, **options)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Program, list[str]]]:
    box = open_box(tmp_path / "data")
    ids = begin(box)
    yield Program(box), ids
    box.close()


def test_feedback_by_the_id_of_a_prediction_is_enough(site: tuple[Program, list[str]]) -> None:
    page, ids = site
    labels = [
        {"prediction_id": ids[0], "late": True},
        {"prediction_id": ids[1], "late": True},
        {"prediction_id": "0198-not-there", "late": True},
        {"prediction_id": 7, "late": True},
    ]
    answer = page.request("POST", "/api/v1/labels/late/feedback", json={"labels": labels[:3]})
    assert answer.json() == {"rows": 2, "duplicates": 0, "quarantined": 1}
    (held,) = page.request("GET", "/api/v1/labels/late/held").json()
    assert held["reasons"] == [
        "the prediction log does not have this prediction: it is unknown, too old, or left out by the model's sampling",
        "who is missing",
        "event_time is missing",
    ]
    assert page.request("POST", "/api/v1/labels/late/feedback", json={"labels": labels[3:]}).status_code == 400
    (found,) = page.request("GET", "/api/v1/monitoring/delay/performance").json()
    assert (found["predictions"], found["labelled"], found["coverage"]) == (4, 2, 0.5)
    assert (found["metrics"]["accuracy"], found["metrics"]["auc"], found["label_set"]) == (0.5, None, "late")


def test_it_is_on_both_pages_with_its_coverage(site: tuple[Program, list[str]]) -> None:
    page, ids = site
    for path in ("/monitoring/delay", "/models/delay"):
        assert "0 of 4 predictions have a label" in page.request("GET", path).text
    page.request("POST", "/api/v1/labels/late/feedback", json={"labels": [{"prediction_id": ids[0], "late": True}]})
    for path in ("/monitoring/delay", "/models/delay"):
        text = page.request("GET", path).text
        assert "1 of 4 predictions have a label" in text
        assert "By labels of" in text


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("labels=none", 404, "label_set"),
        ("since=yesterday", 400, "since"),
        ("since=2026-01-01T00:00:00", 400, "since"),
        ("every_seconds=0", 400, "every_seconds"),
    ],
)
def test_bad_input_names_its_field(site: tuple[Program, list[str]], query: str, status: int, field: str) -> None:
    answer = site[0].request("GET", f"/api/v1/monitoring/delay/performance?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_model_without_labels_says_what_to_do(site: tuple[Program, list[str]]) -> None:
    site[0].box.registry.create_model("other", actor="ann")
    answer = site[0].request("GET", "/api/v1/monitoring/other/performance")
    assert answer.status_code == 404
    assert "tag" in answer.json()["error"]["hint"]
    assert "No labels to measure it by" in site[0].request("GET", "/models/other").text


def test_a_published_set_is_a_source(site: tuple[Program, list[str]]) -> None:
    page, ids = site
    page.request("POST", "/api/v1/labels/late/feedback", json={"labels": [{"prediction_id": ids[0], "late": True}]})
    answer = page.request("POST", "/api/v1/labels/late/publish", json={"source": "lateness"})
    assert answer.json()["published"] == "lateness"
    found = next(one for one in page.request("GET", "/api/v1/sources").json() if one["name"] == "lateness")
    assert (found["rows"], found["arrival_time"], [c["name"] for c in found["columns"]]) == (
        *(1, "knowable"),
        ["who", "event_time", "late", "knowable"],
    )
    refused = page.request("POST", "/api/v1/sources/lateness/push", json={"rows": [{"who": "a"}]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "source")
    assert 'href="/sources/lateness"' in page.request("GET", "/labels/late").text


def test_the_command_line_and_python_say_the_same(tmp_path: Path, make_server: Any) -> None:
    box = open_box(tmp_path / "data")
    ids = begin(box)
    box.close()
    server: Server = make_server(data_dir=tmp_path / "data")
    run = server.command
    with mlbox.connect(server.url, server.token) as client:
        client.label("late", [{"prediction_id": ids[0], "late": True}, {"prediction_id": ids[1], "late": False}])
        (found,) = client.performance("delay")
        spans = client.performance("delay", every=timedelta(days=365))
    assert (found.labelled, found.metrics["auc"], len(spans)) == (2, 1.0, 1)
    table = run("monitor", "performance", "delay").stdout.splitlines()
    assert table[0].split()[:5] == ["version", "role", "predictions", "labelled", "coverage"]
    assert table[1].split()[:5] == ["1", "champion", "4", "2", "0.5"]
    (told,) = json.loads(run("monitor", "performance", "delay", "--every", "30d", "-o", "json").stdout)
    assert (told["labelled"], told["metrics"]["auc"]) == (2, 1.0)
    assert "no span" in run("monitor", "performance", "delay", "--every", "7w").stderr
    assert "lateness" in run("label", "publish", "late", "--source", "lateness").stdout
