"""The spool of a run: what was logged is there after a kill, is sent in order, and counts once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import mlbox
from mlbox.errors import Conflict, MlboxError
from mlbox.sdk import spool as spools
from mlbox.sdk.delivery import BATCH, _batches
from mlbox.sdk.spool import Spool, left_over
from tests import zygote
from tests.conftest import Server, wait_for


class SpoolMachine(RuleBasedStateMachine):
    """Against a list: whatever is added, taken, torn or reopened, the pending operations are those that were not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name) / "run"
        self.spool = Spool(self.folder)
        self.model: list[dict[str, Any]] = []
        self.count = 0

    @rule(size=st.integers(0, 200))
    def add(self, size: int) -> None:
        op = {"op": "log", "n": self.count, "fill": "x" * size}
        self.count += 1
        self.spool.add(op)
        self.model.append(op)

    @rule(share=st.floats(0, 1))
    def take(self, share: float) -> None:
        waiting = list(self.spool.pending())
        upto = round(share * len(waiting))
        if upto:
            self.spool.taken(waiting[upto - 1][0])
            del self.model[:upto]

    @rule(tear=st.binary(max_size=20).filter(lambda b: b"\n" not in b))
    def crash(self, tear: bytes) -> None:
        """The process is killed, perhaps in the middle of a line; another one opens the folder."""
        with (self.folder / "ops.jsonl").open("ab") as file:
            file.write(tear)
        self.spool._lock.close()
        self.spool._ops.close()
        self.spool = Spool(self.folder)

    @rule()
    def close(self) -> None:
        self.spool.close()
        assert self.folder.exists() == bool(self.model)
        self.spool = Spool(self.folder)

    @invariant()
    def nothing_is_lost_or_reordered(self) -> None:
        assert [op for _, op in self.spool.pending()] == self.model
        assert self.spool.empty == (not self.model)

    def teardown(self) -> None:
        self.spool.close()
        self.home.cleanup()


TestSpool = SpoolMachine.TestCase


@pytest.fixture(autouse=True)
def compact_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that files are emptied within a test."""
    monkeypatch.setattr(spools, "COMPACT_BYTES", 300)


def test_two_processes_do_not_send_one_spool(tmp_path: Path) -> None:
    held = Spool(tmp_path / "run")
    with pytest.raises(Conflict, match="Another process"):
        Spool(tmp_path / "run")
    held.close()
    Spool(tmp_path / "run").close()


def test_batches_keep_the_order_and_the_limit() -> None:
    points = [{"key": "m", "step": n} for n in range(2500)]
    ops: list[dict[str, Any]] = [{"op": "log", "metrics": points[n : n + 100]} for n in range(0, 2500, 100)]
    ops.insert(7, {"op": "artifact", "path": "x"})
    ops.insert(9, {"op": "log", "params": {"a": "1"}})
    ops.insert(10, {"op": "log", "params": {"a": "2"}})
    found = _batches(list(enumerate(ops, start=1)))
    assert [op for _, batch in found for op in batch] == ops
    assert [offset for offset, _ in found] == sorted(offset for offset, _ in found)
    assert found[-1][0] == len(ops)
    for _, batch in found:
        assert sum(len(op.get("metrics", ())) for op in batch) <= BATCH
        assert len(batch) == 1 or not any(op.get("params") for op in batch)


def environment(server: Server, spool: Path) -> dict[str, str]:
    return {**os.environ, "MLBOX_URL": server.url, "MLBOX_TOKEN": server.token, "MLBOX_SPOOL": str(spool)}


def test_what_a_killed_training_logged_is_sent_by_sync(server: Server, tmp_path: Path) -> None:
    script = """
import mlbox, os, signal, sys
import mlbox.sdk.runs as runs
runs.FLUSH_SECONDS = 3600
run = mlbox.run("delay")
print(run.id, flush=True)
for step in range(300):
    run.log({"valid/loss": 1 / (step + 1)}, step=step)
run.log_tags({"kind": "killed"})
run.artifact(b"weights", as_="model/w.bin")
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = environment(server, tmp_path / "spool")
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = done.stdout.strip()
    assert [path.name for path in left_over(tmp_path / "spool")] == [run]
    for _ in range(2):  # a second time there is nothing to do
        synced = zygote.run(["run", "sync"], env=env, cwd=tmp_path)
        synced.check_returncode()
    assert synced.stderr == "Nothing waits to be sent.\n"
    assert not left_over(tmp_path / "spool")
    steps = [p["step"] for p in server.http.get(f"/api/v1/runs/{run}/metrics/valid/loss?limit=1000").json()]
    assert steps == list(range(300))
    assert server.http.get(f"/api/v1/runs/{run}").json()["tags"] == {"kind": "killed"}
    assert server.http.get(f"/api/v1/runs/{run}/artifacts/model/w.bin").content == b"weights"


def test_a_run_begins_while_the_box_is_away(
    make_server: Callable[..., Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLBOX_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr("mlbox.sdk.runs.AWAY_SECONDS", 0.1)
    server = make_server()
    port = server.url.rsplit(":", 1)[1]
    server.stop(signal.SIGKILL)
    with mlbox.connect(server.url, server.token) as box:
        run = box.run("delay", params={"lr": 0.1})
        assert run.record is None
        run.log(step=1, loss=0.5)
        assert "the box does not answer" in capsys.readouterr().err
        again = make_server("--port", port, data_dir=server.data_dir)
        wait_for(lambda: run.record is not None, what="the run to be sent")
        run.end()
        found = again.http.get(f"/api/v1/runs/{run.id}").json()
    assert (found["status"], found["params"], found["metrics"]["loss"]["value"]) == ("FINISHED", {"lr": "0.1"}, 0.5)
    assert not left_over(tmp_path / "spool")


def test_what_the_box_refuses_is_said_and_kept_and_stops_nothing_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLBOX_SPOOL", str(tmp_path / "spool"))
    with mlbox.connect(server.url, server.token) as box:
        with box.run("delay", params={"lr": "0.1"}) as run:
            run.log(step=1, loss=0.5)
            run.log_params({"lr": "0.2"})
            run.log(step=2, loss=0.4)
        found = server.http.get(f"/api/v1/runs/{run.id}").json()
    assert (found["status"], found["params"], found["metrics"]["loss"]["step"]) == ("FINISHED", {"lr": "0.1"}, 2)
    said = capsys.readouterr().err
    assert "not taken" in said
    assert "lr" in said
    kept = (tmp_path / "spool" / run.id / "refused.jsonl").read_text()
    assert '"lr":"0.2"' in kept


def test_a_wrong_start_is_refused_at_once_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLBOX_SPOOL", str(tmp_path / "spool"))
    with mlbox.connect(server.url, server.token) as box, pytest.raises(MlboxError):
        box.run("no\nname")
    assert not list((tmp_path / "spool").iterdir())


def test_many_threads_log_and_nothing_is_lost(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBOX_SPOOL", str(tmp_path / "spool"))
    with mlbox.connect(server.url, server.token) as box:
        with box.run("delay") as run:

            def work(number: int) -> None:
                for step in range(400):
                    run.log({f"m{number}": step}, step=step)

            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for number in range(4):
            points = server.http.get(f"/api/v1/runs/{run.id}/metrics/m{number}?limit=1000").json()
            assert [p["step"] for p in points] == list(range(400))


def test_the_same_start_twice_is_one_run(server: Server) -> None:
    body = {"id": "0" * 31 + "1", "experiment": "delay", "params": {"a": "1"}}
    first, second = (server.http.post("/api/v1/runs", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert server.http.post("/api/v1/runs", json={**body, "experiment": "other"}).status_code == 409
    assert server.http.post("/api/v1/runs", json={**body, "id": "../x"}).status_code == 400
