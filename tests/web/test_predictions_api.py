"""The prediction log over HTTP, on its page and on the command line: who may take it out, hold it and erase it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from mlbox.cli import main
from mlbox.records import HoldSpec, Role
from mlbox.web.box import Box
from tests.conftest import Server
from tests.web.monitored import in_production, served
from tests.web.site import Site, open_box


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    opened = open_box(tmp_path_factory.mktemp("log") / "data")
    in_production(opened)
    yield opened
    opened.close()


def api(box: Box, role: Role, method: str, path: str, **more: Any) -> httpx.Response:
    """As a user of that role."""
    name = f"{role}-user"
    if name not in {user.name for user in box.access.users()}:
        box.access.create_user(name, role, actor="admin")
    _, secret = box.access.create_token(name, "test", actor="admin")
    headers = {"Authorization": f"Bearer {secret}", "accept": "application/json"}
    return Site(box, user="").request(method, f"/api/v1/predictions{path}", headers=headers, **more)


def test_a_hold_stops_an_erasure_until_it_is_released(box: Box) -> None:
    rows = served(box, [1.0, 2.0], entity={"customer": "17"})
    served(box, [3.0], entity={"customer": "18"})
    body = {"model": "delay", "entity": {"customer": "17"}, "reason": "case 12"}
    assert api(box, "member", "POST", "/holds", json=body).status_code == 403
    held = api(box, "admin", "POST", "/holds", json=body)
    assert (held.status_code, held.json()["active"]) == (201, True)
    own = held.json()["id"]
    refused = api(box, "admin", "POST", "/erase", json={"entity": {"customer": 17}, "reason": "asked"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert own in refused.json()["error"]["message"]
    assert [one["id"] for one in api(box, "member", "GET", "/holds").json()] == [own]
    assert api(box, "viewer", "GET", "/holds").status_code == 403
    page = Site(box).get("/deleted").text
    assert "case 12" in page
    assert "1 held" in page
    assert api(box, "member", "DELETE", f"/holds/{own}").status_code == 403
    assert api(box, "admin", "DELETE", f"/holds/{own}").json()["released_by"] == "admin-user"
    assert api(box, "member", "POST", "/erase", json={"entity": {"customer": 17}, "reason": "x"}).status_code == 403
    done = api(box, "admin", "POST", "/erase", json={"entity": {"customer": 17}, "reason": "request 4711"}).json()
    assert (done["state"], done["predictions"]) == ("done", 2)
    assert not {row.id for row in rows} & {row.id for row in box.predictions.recent("delay")}
    assert [one["id"] for one in api(box, "member", "GET", "/removals").json()] == [done["id"]]
    page = Site(box).get("/deleted").text
    assert "request 4711" in page
    assert "released by" in page


def test_a_model_is_kept_as_its_admin_says_and_a_collection_removes_the_rest(box: Box) -> None:
    served(box, [1.0] * 3, at=box.clock.real() - timedelta(days=40), entity={"customer": "old"})
    before = api(box, "viewer", "GET", "/delay/retention").json()
    assert (before["days"], before["own"]) == (183, False)
    assert api(box, "member", "PUT", "/delay/retention", json={"days": 30}).status_code == 403
    for days in (0, 1e-300, 0.9):
        assert api(box, "admin", "PUT", "/delay/retention", json={"days": days}).status_code == 400
    assert api(box, "admin", "PUT", "/delay/retention", json={"days": 30}).json()["own"] is True
    assert box.retention.collect(dry_run=True, actor="ann").predictions == 3
    assert box.retention.collect(actor="ann").predictions == 3
    assert all(row.entity != {"customer": "old"} for row in box.predictions.recent("delay"))
    assert api(box, "admin", "PUT", "/delay/retention", json={"days": None}).json()["days"] == 183
    assert api(box, "viewer", "GET", "/nobody/retention").status_code == 404


def test_a_sample_is_kept_as_its_admin_says_and_everything_is_counted(box: Box) -> None:
    whole = {"share": 1.0, "roles": {}}
    assert api(box, "viewer", "GET", "/delay/retention").json()["sampling"] == whole
    assert api(box, "member", "PUT", "/delay/sampling", json={"share": 0.5}).status_code == 403
    assert api(box, "admin", "PUT", "/nobody/sampling", json={"share": 0.5}).status_code == 404
    for wrong in ({"share": 1.1}, {"share": -1}, {"share": 1e308}, {"share": "x"}, {"roles": {"king": 1}}, {"part": 1}):
        assert api(box, "admin", "PUT", "/delay/sampling", json=wrong).status_code == 400, wrong
    asked = {"share": 0.25, "roles": {"shadow": 1.0}}
    assert api(box, "admin", "PUT", "/delay/sampling", json=asked).json()["sampling"] == asked
    (event, *_) = box.events(type="predictions.sampled")
    assert (event.subject, event.data) == ("model:delay", asked)
    before = len(box.predictions.recent("delay", 10_000))
    rows = served(box, np.random.default_rng(2).normal(size=1000), entity={"customer": "s"})
    kept = len(box.predictions.recent("delay", 10_000)) - before
    assert 180 < kept < 320
    found = api(box, "viewer", "GET", "/delay/retention").json()
    assert found["left_out"] == len(rows) - kept
    text = Site(box).request("GET", "/metrics").text
    assert f'mlbox_prediction_log_sampled_out_total{{model_name="delay"}} {len(rows) - kept}.0' in text
    exported = pq.read_table(io.BytesIO(api(box, "member", "GET", "/delay/export?entity=customer=s").content))
    assert set(exported.column("share").to_pylist()) == {0.25}
    assert api(box, "admin", "PUT", "/delay/sampling", json={}).json()["sampling"] == whole


def test_it_is_exported_to_members_and_that_is_in_the_audit_log(box: Box) -> None:
    rows = served(box, [1.0, 2.0], entity={"customer": "19"})
    assert api(box, "viewer", "GET", "/delay/export").status_code == 403
    answer = api(box, "member", "GET", "/delay/export?entity=customer=19&role=champion")
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.column("id").to_pylist() == sorted(row.id for row in rows)
    assert 'filename="delay.parquet"' in answer.headers["content-disposition"]
    assert api(box, "member", "GET", "/delay/export?format=csv&version=1").text.startswith('"id","model","version"')
    (event, *_) = box.events(type="predictions.exported")
    assert (event.subject, event.data["keys"]) == ("model:delay", [])
    for query, field in (
        ("format=xml", "format"),
        ("role=king", "role"),
        ("entity=customer", "entity"),
        ("since=yesterday", "since"),
        ("version=one", "version"),
    ):
        refused = api(box, "member", "GET", f"/delay/export?{query}")
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, field), query
    assert api(box, "member", "GET", "/nobody/export").status_code == 404


def test_what_is_private_is_absent(box: Box) -> None:
    box.teams.create("lab", actor="admin")
    in_production(box, "lab.secret")
    box.teams.set_private("model", "lab.secret", True, actor="admin")
    served(box, [1.0], model="lab.secret", entity={"customer": "20"})
    box.keeping.hold(HoldSpec(model="lab.secret", reason="private to us"), actor="admin")
    assert api(box, "approver", "GET", "/lab.secret/export").status_code == 404
    assert api(box, "approver", "GET", "/lab.secret/retention").status_code == 404
    assert "private to us" not in api(box, "approver", "GET", "/holds").text
    assert "private to us" in api(box, "admin", "GET", "/holds").text


def test_what_a_deleted_model_left_is_as_private_as_it_was(box: Box) -> None:
    box.teams.create("den", actor="admin")
    box.registry.create_model("den.draft", actor="ann")
    box.teams.set_private("model", "den.draft", True, actor="admin")
    box.keeping.hold(HoldSpec(model="den.draft", reason="of the draft"), actor="admin")
    box.curation.delete("den.draft", actor="ann")
    box.registry.create_model("den.draft", actor="ann")
    assert "of the draft" not in api(box, "approver", "GET", "/holds").text
    (held,) = [one for one in api(box, "admin", "GET", "/holds").json() if one["reason"] == "of the draft"]
    assert held["model"].startswith("~"), "it is the former model's"


def test_the_command_does_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = open_box(tmp_path / "data")
    in_production(opened)
    served(opened, [1.0, 2.0, 3.0], entity={"customer": "17"})
    opened.close()
    server = Server(tmp_path / "data")
    monkeypatch.setenv("MLBOX_URL", server.url)
    monkeypatch.setenv("MLBOX_TOKEN", server.token)

    def mlbox(*arguments: str, code: int = 0) -> str:
        assert main.run(["predictions", *arguments]) == code
        printed = capfd.readouterr()
        return printed.out if code == 0 else printed.err

    try:
        mlbox("export", "delay", "--to", str(tmp_path / "delay.parquet"))
        assert pq.read_table(tmp_path / "delay.parquet").num_rows == 3
        assert mlbox("export", "delay", "--format", "jsonl", "--entity", "customer=18") == ""
        own = msgspec.json.decode(mlbox("hold", "--model", "delay", "--reason", "case 12", "-o", "json"))["id"]
        refused = mlbox("rm", "customer=17", "--reason", "asked", code=5)
        assert f"`mlbox predictions release {own}`" in refused
        assert "case 12" in mlbox("holds")
        mlbox("release", own)
        assert "3" in mlbox("rm", "customer=17", "--reason", "asked")
        assert "erasure" in mlbox("removed")
        assert "730" in mlbox("keep", "delay", "--days", "730")
        assert "KEY=VALUE" in mlbox("rm", "customer", "--reason", "asked", code=2)
    finally:
        server.stop()
