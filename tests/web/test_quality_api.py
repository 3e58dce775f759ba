"""Transforms, expectations and skew over HTTP, on the command line and on their pages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.monitored import FEATURES, in_production, served, with_history
from tests.web.site import Site, open_box

SOURCE = {
    "name": "sales",
    "event_time": "bought",
    "columns": [
        {"name": "who", "dtype": "STRING"},
        {"name": "bought", "dtype": "TIMESTAMP"},
        {"name": "amount", "dtype": "FP64"},
    ],
}
VIEW = {
    "name": "spend",
    "join_keys": [{"name": "who", "dtype": "STRING"}],
    "features": [{"name": "amount", "dtype": "FP64"}],
    "sources": ["sales"],
    "sql": "SELECT who, amount, bought AS event_time FROM sales",
}
TRANSFORMS = '''
[[transforms]]
name = "ratio"
inputs = [{name = "amount", feature = "spend:amount"}, {name = "limit", dtype = "FP64"}]
outputs = [{name = "used", dtype = "FP64"}]
owner = "ann"
code = """
def ratio(amount, limit):
    return coalesce(amount, 0.0) / limit
"""
'''
EXPECTATIONS = """
[[expectations]]
column = "amount"
min = 0
max_nulls = 0
[[expectations]]
column = "who"
pattern = "[a-z]+"
max_nulls = 0.25
"""
ROWS = b"who,bought,amount\nann,2026-01-01T00:00Z,10\nBEA,2026-01-01T00:00Z,-5\ncarl,2026-01-02T00:00Z,\n"


def mlbox(server: Server, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = server.command(*arguments)
    assert (done.returncode != 0) == fails, done.stderr
    return done


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    made = make_server("--replay-clock", "2026-01-02T12:00Z")
    for path, body in (("sources", SOURCE), ("features/views", VIEW)):
        assert made.http.post(f"/api/v1/{path}", json=body).status_code == 201
    return made


def test_a_transform_from_a_file_to_a_feature(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "transforms.toml"
    file.write_text(TRANSFORMS)
    tried = mlbox(
        server, "transform", "try", str(file), '{"amount": null, "limit": 2}', '{"amount": 3, "limit": 2}', "-o", "json"
    )
    assert json.loads(tried.stdout) == [{"used": 0.0}, {"used": 1.5}]
    assert server.http.get("/api/v1/features/transforms").json() == []
    assert "ratio@v1" in mlbox(server, "transform", "apply", str(file)).stdout
    assert "ratio@v1" in mlbox(server, "transform", "apply", str(file)).stdout
    listed = mlbox(server, "transform", "ls")
    assert "amount, limit" in listed.stdout
    assert "coalesce(amount" in mlbox(server, "transform", "show", "ratio").stderr
    server.http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS)
    server.http.post("/api/v1/features/materialize", json={})
    asked = {"features": ["ratio:used", "spend:amount"], "entities": [{"who": "ann", "limit": 4}]}
    (row,) = server.http.post("/api/v1/features/online", json=asked).json()
    assert row["values"] == {"ratio@v1:used": 2.5, "spend@v1:amount": 10}
    shown = mlbox(server, "feature", "get", "ratio:used", "-k", "who=ann", "-k", "limit=4", "-o", "json")
    assert json.loads(shown.stdout) == [{"feature": "ratio@v1:used", "value": 2.5, "status": "PRESENT"}]
    spine = 'SELECT who, bought AS event_time, 5.0::DOUBLE AS "limit" FROM sales'
    body = {"name": "train", "spine": spine, "features": ["ratio:used"]}
    dataset = server.http.post("/api/v1/datasets", json=body)
    assert dataset.status_code == 201, dataset.text
    assert [column["name"] for column in dataset.json()["columns"]][-1] == "ratio@v1:used"
    page = server.http.get("/features/ratio@v1", headers={"accept": "text/html"}).text
    assert "on-demand transform" in page
    assert "spend@v1:amount" in page
    file.write_text(TRANSFORMS.replace("coalesce(amount, 0.0) / limit", "amount.real / limit"))
    refused = mlbox(server, "transform", "apply", str(file), fails=True)
    assert "Line 2, column 12: an attribute is not allowed" in refused.stderr.replace("\n", " ")
    answer = server.http.post(
        "/api/v1/features/transforms", json={"name": "x", "inputs": [], "outputs": [], "code": ""}
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "outputs")


def test_rows_are_held_back_shown_and_sent_again(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "expectations.toml"
    file.write_text(EXPECTATIONS)
    mlbox(server, "quality", "set", "sales", str(file))
    rows = tmp_path / "rows.csv"
    rows.write_bytes(ROWS)
    assert "2 rows broke an expectation" in mlbox(server, "source", "append", "sales", str(rows)).stderr
    assert server.http.get("/api/v1/sources/sales").json()["rows"] == 1
    quality = server.http.get("/api/v1/sources/sales/quality").json()
    reasons = {"amount is below 0": 1, "amount is null": 1, "who does not match its pattern": 1}
    assert (quality["quarantined"], quality["reasons"]) == (2, reasons)
    shown = mlbox(server, "quality", "show", "sales")
    assert "amount" in shown.stdout
    assert "2 rows in quarantine" in shown.stderr
    held = [json.loads(line) for line in mlbox(server, "quality", "rows", "sales", "-o", "jsonl").stdout.splitlines()]
    assert [row["reasons"] for row in held] == [
        ["amount is below 0", "who does not match its pattern"],
        ["amount is null"],
    ]
    page = server.http.get("/sources/sales", headers={"accept": "text/html"}).text
    assert "2 rows in quarantine" in page
    assert "amount = -5.0" in page
    assert "Null in at most 25\u202f% of a load" in page
    fix = json.dumps({held[1]["id"]: {"amount": 3}})
    done = mlbox(server, "quality", "resubmit", "sales", "--correct", fix)
    assert "1 row added to sales; 1 in quarantine." in done.stderr
    added = server.http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS).json()
    assert added == {"rows": 1, "quarantined": 2}
    answer = server.http.post("/api/v1/sources/sales/quarantine/resubmit", json={})
    assert answer.json() == {"rows": 0, "quarantined": 3}
    told = [event["type"] for event in server.http.get("/api/v1/audit?subject=source:sales").json()]
    assert {"source.expected", "source.quarantined", "source.resubmitted"} <= set(told)
    wrong = server.http.put("/api/v1/sources/sales/expectations", json=[{"column": "amount", "min": "x"}])
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "expectations.0.min")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    opened = open_box(tmp_path / "data")
    yield opened
    opened.close()


def test_skew_is_checked_kept_and_shown(box: Box) -> None:
    site = Site(box)
    in_production(box)
    with_history(box)
    served(box, np.full(50, 8.0), entity={"place": "JFK"})
    assert "not compared with its history yet" in site.get("/monitoring/delay").text
    headers = {"accept": "application/json", "authorization": f"Bearer {token(box)}"}
    api = Site(box, user="")
    assert api.request("GET", "/api/v1/monitoring/delay/skew", headers=headers).json() == []
    found: list[dict[str, Any]] = api.request("POST", "/api/v1/monitoring/delay/skew", headers=headers).json()
    first = found[0]
    assert (first["feature"], first["share"], first["verdict"]) == (FEATURES[0], 0.0, "alert")
    assert (first["served"], first["recomputed"], first["entity"]) == (8.0, 7.0, {"place": "JFK"})
    assert api.request("GET", "/api/v1/monitoring/delay/skew", headers=headers).json() == found
    assert api.request("GET", "/api/v1/monitoring/nothing/skew", headers=headers).status_code == 404
    page = site.get("/monitoring/delay").text
    assert "served 8, history 7" in page
    assert "differs from its history: 0 of 50 served values are equal" in page
    assert "is not served as its history has it" in site.get("/audit").text
    assert (
        'ml_feature_skew_equal_ratio{feature_name="weather@v1:temp",model_name="delay"} 0.0'
        in site.get("/metrics").text
    )


def token(box: Box) -> str:
    box.access.create_user("mia", "member", actor="admin")
    return box.access.create_token("mia", "test", actor="admin")[1]
