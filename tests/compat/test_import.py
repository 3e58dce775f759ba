"""What an MLflow server has is brought over whole: by its REST, after a kill, from a server that stumbles, through a folder."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.compat.conftest import HERE, MAJORS, environment, token_of
from tests.conftest import MLBOX, Server, unclaimed_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Peer(NamedTuple):
    """A real MLflow server with something in it."""

    url: str
    parent: str
    children: list[str]


@pytest.fixture(scope="module", params=MAJORS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    python = environment(f"mlflow-{request.param}")
    folder = tmp_path_factory.mktemp(f"mlflow-{request.param}")
    port = unclaimed_port()
    command = [
        *(str(python.with_name("mlflow")), "server", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")),
    ]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(url), what="mlflow", seconds=120)
        env = {**os.environ, "MLFLOW_TRACKING_URI": url, "PYTHONPATH": str(HERE / "scripts")}
        ran = subprocess.run(
            [str(python), "-m", "fill"], env=env, capture_output=True, text=True, cwd=folder, check=False, timeout=300
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        filled = next(line for line in ran.stdout.splitlines() if line.startswith("FILLED")).split()
        yield Peer(url, filled[1], filled[2:])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data")
    yield server
    server.stop()


def mlbox(server: Server, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command, as somebody."""
    env = {**os.environ, "MLBOX_URL": server.url, "MLBOX_TOKEN": token}
    return subprocess.run([str(MLBOX), *arguments], env=env, capture_output=True, text=True, check=False, timeout=300)


def lines_of(ran: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    assert ran.returncode == 0, ran.stderr
    return {line["kind"]: line for line in json.loads(ran.stdout)}


def check_whole(server: Server, peer: Peer, prefix: str = "") -> None:
    """Everything is there that the script logged."""
    for number, run_id in enumerate(peer.children):
        run = server.http.get(f"/api/v1/runs/{run_id}").json()
        there = httpx.get(f"{peer.url}/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
        assert (run["name"], run["status"]) == (f"child-{number}", "FINISHED")
        assert run["tags"]["mlflow.parentRunId"] == peer.parent
        assert run["tags"]["note"] == "ünï"
        here = server.http.get("/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
        for field in ("start_time", "end_time"):
            assert here["info"][field] == int(there["info"][field])
        assert here["inputs"]["dataset_inputs"][0]["dataset"]["name"] == "flights"
        for key in ("loss", "odd"):
            asked = {"run_id": run_id, "metric_key": key}
            points = [
                sorted(
                    (int(p.get("step", 0)), int(p["timestamp"]), repr(float(p["value"])))
                    for p in (
                        server.http.get("/api/2.0/mlflow/metrics/get-history", params=asked)
                        if base is server
                        else httpx.get(f"{peer.url}/api/2.0/mlflow/metrics/get-history", params=asked)
                    ).json()["metrics"]
                )
                for base in (server, peer)
            ]
            assert points[0] == points[1]
        file = server.http.get(f"/api/v1/runs/{run_id}/artifacts/files/a b/weights.bin").content
        original = httpx.get(f"{peer.url}/get-artifact", params={"run_id": run_id, "path": "files/a b/weights.bin"})
        assert file == original.content
        assert server.http.get(f"/api/v1/runs/{run_id}/artifacts/files/empty.txt").content == b""
    parent = server.http.get(f"/api/v1/runs/{peer.parent}").json()
    assert len(parent["params"]) == 120
    model = server.http.get(f"/api/v1/models/{prefix}flight-delay").json()
    assert model["purpose"] == "late or not"
    versions = server.http.get(f"/api/v1/models/{prefix}flight-delay/versions").json()
    assert [(v["version"], v["stage"]) for v in versions] == [(2, "None"), (1, "None")]
    assert versions[0]["tags"]["mlbox.imported_stage"] == "Production"
    assert (versions[1]["tags"]["quality"], versions[1]["aliases"]) == ("good", ["champion"])
    assert [v["run_id"] for v in versions] == [peer.children[2], peer.children[1]]


def test_an_mlflow_server_is_brought_over_whole_and_once(peer: Peer, fresh: Server) -> None:
    ann = token_of(fresh, "ann", "member")
    dry = mlbox(fresh, ann, "import", "mlflow", peer.url, "--dry-run", "-o", "json")
    assert lines_of(dry)["runs"]["found"] == 4
    assert fresh.http.get("/api/v1/runs").json() == []
    ran = mlbox(fresh, ann, "import", "mlflow", peer.url, "-o", "json")
    lines = lines_of(ran)
    assert (lines["runs"]["imported"], lines["versions"]["imported"]) == (4, 2), ran.stderr
    assert "was in Production" in ran.stderr
    assert "is flight-delay/2 here" in ran.stderr
    check_whole(fresh, peer)
    again = lines_of(mlbox(fresh, ann, "import", "mlflow", peer.url, "-o", "json"))
    assert {kind: (line["imported"], line["whole_before"]) for kind, line in again.items()} == {
        kind: (0, line["found"]) for kind, line in lines.items()
    }
    approver = token_of(fresh, "bea", "approver")
    other = mlbox(
        fresh, approver, "import", "mlflow", peer.url, "--experiment", "delay/v 2", "--model", "none", "-o", "json"
    )
    assert lines_of(other)["runs"]["whole_before"] == 4


def test_an_import_that_was_killed_goes_on(peer: Peer, fresh: Server) -> None:
    ann = token_of(fresh, "ann", "member")
    env = {**os.environ, "MLBOX_URL": fresh.url, "MLBOX_TOKEN": ann}
    first = subprocess.Popen(
        [str(MLBOX), "import", "mlflow", peer.url], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(fresh.http.get("/api/v1/runs").json()) >= 2, what="some runs", seconds=60)
    first.kill()
    first.wait()
    lines_of(mlbox(fresh, ann, "import", "mlflow", peer.url, "-o", "json"))
    check_whole(fresh, peer)


def test_a_server_that_stumbles_is_asked_again(peer: Peer, fresh: Server) -> None:
    ann = token_of(fresh, "ann", "member")
    with stumbling(peer.url) as url:
        lines = lines_of(mlbox(fresh, ann, "import", "mlflow", url, "-o", "json"))
    assert lines["runs"]["problems"] == 0
    check_whole(fresh, peer)


def test_a_box_is_exported_and_imported_into_another(peer: Peer, fresh: Server, tmp_path: Path) -> None:
    ann = token_of(fresh, "ann", "member")
    lines_of(mlbox(fresh, ann, "import", "mlflow", peer.url, "-o", "json"))
    folder = tmp_path / "export"
    written = mlbox(fresh, ann, "export", str(folder))
    assert written.returncode == 0, written.stderr
    second = Server(tmp_path / "second")
    try:
        bob = token_of(second, "bob", "member")
        second.http.post("/api/v1/teams", json={"name": "vision"}).raise_for_status()
        second.http.put("/api/v1/teams/vision/members/bob", json={"role": "member"}).raise_for_status()
        ran = mlbox(second, bob, "import", "folder", str(folder), "--into", "vision", "-o", "json")
        assert lines_of(ran)["runs"]["imported"] == 4
        check_whole(second, peer, "vision.")
        chained = tmp_path / "chained"
        assert mlbox(second, bob, "export", str(chained)).returncode == 0
        third = Server(tmp_path / "another")
        try:
            cid = token_of(third, "cid", "member")
            for imported in (4, 0):  # what an import left of itself at the source is not taken for this one's
                lines = lines_of(mlbox(third, cid, "import", "folder", str(chained), "-o", "json"))
                assert (lines["runs"]["imported"], lines["runs"]["found"]) == (imported, 4)
        finally:
            third.stop()
        (blob,) = list((folder / "blobs").glob("*/*"))[:1]
        blob.write_bytes(b"other")
        third = Server(tmp_path / "third")
        try:
            eve = token_of(third, "eve", "member")
            broken = mlbox(third, eve, "import", "folder", str(folder))
            assert broken.returncode != 0
            assert "is broken: it is not what was written" in broken.stderr
        finally:
            third.stop()
    finally:
        second.stop()


@contextlib.contextmanager
def stumbling(url: str) -> Iterator[str]:
    """A proxy that answers every fifth question with 503."""
    host = url.removeprefix("http://")
    count = iter(range(1 << 30))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(size)
            if next(count) % 5 == 4:
                self.send_response(503)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            connection = http.client.HTTPConnection(host, timeout=60)
            headers = {"content-type": self.headers["content-type"]} if body else {}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("content-type", answer.headers.get("content-type", "application/json"))
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_POST = _pass_on

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
