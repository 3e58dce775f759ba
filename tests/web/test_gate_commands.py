"""A policy's commands judge a version in jobs: what passes, what does not, what hangs, what is restarted or withdrawn."""

from __future__ import annotations

import io
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, wait_for
from tests.web.served import Site, ok, open_site

POLICY = "/api/v1/models/score/policy"
CHECK = """
import os, pathlib
files = list(pathlib.Path(os.environ["MLBOX_MODEL_FILES"]).rglob("*"))
assert any(file.stat().st_size > 50 for file in files), files
print("looked at", os.environ["MLBOX_MODEL"], os.environ["MLBOX_MODEL_VERSION"])
"""
REPLAY = """
import json, os, urllib.error, urllib.request

def ask(path, body=None):
    request = urllib.request.Request(os.environ["MLBOX_URL"] + path, json.dumps(body).encode() if body else None)
    request.add_header("Authorization", "Bearer " + os.environ["MLBOX_TOKEN"])
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as err:
        return err.code, [err.read().decode()]

asked = [json.loads(line) for line in open(os.environ["MLBOX_REQUESTS"])]
for one in asked:
    code, (answer,) = ask(one["path"], one["body"])
    assert code == 200, answer
    assert answer["version"] == int(os.environ["MLBOX_MODEL_VERSION"]), answer
body = asked[0]["body"]
for path in ("score", "score@v1", "score@production"):
    assert ask(f"/api/v1/models/{path}/predict", body)[0] == 403, path
assert ask("/api/v1/models")[0] == 403
assert ask("/api/v1/models/score/predict", {**body, "version": 1})[0] == 403
print("asked", len(asked))
"""


def code(**files: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{name}.py")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


def python(line: str, **more: Any) -> dict[str, Any]:
    return {"command": ["python", "-c", line], **more}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = open_site(Path(tmp_path_factory.mktemp("gates") / "data"))
    yield site
    site.server.stop()


def set_policy(site: Site, **policy: Any) -> Any:
    return site.http.put(POLICY, json=policy)


def judged(site: Site, weight: float = 1.5) -> dict[str, Any]:
    """A new version's promotion, once its commands have ended; it is taken back for the next one."""
    version = site.register(weight)["version"]
    made = site.post(f"/api/v1/models/score/versions/{version}/promote")
    found = settled(site, made["id"])
    if found["state"] != "rejected":
        site.post(f"/api/v1/promotions/{made['id']}/withdraw", {"comment": ""})
    return found


def settled(site: Site, promotion: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = site.http.get(f"/api/v1/promotions/{promotion}").json()
        return None if found["state"] in ("testing", "integration") else found

    return wait_for(there, what="the gates to end")


def gates(promotion: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {gate["gate"]: gate for gate in promotion["gates"]}


def test_both_commands_pass_with_the_policys_code_and_the_champions_traffic(site: Site) -> None:
    sent = site.http.post("/api/v1/snapshots", content=code(check=CHECK, replay=REPLAY)).json()["sha256"]
    for amount in range(5):
        ok(site.http.post("/api/v1/models/score/predict", json={"features": [{"spend@v1:amount": amount}]}))
    test = {"command": ["python", "check.py"], "code": sent}
    kept = ok(set_policy(site, test=test, integration={"command": ["python", "replay.py"], "code": sent}))
    assert kept["integration"]["code"] == sent
    promotion = judged(site)
    found = gates(promotion)
    assert promotion["state"] == "shadow", (found["test"], found["integration"])
    assert found["integration"]["measured"].endswith("5 requests to replay, from logged traffic of version 1")
    assert found["test"]["required"] == "`python check.py` exits with 0 within 1800 s"
    job = site.http.get(f"/api/v1/jobs/{found['integration']['job']}").json()
    assert (job["state"], job["user"], job["spec"]["snapshot"]) == ("succeeded", "admin", sent)
    kept = site.http.get(f"/api/v1/promotions/{promotion['id']}/dossier").json()
    assert f"looked at score {promotion['version']}" in kept["test"]["log"]
    assert (kept["integration"]["log"].strip(), kept["integration"]["exit_code"]) == ("asked 5", 0)
    page = site.http.get(f"/approvals/{promotion['id']}", headers={"accept": "text/html"}).text
    assert f"/jobs/{found['test']['job']}" in page
    assert "asked 5" in page


def test_of_a_command_that_fails_its_exit_code_and_its_last_words_are_told(site: Site) -> None:
    ok(set_policy(site, test=python("print('seven of nine hold'); raise SystemExit(3)")))
    promotion = judged(site)
    assert (promotion["state"], promotion["reason"]) == ("rejected", "failed: test")
    assert gates(promotion)["test"]["measured"].startswith("exit code 3 after ")
    assert "it said last: seven of nine hold" in gates(promotion)["test"]["measured"]
    assert gates(promotion)["latency"]["passed"]


def test_a_command_in_staging_that_fails_takes_the_version_out_of_it(site: Site) -> None:
    ok(set_policy(site, integration={"command": ["no-such-program"]}))
    promotion = judged(site)
    assert (promotion["state"], promotion["reason"]) == ("rejected", "failed: integration")
    assert "no-such-program cannot be run" in gates(promotion)["integration"]["measured"]
    stage = site.http.get(f"/api/v1/models/score/versions/{promotion['version']}").json()["stage"]
    assert stage == "None"


def test_a_command_that_hangs_is_ended_by_its_timeout_which_is_told(site: Site) -> None:
    ok(set_policy(site, test=python("import time; time.sleep(3600)", timeout_seconds=1)))
    promotion = judged(site)
    assert promotion["state"] == "rejected"
    assert gates(promotion)["test"]["measured"].startswith("ran out of time after ")
    job = site.http.get(f"/api/v1/jobs/{gates(promotion)['test']['job']}").json()
    assert job["state"] == "timed_out"


def test_a_promotion_that_is_withdrawn_stops_its_command(site: Site) -> None:
    ok(set_policy(site, integration=python("import time; time.sleep(3600)")))
    version = site.register(2.0)["version"]
    made = site.post(f"/api/v1/models/score/versions/{version}/promote")
    job = wait_for(lambda: running(site, made["id"], "integration"), what="the command to run")
    assert ok(site.http.post(f"/api/v1/promotions/{made['id']}/withdraw", json={"comment": ""}))["state"] == "withdrawn"
    ended = wait_for(lambda: (j := site.http.get(f"/api/v1/jobs/{job}").json())["ended_at"] and j, what="its end")
    assert (ended["state"], ended["reason"]) == ("stopped", "its promotion has ended")


def running(site: Site, promotion: str, gate: str) -> str | None:
    """The job of a promotion's command, once it runs."""
    reason = site.http.get(f"/api/v1/promotions/{promotion}").json()["reason"]
    if not reason.startswith(f"the {gate} command runs as the job "):
        return None
    job = site.http.get(f"/api/v1/jobs/{reason.rpartition(' ')[2]}")
    return job.json()["id"] if job.status_code == 200 and job.json()["state"] == "running" else None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"command": []}, "has no words"),
        (python("1", timeout_seconds=0), "may run 0 s"),
        (python("1", code="gates"), "is no SHA-256"),
        (python("1", code="0" * 64), "cannot run"),
        (python("1", cpus=4096), "cannot run"),
    ],
)
@pytest.mark.parametrize("gate", ["test", "integration"])
def test_a_policy_whose_command_can_never_run_is_refused(
    site: Site, gate: str, command: dict[str, Any], words: str
) -> None:
    refused = set_policy(site, **{gate: command})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, gate), refused.text
    assert words in refused.json()["error"]["message"]


def test_a_server_that_is_killed_in_the_middle_of_a_command_finds_its_job_again(tmp_path: Path) -> None:
    folder, begun, go = tmp_path / "data", tmp_path / "begun", tmp_path / "go"
    site = open_site(folder, "--job-isolation", "off")
    wait = f"""
import pathlib, time
pathlib.Path({str(begun)!r}).touch()
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.05)
"""
    try:
        ok(set_policy(site, test=python(wait)))
        version = site.register(2.0)["version"]
        made = site.post(f"/api/v1/models/score/versions/{version}/promote")
        wait_for(begun.exists, what="the command to run")
        job = running(site, made["id"], "test")
        began = wait_for(lambda: site.http.get(f"/api/v1/jobs/{job}").json()["attempts"], what="its attempt")
        site.server.stop(signal.SIGKILL)
        site.server = Server(folder, "--job-isolation", "off")
        site.http = site.server.http
        go.touch()
        promotion = settled(site, made["id"])
        assert promotion["state"] == "shadow", [gate for gate in promotion["gates"] if not gate["passed"]]
        assert gates(promotion)["test"]["job"] == job
        after = site.http.get(f"/api/v1/jobs/{job}").json()
        assert (len(after["attempts"]), after["attempts"][0]["pid"]) == (1, began[0]["pid"])
    finally:
        go.touch()
        site.server.stop()
