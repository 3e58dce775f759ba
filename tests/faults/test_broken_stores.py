"""A broken store degrades what needs it, says so by name, and is never recreated in silence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Server


def test_a_broken_offline_store_takes_only_its_own_endpoints_down(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    first = make_server()
    column = {"name": "moment", "dtype": "TIMESTAMP"}
    source = {"name": "s", "columns": [column], "event_time": "moment"}
    assert first.http.post("/api/v1/sources", json=source).status_code == 201
    rows = b"moment\n2026-01-01T00:00:00Z\n"
    assert first.http.post("/api/v1/sources/s/rows", params={"format": "csv"}, content=rows).status_code == 201
    assert first.stop() == 0

    store = first.data_dir / "offline.duckdb"
    broken = b"no database" * 1000
    store.write_bytes(broken)
    again = make_server(data_dir=first.data_dir, ready=False)
    answer = again.http.get("/readyz")
    assert answer.status_code == 503
    stores = answer.json()["stores"]
    assert stores.pop("offline").startswith("down: ")
    assert set(stores.values()) == {"ok"}
    refused = again.http.post("/api/v1/features/materialize", json={})
    assert again.http.get("/api/v1/sources/s").status_code == 503
    assert refused.status_code in (200, 503)
    for path in ("/livez", "/api/v1/runs", "/api/v1/jobs", "/api/v1/models", "/api/v1/audit"):
        assert again.http.get(path).status_code == 200, path
    assert store.read_bytes() == broken


ROOMS = {
    "tracking": "/api/v1/runs",
    "features": "/api/v1/features/views",
    "datasets": "/api/v1/datasets",
    "registry": "/api/v1/models",
    "monitoring": "/api/v1/alerts",
    "secrets": "/api/v1/secrets",
    "jobs": "/api/v1/jobs",
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a server that was there once."""
    server = Server(tmp_path_factory.mktemp("stopped") / "data")
    assert server.stop() == 0
    return server.data_dir


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_whose_file_is_broken_at_the_start_is_down_alone(
    room: str, stopped: Path, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    data_dir = shutil.copytree(stopped, tmp_path / "data")
    store = data_dir / f"{room}.sqlite"
    for beside in data_dir.glob(f"{room}.sqlite-*"):
        beside.unlink()
    broken = b"no database" * 1000
    store.write_bytes(broken)
    again = make_server(data_dir=data_dir, ready=False)
    answer = again.http.get("/readyz")
    assert answer.status_code == 503
    stores = answer.json()["stores"]
    assert room in stores.pop(room)
    assert set(stores.values()) == {"ok"}, stores
    for other, path in ROOMS.items():
        got = again.http.get(path)
        if other == room:
            assert (got.status_code, got.json()["error"]["code"]) == (503, "unavailable"), got.text
            assert f"{room}.sqlite" in got.json()["error"]["hint"]
        else:
            assert got.status_code == 200, (other, got.text)
    assert again.http.get("/", headers={"Accept": "text/html"}).status_code in (200, 503)
    assert store.read_bytes() == broken
    assert again.stop() == 0
