"""A job outlives a kill -9 of the server, and ends as succeeded under the next one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from mlbox.records import Job
from tests.conftest import Server, unclaimed_port, wait_for


def job_of(server: Server, job_id: str) -> Job:
    return msgspec.json.decode(server.http.get(f"/api/v1/jobs/{job_id}").content, type=Job)


def test_a_job_survives_a_kill_of_the_server(make_server: Callable[..., Server], tmp_path: Path) -> None:
    flag = tmp_path / "go"
    script = f"echo began; while [ ! -e {flag} ]; do sleep 0.1; done; echo ended"
    port = str(unclaimed_port())  # the same again, as a real server has
    server = make_server("--port", port)
    answer = server.http.post("/api/v1/jobs", json={"command": ["sh", "-c", script], "memory_gb": 1})
    job_id = answer.json()["id"]
    wait_for(lambda: "began" in server.http.get(f"/api/v1/jobs/{job_id}/logs").text, what="the job to begin")
    pid = wait_for(lambda: job_of(server, job_id).attempts[0].pid, what="the job to run")

    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    os.kill(pid, 0)  # its shim lives on

    again = make_server("--port", port, data_dir=server.data_dir)
    assert job_of(again, job_id).state == "running"
    flag.touch()
    done = wait_for(lambda: (j := job_of(again, job_id)).ended_at is not None and j, what="the job to end")
    assert (done.state, done.exit_code, len(done.attempts)) == ("succeeded", 0, 1)
    assert again.http.get(f"/api/v1/jobs/{job_id}/logs").text == "began\nended\n"
