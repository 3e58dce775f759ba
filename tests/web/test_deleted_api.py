"""The bin over HTTP and on its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import Server


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("bin") / "data")
    yield server
    server.stop()


@pytest.fixture
def viewer(box: Server) -> Iterator[Callable[[], httpx.Client]]:
    made: list[httpx.Client] = []

    def of() -> httpx.Client:
        box.http.post("/api/v1/users", json={"name": "vic", "role": "viewer"})
        secret = box.http.post("/api/v1/tokens", json={"user": "vic", "name": "t"}).json()["secret"]
        made.append(httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {secret}"}, timeout=60))
        return made[-1]

    yield of
    for client in made:
        client.close()


def test_a_run_is_deleted_listed_restored_and_removed(box: Server, viewer: Callable[[], httpx.Client]) -> None:
    run = box.http.post("/api/v1/runs", json={"experiment": "delay"}).json()["id"]
    assert box.http.put(f"/api/v1/runs/{run}/artifacts/w.bin", content=b"w" * 5000).status_code == 200
    assert box.http.delete(f"/api/v1/runs/{run}").status_code == 204
    assert box.http.get("/api/v1/runs").json() == []
    (item,) = box.http.get("/api/v1/deleted").json()
    assert (item["id"], item["owner"], item["deleted_by"]) == (f"run:{run}", "delay", "admin")
    page = box.http.get("/deleted").text
    assert f"/api/v1/deleted/run%3A{run}/restore" in page
    assert "Free space now" in page
    other = viewer()
    assert other.post(f"/api/v1/deleted/run:{run}/restore").status_code == 403
    assert "Restore" not in other.get("/deleted").text.replace('<span class="visually-hidden">Restore</span>', "")
    assert other.post("/api/v1/gc", json={}).status_code == 403
    assert box.http.post(f"/api/v1/deleted/run:{run}/restore").status_code == 200
    assert len(box.http.get("/api/v1/runs").json()) == 1
    box.http.delete(f"/api/v1/runs/{run}")
    body = {"older_than_days": 0, "grace_seconds": 0}
    dry = box.http.post("/api/v1/gc", json={**body, "dry_run": True}).json()
    assert (dry["runs"], dry["files"]) == (1, 1)
    done = box.http.post("/api/v1/gc", json=body).json()
    assert (done["runs"], done["files"]) == (1, 1)
    assert done["bytes"] >= 5000
    assert box.http.get(f"/api/v1/runs/{run}").status_code == 404
    assert box.http.get("/api/v1/deleted").json() == []
    assert "Nothing was deleted" in box.http.get("/deleted").text


@pytest.mark.parametrize("item", ["run:x", "x", "job:1", "experiment:0", "run:" + "0" * 32])
def test_what_is_not_there_cannot_be_restored(box: Server, item: str) -> None:
    answer = box.http.post(f"/api/v1/deleted/{item}/restore")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
