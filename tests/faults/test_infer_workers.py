"""Inference in processes of its own, in the real server: one is killed under load, and no request is the worse for it."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlbox.settings import Settings
from mlbox.web.box import Box
from tests.conftest import Server, wait_for
from tests.models import dividing
from tests.serve.test_workers import FATAL
from tests.web.served import tensor
from tests.web.test_golden import serve

pytestmark = pytest.mark.slow


def pids(server: Server) -> set[int]:
    """Its workers: they are named so, and their parent is a child of the server."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == "mlbox-infer" and server.process.pid in _ancestors(folder):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def _ancestors(folder: Path) -> list[int]:
    found = []
    for _ in range(2):
        found.append(int((folder / "stat").read_text().rpartition(")")[2].split()[1]))
        folder = Path(f"/proc/{found[-1]}")
    return found


def metric(server: Server, name: str) -> float:
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    return sum(one.value for family in families for one in family.samples if one.name == name)


def asked(*values: int) -> dict[str, Any]:
    return {"inputs": [tensor(*values, shape=[len(values)], datatype="INT64")]}


INFER = "/v2/models/dividing/infer"


class Load:
    """Clients that ask until they are told to stop, and what they were answered with."""

    def __init__(self, server: Server, clients: int = 8) -> None:
        self._going = True
        self.answered = 0
        self._pool = ThreadPoolExecutor(clients)
        self._headers = {"Authorization": f"Bearer {server.token}"}
        self._url = server.url + INFER
        self._asking = [self._pool.submit(self._ask, number) for number in range(clients)]

    def _ask(self, number: int) -> list[Any]:
        wrong = []
        with httpx.Client(headers=self._headers, timeout=60) as client:
            while self._going:
                answer = client.post(self._url, json=asked(number, number + 1))
                if answer.status_code != 200 or answer.json()["outputs"][0]["data"] != [-number, -number - 1]:
                    wrong.append(answer.text)
                self.answered += 1
        return wrong

    def more(self) -> None:
        """Wait for another fifty answers."""
        upto = self.answered + 50
        wait_for(lambda: self.answered >= upto, what="answers under load")

    def stop(self) -> list[Any]:
        """What was answered otherwise than it should."""
        self._going = False
        self._pool.shutdown()
        return [wrong for asked in self._asking for wrong in asked.result()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Two workers, and a model in Production that one number kills."""
    box = Box(Settings(data_dir=str(tmp_path / "data"), gpus="none"), url="http://localhost")
    serve(box, "dividing", dividing())
    box.close()
    made = Server(tmp_path / "data", "--workers", "2")
    yield made
    made.stop()
    wait_for(lambda: not pids(made), what="the workers to end with the server")


def test_a_worker_is_killed_under_load_and_no_request_fails(server: Server) -> None:
    assert server.http.post(INFER, json=asked(3)).json()["outputs"][0]["data"] == [-3]
    first = wait_for(lambda: len(found := pids(server)) == 2 and found, what="two workers")
    load = Load(server)
    load.more()
    os.kill(min(first), signal.SIGKILL)
    load.more()
    wait_for(lambda: len(pids(server) - {min(first)}) == 2, what="the worker to be back")
    load.more()
    assert load.stop() == []
    assert server.process.poll() is None
    assert metric(server, "mlbox_worker_restarts_total") == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere that division is no trap")
def test_a_version_that_ends_its_workers_is_in_quarantine_until_an_admin_lets_it_go(server: Server) -> None:
    http = server.http
    refused = [http.post(INFER, json=asked(FATAL)) for _ in range(2)]
    assert [answer.status_code for answer in refused] == [503, 503]
    assert "twice, on this input" in refused[0].json()["error"]
    answer = http.post(INFER, json=asked(1))
    assert (answer.status_code, "dividing/1 is in quarantine" in answer.json()["error"]) == (503, True)
    assert metric(server, "mlbox_worker_crashes_total") == 3
    (row,) = http.post("/v2/repository/index", json={}).json()
    assert (row["state"], "3 processes ended" in row["reason"]) == ("UNAVAILABLE", True)
    assert http.get("/v2/models/dividing/versions/1/ready").status_code == 503
    assert [one["version"] for one in http.get("/api/v1/quarantine").json()] == [1]
    http.post("/api/v1/users", json={"name": "mia", "role": "member"}).raise_for_status()
    secret = http.post("/api/v1/tokens", json={"user": "mia", "name": "t"}).json()["secret"]
    path = "/api/v1/models/dividing/versions/1/release"
    assert http.post(path, headers={"Authorization": f"Bearer {secret}"}).status_code == 403
    assert [http.post(path).status_code for _ in range(2)] == [204, 404]
    assert http.post(INFER, json=asked(5)).json()["outputs"][0]["data"] == [-5]
    told = [event["type"] for event in http.get("/api/v1/audit", params={"subject": "model:dividing/1"}).json()]
    assert told[:2] == ["model.released", "model.quarantined"]
