"""Runs, users, tokens, the clock and the audit log over HTTP."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests.conftest import Server, wait_for


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("runs") / "data")
    yield server
    server.stop()


@pytest.fixture
def member(box: Server) -> Iterator[Callable[[str], httpx.Client]]:
    """A user's own client, by role."""
    made: list[httpx.Client] = []

    def of(role: str) -> httpx.Client:
        box.http.post("/api/v1/users", json={"name": f"a-{role}", "role": role})
        secret = box.http.post("/api/v1/tokens", json={"user": f"a-{role}", "name": "test"}).json()["secret"]
        client = httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
        made.append(client)
        return client

    yield of
    for client in made:
        client.close()


def run_of(box: Server, **more: object) -> str:
    return box.http.post("/api/v1/runs", json={"experiment": "delay", "params": {"lr": "1"}, **more}).json()["id"]


def test_a_run_is_recorded_over_http(box: Server) -> None:
    run = run_of(box, name="first")
    points = [{"key": "auc", "value": 0.5 + n / 10, "step": n} for n in range(3)] + [{"key": "loss", "value": "NaN"}]
    assert box.http.post(f"/api/v1/runs/{run}/log", json={"metrics": points, "tags": {"a": "b"}}).status_code == 204
    found = box.http.get(f"/api/v1/runs/{run}").json()
    assert (found["metrics"]["auc"]["value"], found["tags"], found["user"]) == (0.7, {"a": "b"}, "admin")
    assert found["metrics"]["loss"]["value"] is None, "JSON has no NaN"
    assert [p["step"] for p in box.http.get(f"/api/v1/runs/{run}/metrics/auc").json()] == [0, 1, 2]
    assert box.http.post(f"/api/v1/runs/{run}/end", json={"status": "FINISHED"}).json()["status"] == "FINISHED"
    assert box.http.get("/api/v1/runs", params={"experiment": "delay", "limit": 1}).json()[0]["id"] == run


def test_a_history_is_read_page_by_page(box: Server) -> None:
    run = run_of(box)
    values = [0.1, "NaN", 0.2, "Infinity", 0.3]
    points = [{"key": "a/b", "value": value, "step": 7, "at": "2026-01-01T00:00:00Z"} for value in values]
    box.http.post(f"/api/v1/runs/{run}/log", json={"metrics": points})
    path, paged, query = f"/api/v1/runs/{run}/metrics/a/b", [], {"limit": "2"}
    while True:
        answer = box.http.get(path, params=query)
        paged += answer.json()
        if "X-Mlbox-Next" not in answer.headers:
            break
        query["after"] = answer.headers["X-Mlbox-Next"]
    whole = box.http.get(path)
    assert paged == whole.json()
    assert len(paged) == 5
    assert "X-Mlbox-Next" not in whole.headers
    for cursor in ("", "x", "1,2", "1,2,3,4", "1,1e9,0", f"{10**30},0,0", f"0,{10**30},0"):
        refused = box.http.get(path, params={"after": cursor})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_input"), cursor


def test_an_artifact_comes_back_as_it_was_sent(box: Server) -> None:
    run, content = run_of(box), bytes(range(256)) * 10_000
    sent = box.http.put(f"/api/v1/runs/{run}/artifacts/models/m.onnx", content=content).json()
    assert (sent["path"], sent["size"]) == ("models/m.onnx", len(content))
    assert box.http.get(f"/api/v1/runs/{run}/artifacts/models/m.onnx").content == content
    assert box.http.get(f"/api/v1/runs/{run}/artifacts").json() == [sent]
    bad = box.http.put(f"/api/v1/runs/{run}/artifacts/a%2F..%2F..%2Fb", content=b"x")
    assert bad.status_code == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"metrics": [{"key": "m", "value": "high"}]}, "no number"),
        ({"metrics": [{"key": "", "value": 1}]}, "name"),
        ({"params": {"lr": "2"}}, "'lr' is '1' already"),
        ({"metrics": "none"}, "should be a list"),
    ],
)
def test_what_cannot_be_logged_says_why(box: Server, body: object, words: str) -> None:
    answer = box.http.post(f"/api/v1/runs/{run_of(box)}/log", json=body)
    assert 400 <= answer.status_code < 500
    assert words in answer.json()["error"]["message"]


def test_a_viewer_reads_and_a_member_writes(box: Server, member: Callable[[str], httpx.Client]) -> None:
    viewer, writer = member("viewer"), member("member")
    assert viewer.get("/api/v1/runs").status_code == 200
    refused = viewer.post("/api/v1/runs", json={"experiment": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_authorised")
    assert writer.post("/api/v1/runs", json={"experiment": "x"}).json()["user"] == "a-member"
    for path, body in (("/api/v1/users", {"name": "eve"}), ("/api/v1/clock", {"to": "2030-01-01T00:00:00Z"})):
        assert writer.post(path, json=body).status_code == 403


def test_a_token_is_shown_once_capped_and_revoked(box: Server, member: Callable[[str], httpx.Client]) -> None:
    mine = member("approver")
    made = mine.post("/api/v1/tokens", json={"user": "a-approver", "name": "ci", "role": "viewer"}).json()
    assert made["secret"].startswith("mlb_")
    assert "secret" not in str(mine.get("/api/v1/tokens").json())
    up = mine.post("/api/v1/tokens", json={"user": "a-approver", "name": "up", "role": "admin"}).json()["secret"]
    who = httpx.get(f"{box.url}/api/v1/whoami", headers={"Authorization": f"Bearer {up}"}).json()
    assert who["role"] == "approver", "a ceiling gives nobody a role"
    assert mine.post("/api/v1/tokens", json={"user": "admin", "name": "steal"}).status_code == 403
    header = {"Authorization": f"Bearer {made['secret']}"}
    assert httpx.get(f"{box.url}/api/v1/whoami", headers=header).json()["role"] == "viewer"
    weak = httpx.post(
        f"{box.url}/api/v1/tokens", headers=header, json={"user": "a-approver", "name": "x", "role": "approver"}
    )
    assert weak.status_code == 403, "a token makes none stronger than itself"
    assert mine.delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert httpx.get(f"{box.url}/api/v1/whoami", headers=header).status_code == 401


def test_a_jobs_token_writes_to_its_own_run_and_nothing_else(box: Server) -> None:
    mine = run_of(box)
    script = (
        "python -c \"import os, httpx; h = {'Authorization': 'Bearer ' + os.environ['MLBOX_TOKEN']};"
        " u = os.environ['MLBOX_URL']; r = os.environ['MLBOX_RUN_ID'];"
        " p = lambda path, body: print(path, httpx.post(u + path, headers=h, json=body).status_code);"
        " p(f'/api/v1/runs/{r}/log', {'tags': {'by': 'job'}});"
        f" p('/api/v1/runs/{mine}/log', {{'tags': {{'by': 'job'}}}}); p('/api/v1/runs', {{'experiment': 'x'}});"
        " p('/api/v1/jobs', {'command': ['true']}); p('/api/v1/tokens', {'user': 'admin', 'name': 'x'})\""
    )
    job = box.http.post("/api/v1/jobs", json={"command": ["sh", "-c", script], "memory_gb": 1}).json()["id"]
    wait_for(lambda: box.http.get(f"/api/v1/jobs/{job}").json()["ended_at"], what="the job to end")
    codes = [line.rsplit(" ", 1)[1] for line in box.http.get(f"/api/v1/jobs/{job}/logs").text.splitlines()]
    assert codes == ["204", "403", "403", "403", "403"]


def test_the_audit_log_is_one_list_of_all_stores(box: Server) -> None:
    run_of(box)
    found = box.http.get("/api/v1/audit", params={"limit": 1000}).json()
    assert [e["id"] for e in found] == sorted((e["id"] for e in found), reverse=True)
    assert {"user.created", "run.started"} <= {e["type"] for e in found}
    page = box.http.get("/api/v1/audit", params={"limit": 2}).json()
    after = box.http.get("/api/v1/audit", params={"limit": 2, "after": page[-1]["id"]}).json()
    assert [e["id"] for e in page + after] == [e["id"] for e in found[:4]]
    only = box.http.get("/api/v1/audit", params={"type": "user.created", "actor": "mlbox"}).json()
    assert [e["subject"] for e in only] == ["user:admin"]


def test_domain_time_moves_in_replay_mode_only(box: Server, make_server: Callable[..., Server]) -> None:
    refused = box.http.post("/api/v1/clock", json={"to": "2030-01-01T00:00:00Z"})
    assert (refused.status_code, "follows real time" in refused.text) == (400, True)
    replay = make_server("--replay-clock", "2013-01-01T00:00Z")
    assert (
        replay.http.post("/api/v1/clock", json={"to": "2013-02-01T00:00:00Z"}).json()["domain_time"][:10]
        == "2013-02-01"
    )
    back = replay.http.post("/api/v1/clock", json={"to": "2013-01-15T00:00:00Z"})
    assert "cannot go back" in back.json()["error"]["message"]
    assert replay.http.post("/api/v1/clock", json={"to": "2013-03-01T00:00:00"}).status_code == 400
    assert replay.http.get("/api/v1/audit", params={"type": "clock.advanced"}).json()[0]["actor"] == "admin"


def test_every_point_of_a_run_is_exported_as_parquet(box: Server, tmp_path: Path) -> None:
    run_id = run_of(box)
    values = [1.5, "NaN", "-Infinity", 0.25]
    points = [{"key": key, "value": v, "step": n} for key in ("loss", "auc/val") for n, v in enumerate(values)]
    assert box.http.post(f"/api/v1/runs/{run_id}/log", json={"metrics": points}).status_code == 204
    answer = box.http.get(f"/api/v1/runs/{run_id}/points")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.column("key").to_pylist() == ["auc/val"] * 4 + ["loss"] * 4
    assert table.column("step").to_pylist() == [0, 1, 2, 3] * 2
    assert repr(table.column("value").to_pylist()[:4]) == "[1.5, nan, -inf, 0.25]"
    assert str(table.schema.field("at").type) == "timestamp[us, tz=UTC]"
    one = pq.read_table(io.BytesIO(box.http.get(f"/api/v1/runs/{run_id}/points", params={"key": "loss"}).content))
    assert (one.num_rows, set(one.column("key").to_pylist())) == (4, {"loss"})
    empty = pq.read_table(io.BytesIO(box.http.get(f"/api/v1/runs/{run_of(box)}/points").content))
    assert empty.num_rows == 0
    for query in ({}, {"key": "loss"}):
        assert box.http.get(f"/api/v1/runs/{'0' * 32}/points", params=query).status_code == 404
    assert box.http.get(f"/api/v1/runs/{run_id}/points", params={"key": "other"}).status_code == 404


def test_a_download_is_resumed_by_range_and_checked(box: Server) -> None:
    run_id = run_of(box)
    content = bytes(range(256)) * 9000
    path = f"/api/v1/runs/{run_id}/artifacts/w.bin"
    digest = box.http.put(path, content=content).json()["sha256"]
    whole = box.http.get(path)
    assert whole.content == content
    tag = whole.headers["etag"]
    assert tag == f'"{digest}"'
    rest = box.http.get(path, headers={"Range": "bytes=1000000-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, content[1_000_000:])
    assert rest.headers["content-range"] == f"bytes 1000000-{len(content) - 1}/{len(content)}"
    other = box.http.get(path, headers={"Range": "bytes=1000000-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, content)
    assert box.http.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert box.http.get(path, headers={"Range": f"bytes={len(content)}-"}).status_code == 416


def test_a_file_that_is_broken_on_disk_is_never_handed_out_as_whole(box: Server) -> None:
    run_id = run_of(box)
    content = b"weights" * 400_000
    path = f"/api/v1/runs/{run_id}/artifacts/w.bin"
    digest = box.http.put(path, content=content).json()["sha256"]
    file = box.data_dir / "artifacts" / digest[:2] / digest[2:]
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"X")
    with pytest.raises(httpx.RemoteProtocolError):
        box.http.get(path)
    events = box.http.get("/api/v1/audit", params={"type": "artifact.broken"}).json()
    assert [event["subject"] for event in events] == [f"artifact:{digest}"]
