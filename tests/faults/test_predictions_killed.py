"""The server is killed while it predicts: of the log only what was not flushed yet is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from mlbox.settings import Settings
from mlbox.web.box import Box
from tests.conftest import Server, wait_for
from tests.models import dividing
from tests.web.served import tensor
from tests.web.test_golden import serve

pytestmark = pytest.mark.slow
FLUSH = "0.2"


def test_a_kill_under_load_loses_no_more_than_the_last_flush(tmp_path: Path) -> None:
    """One client asks without a pause: what is there after the kill is all that it was answered up to some moment."""
    folder = tmp_path / "data"
    box = Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")
    serve(box, "dividing", dividing())
    box.close()
    server = Server(folder, "--log-flush", FLUSH)
    files = folder / "predictions" / "model=dividing" / "version=1"
    answered: list[str] = []
    at_flush: dict[str, int] = {}
    """By file of the log, how many were answered when it was seen first."""

    def flushes() -> int:
        for path in files.glob("*.parquet"):
            at_flush.setdefault(path.name, len(answered))
        return len(set(at_flush.values()))

    body = {"inputs": [tensor(3, shape=[1], datatype="INT64")]}
    try:
        with httpx.Client(headers={"Authorization": f"Bearer {server.token}"}, timeout=60) as client:
            for _ in range(200_000):
                answer = client.post(f"{server.url}/v2/models/dividing/infer", json=body)
                assert answer.status_code == 200, answer.text
                answered.append(answer.json()["parameters"]["prediction_id"])
                if len(answered) % 20 == 0 and flushes() >= 5:
                    break
        os.kill(server.process.pid, signal.SIGKILL)
        wait_for(lambda: server.process.poll() is not None, what="the server to die")
    finally:
        server.stop()
    with_log = Box(Settings(data_dir=str(folder), gpus="none"), url="http://localhost")
    kept = {row.id for row in with_log.predictions.recent("dividing", 1_000_000)}
    with_log.close()
    assert kept <= set(answered), "nothing is there that nobody was answered"
    there = [one in kept for one in answered]
    assert there == sorted(there, reverse=True), "what is gone is the newest"
    # What was answered by the third last look was taken at the latest by the flush whose file the last look saw.
    assert sum(there) >= sorted(set(at_flush.values()))[-3]
