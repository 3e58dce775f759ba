"""A collection that is killed has lost nothing that anything names, and the next one finishes it."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import threading
from pathlib import Path

import httpx

from tests.conftest import Server, wait_for

RUNS = 60


def test_a_killed_collection_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = Server(data)
    rng = random.Random(4)
    kept: dict[str, bytes] = {}
    gone: list[str] = []
    for number in range(RUNS):
        run = server.http.post("/api/v1/runs", json={"experiment": "e"}).json()["id"]
        own, shared = rng.randbytes(3000), f"shared {number // 2}".encode()
        for name, content in (("own", own), ("shared", shared)):
            assert server.http.put(f"/api/v1/runs/{run}/artifacts/{name}", content=content).status_code == 200
        points = [{"key": "m", "value": n, "step": n} for n in range(200)]
        assert server.http.post(f"/api/v1/runs/{run}/log", json={"metrics": points}).status_code == 204
        if number % 2:
            server.http.delete(f"/api/v1/runs/{run}")
            gone.append(hashlib.sha256(own).hexdigest())
        else:
            kept[run] = own
    places = [data / "artifacts" / digest[:2] / digest[2:] for digest in gone]
    body = {"older_than_days": 0, "grace_seconds": 0}

    def collect(url: str, token: str) -> None:
        with contextlib.suppress(httpx.HTTPError):  # it was killed
            httpx.post(f"{url}/api/v1/gc", json=body, headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def removed() -> int:
        return server.http.get("/api/v1/audit", params={"type": "experiment.run_removed", "limit": 1000}).text.count(
            "run_removed"
        )

    thread = threading.Thread(target=collect, args=(server.url, server.token))
    thread.start()
    wait_for(lambda: removed() > 3, what="some runs removed")
    server.stop(signal.SIGKILL)
    thread.join()
    server = Server(data)
    try:
        for run, own in kept.items():
            assert server.http.get(f"/api/v1/runs/{run}/artifacts/own").content == own
        done = server.http.post("/api/v1/gc", json=body).json()
        assert done["dry_run"] is False
        assert not any(place.exists() for place in places)
        for run, own in kept.items():
            assert server.http.get(f"/api/v1/runs/{run}/artifacts/own").content == own
            assert server.http.get(f"/api/v1/runs/{run}/artifacts/shared").status_code == 200
            assert len(server.http.get(f"/api/v1/runs/{run}/metrics/m").json()) == 200
        assert server.http.get("/api/v1/deleted").json() == []
        assert len(server.http.get("/api/v1/runs", params={"limit": 1000}).json()) == len(kept)
    finally:
        server.stop()
