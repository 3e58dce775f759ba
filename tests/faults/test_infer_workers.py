"""Inference in processes of its own, in the real server: one is killed under load, and no request is the worse for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server, wait_for
from tests.web.served import Site, ok, open_site, sigmoid, tensor

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


def metric(site: Site, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(site.http.get("/metrics").text)
    return sum(
        one.value
        for family in families
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    )


class Load:
    """Clients that ask until they are told to stop, and what they were answered with."""

    def __init__(self, site: Site, clients: int = 8) -> None:
        self._going = True
        self.answered = 0
        self._pool = ThreadPoolExecutor(clients)
        self._headers = {"Authorization": f"Bearer {site.server.token}"}
        self._url = f"{site.server.url}/v2/models/score/infer"
        self._asking = [self._pool.submit(self._ask, number) for number in range(clients)]

    def _ask(self, number: int) -> list[Any]:
        wrong = []
        with httpx.Client(headers=self._headers, timeout=60) as client:
            while self._going:
                answer = client.post(self._url, json={"inputs": [tensor(float(number))]})
                if answer.status_code != 200:
                    wrong.append(answer.text)
                elif abs(answer.json()["outputs"][0]["data"][0] - sigmoid(number)) > 1e-5:
                    wrong.append(answer.json())
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


def test_a_worker_is_killed_under_load_and_then_too_often(tmp_path: Path) -> None:
    site = open_site(tmp_path / "data", "--workers", "2")
    try:
        ok(site.infer(tensor(1.0)))
        first = wait_for(lambda: len(found := pids(site.server)) == 2 and found, what="two workers")
        load = Load(site)
        load.more()
        os.kill(min(first), signal.SIGKILL)
        load.more()
        wait_for(lambda: len(pids(site.server) - {min(first)}) == 2, what="the worker to be back")
        load.more()
        assert load.stop() == []
        assert site.server.process.poll() is None
        wait_for(lambda: metric(site, "mlbox_worker_restarts_total") >= 1, what="the restart to be counted")

        crashes = _kill_until_quarantined(site)
        answer = site.infer(tensor(1.0))
        assert (answer.status_code, "score/1 is in quarantine" in answer.json()["error"]) == (503, True)
        assert crashes >= 3
        (row,) = site.http.post("/v2/repository/index", json={}).json()
        assert (row["state"], "3 processes ended" in row["reason"]) == ("UNAVAILABLE", True)
        assert site.http.get("/v2/models/score/versions/1/ready").status_code == 503
        assert site.http.get("/api/v1/quarantine").json()[0]["version"] == 1
        member = site.user("mia", "member")
        path = "/api/v1/models/score/versions/1/release"
        assert site.http.post(path, headers=member).status_code == 403
        assert site.http.post(path).status_code == 204
        assert site.http.post(path).status_code == 404
        assert ok(site.infer(tensor(1.0)))["outputs"][0]["data"] == pytest.approx([sigmoid(1)], rel=1e-5)
        told = [event["type"] for event in site.http.get("/api/v1/audit", params={"subject": "model:score/1"}).json()]
        assert told[:2] == ["model.released", "model.quarantined"]
    finally:
        site.server.stop()
    assert pids(site.server) == set()


def _kill_until_quarantined(site: Site) -> float:
    """Kill workers until three of them were at work: one that is idle counts against nobody."""
    count: Callable[[], float] = lambda: metric(site, "mlbox_worker_crashes_total", model_name="score")  # noqa: E731
    load = Load(site, clients=16)
    try:
        while not site.http.get("/api/v1/quarantine").json():
            for pid in list(wait_for(lambda: pids(site.server), what="a worker"))[:1]:
                os.kill(pid, signal.SIGKILL)
    finally:
        load.stop()
    return count()
