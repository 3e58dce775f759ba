"""A dataset build that is killed has made no version and no half file, and the next build is the same as if nothing had been."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa

from tests.conftest import Server, wait_for
from tests.store.test_ingest import as_parquet

DAYS, A_DAY = 40, 25_000


def rows() -> bytes:
    count = DAYS * A_DAY
    times = pa.array(np.arange(count) * (86_400_000_000 // A_DAY), pa.timestamp("us"))
    return as_parquet(pa.table({"event_time": times, "x": np.random.default_rng(0).random(count)}))


def test_a_killed_build_leaves_nothing_half_there(tmp_path: Path) -> None:
    data, body = tmp_path / "data", rows()
    server = Server(data)

    def send(url: str, token: str) -> None:
        with contextlib.suppress(httpx.HTTPError):  # it was killed
            httpx.post(
                f"{url}/api/v1/datasets/d/rows?format=parquet",
                content=body,
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
            )

    def kept() -> list[Path]:
        return [file for file in (data / "artifacts").glob("??/*") if len(file.parent.name) == 2]

    thread = threading.Thread(target=send, args=(server.url, server.token))
    thread.start()
    wait_for(lambda: len(kept()) > 2, what="some files of the build")
    server.stop(signal.SIGKILL)
    thread.join()
    assert len(kept()) < DAYS, "the build had ended before it was killed"
    server = Server(data)
    try:
        assert server.http.get("/api/v1/datasets").json() == []
        assert [*(data / "uploads").glob("*"), *(data / "artifacts" / "tmp").glob("*")] == []
        for file in kept():
            assert hashlib.sha256(file.read_bytes()).hexdigest() == file.parent.name + file.name
        made = server.http.post("/api/v1/datasets/d/rows?format=parquet", content=body, timeout=60).json()
        assert (made["version"], made["rows"], len(made["files"])) == (1, DAYS * A_DAY, DAYS)
        assert not any(one["error"] for one in server.http.get("/api/v1/datasets/d@v1/verify").json())
        assert {file["sha256"] for file in made["files"]} == {file.parent.name + file.name for file in kept()}
    finally:
        server.stop()
