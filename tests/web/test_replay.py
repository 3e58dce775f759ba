"""Logged traffic, asked again: by command, from Python, on the pages, and as a gate that waits, skips, stops and is cut off."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mlbox
from mlbox.errors import InvalidInput, NotFound
from tests import zygote
from tests.conftest import Server, wait_for
from tests.models import counting, picky
from tests.web.served import Site, ok, open_site

POLICY = "/api/v1/models/score/policy"
AMOUNTS = [-2.0, -1.0, 1.0, 2.0] * 5
SLOW = 60_000.0
"""An amount for which the counting model takes some 70 ms."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = open_site(Path(tmp_path_factory.mktemp("replay") / "data"), "--rollout-seconds", "0.1")
    ask(site, AMOUNTS)
    yield site
    site.server.stop()


def ask(site: Site, amounts: list[float]) -> None:
    rows = [{"spend@v1:amount": amount} for amount in amounts]
    ok(site.http.post("/api/v1/models/score/predict", json={"features": rows}))


def register(site: Site, model: onnx.ModelProto, *outputs: float) -> int:
    """A version whose sample says that it answers this to 0 and 1."""
    run = site.post("/api/v1/runs", {"experiment": "e", "dataset": "sales@v1", "git_commit": "c" * 40})["id"]
    ok(site.http.post(f"/api/v1/runs/{run}/log", json={"metrics": [{"key": "auc", "value": 0.8}]}))
    site.put(f"/api/v1/runs/{run}/artifacts/m.onnx", model.SerializeToString())
    sample = io.BytesIO()
    np.savez(sample, inputs=np.array([[0.0], [1.0]], np.float32), outputs=np.array(outputs))
    site.put(f"/api/v1/runs/{run}/artifacts/s.npz", sample.getvalue())
    made = site.post("/api/v1/models/score/versions", {"run_id": run, "artifact": "m.onnx", "sample": "s.npz"})
    return int(made["version"])


def judged(site: Site, version: int, **replay: Any) -> dict[str, Any]:
    """A version's promotion once its gates have ended, by a policy with this rule; it is taken back for the next one."""
    ok(site.http.put(POLICY, json={"replay": replay}))
    promotion = site.promote(version)
    if promotion["state"] in ("shadow", "waiting_traffic"):
        site.post(f"/api/v1/promotions/{promotion['id']}/withdraw", {"comment": ""})
    return promotion


def gate(promotion: dict[str, Any]) -> dict[str, Any]:
    return next(gate for gate in promotion["gates"] if gate["gate"] == "replay")


def test_a_first_version_is_asked_its_training_sample_for_there_is_no_traffic(site: Site) -> None:
    (first,) = [p for p in site.http.get("/api/v1/promotions?model=score").json() if p["version"] == 1]
    assert gate(first)["measured"] == "60 of 60 requests, from the sample of the training data; 0 failed, 0 invalid"


def test_the_command_says_what_the_shadow_would_and_python_gets_the_same(site: Site, tmp_path: Path) -> None:
    version = site.register(-1.0)["version"]
    env = {"MLBOX_URL": site.server.url, "MLBOX_TOKEN": site.server.token, "HOME": str(tmp_path)}
    ran = zygote.run(("model", "replay", f"score@{version}", "--last", "8"), env=env, cwd=tmp_path, stdin="")
    assert ran.returncode == 0, ran.stderr
    head, row = ran.stdout.splitlines()
    assert head.split()[:4] == ["segment", "rows", "failed", "invalid"]
    assert row.split()[:5] == ["8", "0", "0", "0", "%"]
    assert "agrees on 0.0% of 8 rows" in ran.stderr
    assert "8 of its answers are those that were logged (asked again it gives 100.0% of them)" in ran.stderr
    assert "Rows by how far apart the scores are: up to 0.5: 4, above 0.5: 4" in ran.stderr
    with mlbox.connect(site.server.url, site.server.token) as box:
        found = box.replay(f"score/{version}", window=timedelta(days=7), last=8)
        assert (found.state, found.figures[0].rows, found.figures[0].agreed_share) == ("done", 8, 0.0)
        assert box.replay(f"score@{version}", against=f"score@{version}").figures[0].most == 0
        with pytest.raises(InvalidInput, match="not of score"):
            box.replay(f"score@{version}", against="other@1")
        with pytest.raises(NotFound):
            box.replay(f"score@{version}", against=99)
    page = site.http.get(f"/models/score/{version}", headers={"accept": "text/html"}).text
    assert "Logged traffic, asked again" in page
    assert "Differences of replayed scores" in page
    kept = site.http.get(f"/api/v1/models/score/versions/{version}/replays").json()
    assert [one["spec"]["against"] for one in kept] == [version, None, None]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"last": 0}, "last"),
        ({"last": 2**63}, "last"),
        ({"window_seconds": 1e308}, "window_seconds"),
        ({"against": 2**62}, "version"),
        ({"against": "champion"}, "against"),
    ],
)
def test_an_odd_request_is_refused_by_its_field(site: Site, body: dict[str, Any], field: str) -> None:
    refused = site.http.post("/api/v1/models/score/versions/1/replays", json=body)
    assert refused.status_code in (400, 404), refused.text
    assert refused.json()["error"]["field"] == field, refused.text


def test_with_too_few_requests_a_policy_skips_or_waits_until_there_are_enough(site: Site) -> None:
    version = site.register(1.5)["version"]
    skipped = judged(site, version, min_rows=21)
    assert skipped["state"] == "shadow"
    assert gate(skipped)["measured"] == "skipped: 20 requests of score are logged, and 21 or more are asked again"
    ok(site.http.put(POLICY, json={"replay": {"min_rows": 21, "too_few": "wait"}}))
    waits = site.promote(version)
    assert (waits["state"], waits["reason"]) == (
        "waiting_traffic",
        "20 of 21 requests are logged to be replayed",
    )
    refused = site.http.post(f"/api/v1/models/score/versions/{version}/stage", json={"stage": "Staging"})
    assert refused.status_code == 409
    assert "waits for traffic to replay: 20 of 21 requests are logged" in refused.json()["error"]["message"]
    assert "waits for traffic" in site.http.get(f"/models/score/{version}", headers={"accept": "text/html"}).text
    ask(site, [0.5])
    path = f"/api/v1/promotions/{waits['id']}"
    came = wait_for(
        lambda: (p := site.http.get(path).json())["state"] not in ("waiting_traffic", "testing") and p, what="the gates"
    )
    assert came["state"] == "shadow", came["gates"]
    assert "agrees on 100.0% of 21 rows" in gate(came)["measured"]
    dossier = site.http.get(f"/approvals/{waits['id']}", headers={"accept": "text/html"}).text
    assert "Candidate beside the version 1" in dossier
    site.post(f"{path}/withdraw", {"comment": ""})


def test_what_diverges_or_breaks_on_logged_requests_does_not_pass(site: Site) -> None:
    turned = judged(site, site.register(-1.0)["version"], min_rows=1, max_disagreement=0.5)
    assert (turned["state"], turned["reason"]) == ("rejected", "failed: replay")
    ask(site, [70.0])
    broken = judged(site, register(site, picky(60), 0.25, 0.75), min_rows=1)
    assert broken["state"] == "rejected"
    assert "indices element out of da" in gate(broken)["measured"]
    assert not gate(broken)["passed"]


def test_a_server_that_is_killed_in_a_replay_and_in_the_integration_command_goes_on_with_both(tmp_path: Path) -> None:
    folder, begun, go = tmp_path / "data", tmp_path / "begun", tmp_path / "go"
    flags = ("--job-isolation", "off")
    wait = f"""
import pathlib, time
pathlib.Path({str(begun)!r}).touch()
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.05)
"""
    site = open_site(folder, *flags)

    def restart() -> None:
        site.server.stop(signal.SIGKILL)
        site.server = Server(folder, *flags)
        site.http = site.server.http

    try:
        ask(site, [SLOW] * 30)
        assert len(site.http.get("/api/v1/predictions?model=score").json()) == 30  # so it is on disk, too
        slow = register(site, counting(), 0.5, 1 / (1 + np.exp(-1.0)))
        integration = {"command": ["python", "-c", wait]}
        ok(site.http.put(POLICY, json={"replay": {"min_rows": 10}, "integration": integration}))
        promotion = site.post(f"/api/v1/models/score/versions/{slow}/promote")["id"]
        replays = f"/api/v1/models/score/versions/{slow}/replays"
        replay = site.post(replays)["id"]
        wait_for(lambda: site.http.get(f"{replays}/{replay}").json()["state"] == "running", what="the replay")
        assert site.http.get(f"/api/v1/promotions/{promotion}").json()["state"] == "testing"
        restart()
        found = wait_for(lambda: (r := site.http.get(f"{replays}/{replay}").json())["done_at"] and r, what="it")
        assert (found["state"], found["figures"][0]["agreed_share"]) == ("done", 1.0), found
        wait_for(begun.exists, what="the integration command")
        restart()
        go.touch()
        ended = wait_for(
            lambda: (p := site.http.get(f"/api/v1/promotions/{promotion}").json())["state"] != "integration" and p,
            what="its end",
        )
        assert ended["state"] == "shadow", [gate for gate in ended["gates"] if not gate["passed"]]
        assert [g["gate"] for g in ended["gates"]].count("integration") == 1
        assert gate(ended)["passed"]
        jobs = [job for job in site.http.get("/api/v1/jobs").json() if job["spec"]["name"].startswith("integration-")]
        assert [len(job["attempts"]) for job in jobs] == [1]
    finally:
        go.touch()
        site.server.stop()
