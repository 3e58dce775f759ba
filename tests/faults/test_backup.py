"""A backup that is made while a box is written to is whole, proven, and serves as a box of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from mlbox.errors import Conflict, MlboxError
from mlbox.store import audit, backup
from tests.conftest import Server, wait_for

pytestmark = pytest.mark.slow
COLUMNS = [
    {"name": "who", "dtype": "STRING"},
    {"name": "amount", "dtype": "FP64"},
    {"name": "at", "dtype": "TIMESTAMP"},
]


class Seen(NamedTuple):
    """A box that goes on, and what it had acknowledged before its backup began."""

    server: Server
    path: Path
    runs: int
    rows: int
    backups: str
    ended: str
    """A job that printed something."""
    running: str


class Load:
    """Somebody who logs runs with files and loads rows without a pause."""

    def __init__(self, server: Server) -> None:
        self._http = httpx.Client(base_url=server.url, headers=dict(server.http.headers), timeout=60)
        self.runs = self.rows = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self.failed: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._http.close()

    def _go(self) -> None:
        while not self._end.is_set():
            number = self.runs
            made = self._ask("POST", "/api/v1/runs", json={"experiment": "load", "params": {"n": str(number)}})
            self._ask("PUT", f"/api/v1/runs/{made['id']}/artifacts/n.txt", content=f"file {number}".encode())
            self.runs += 1
            rows = f"who,amount,at\nu{number},{number},2026-01-01T00:00:00Z\n"
            self._ask("POST", "/api/v1/sources/spend/rows", params={"format": "csv"}, content=rows.encode())
            self.rows += 1

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self._http.request(method, path, **more)
        if answer.status_code >= 400:
            self.failed.append(answer.text)
            self._end.set()
        return answer.json() if answer.content else None


def _submit(server: Server, *command: str) -> str:
    made = server.http.post("/api/v1/jobs", json={"command": command})
    assert made.status_code == 201, made.text
    job: str = made.json()["id"]
    return job


def _state(server: Server, job: str) -> str:
    state: str = server.http.get(f"/api/v1/jobs/{job}").json()["state"]
    return state


def _stop(server: Server, job: str) -> None:
    server.http.post(f"/api/v1/jobs/{job}/stop")
    wait_for(lambda: _state(server, job) not in ("queued", "starting", "running", "stopping"), what="the job to stop")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    home = tmp_path_factory.mktemp("backup")
    server = Server(home / "data", "--backup-dir", str(home / "backups"))
    try:
        source = {"name": "spend", "columns": COLUMNS, "event_time": "at"}
        made = server.http.post("/api/v1/sources", json=source)
        assert made.status_code == 201, made.text
        ended = _submit(server, "echo", "printed")
        wait_for(lambda: _state(server, ended) == "succeeded", what="the job to end")
        running = _submit(server, "sleep", "600")
        wait_for(lambda: _state(server, running) == "running", what="the job to run")
        with Load(server) as load:
            wait_for(lambda: load.rows >= 3 or load.failed, what="some load")
            first = server.command("backup", "create", "-o", "id")
            assert first.returncode == 0, first.stderr
            wait_for(lambda: load.rows >= 6 or load.failed, what="more load")
            runs, rows = load.runs, load.rows
            second = server.command("backup", "create", "-o", "id")
            assert second.returncode == 0, second.stderr
        assert not load.failed
        yield Seen(server, Path(second.stdout.strip()), runs, rows, first.stdout.strip(), ended, running)
        _stop(server, running)
    finally:
        server.stop()


def test_the_restored_folder_serves_what_was_acknowledged_before(
    seen: Seen, tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    new = tmp_path / "restored"
    told = seen.server.command("backup", "restore", str(seen.path), "--data-dir", str(new))
    assert told.returncode == 0, told.stderr
    assert "mlbox serve" in told.stderr
    assert not (new / "admin-token").exists()
    (new / "admin-token").write_text(seen.server.token)  # for the test's own client: tokens are those of the other box
    server = make_server(data_dir=new)
    runs = server.http.get("/api/v1/runs", params={"limit": 1000}).json()
    assert len(runs) >= seen.runs
    for run in runs:
        files = server.http.get(f"/api/v1/runs/{run['id']}/artifacts")
        for file in files.json():
            got = server.http.get(f"/api/v1/runs/{run['id']}/artifacts/{file['path']}")
            assert (got.status_code, got.content.startswith(b"file ")) == (200, True)
    assert server.http.get("/api/v1/sources/spend").json()["rows"] >= seen.rows
    assert not [report for report in audit.verify(new) if report.problem]
    assert server.http.get("/readyz").status_code == 200
    assert server.http.get(f"/api/v1/jobs/{seen.ended}/logs").text == "printed\n"
    _stop(server, seen.running)  # what became of it here is not what it does there
    assert _state(seen.server, seen.running) == "running"
    events = seen.server.http.get("/api/v1/audit", params={"type": "box.backed_up"}).json()
    assert len(events) == 2


def test_on_standby_a_restored_box_answers_and_begins_nothing(
    seen: Seen, tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    new = tmp_path / "restored"
    backup.restore(seen.path, new)
    (new / "admin-token").write_text(seen.server.token)
    server = make_server("--standby", "on", data_dir=new)
    assert "On standby: nothing runs here by itself" in server.log
    assert "Standby:" in server.http.get("/", headers={"Accept": "text/html"}).text
    status = server.command("status", "-o", "json")
    assert json.loads(status.stdout)["standby"] is True
    assert status.stderr.startswith("On standby: nothing runs there by itself")
    assert server.http.get("/readyz").status_code == 200
    assert _state(server, seen.running) == "running"  # as it was; nobody looked for it
    waits = _submit(server, "echo", "later")
    server.stop()
    begun = datetime.now(UTC)
    again = make_server(data_dir=new)
    wait_for(lambda: _state(again, waits) == "succeeded", what="the job to run once it is no standby any more")
    (attempt,) = again.http.get(f"/api/v1/jobs/{waits}").json()["attempts"]
    assert attempt["started_at"] > begun.isoformat()
    status = again.command("status")
    assert (status.returncode, status.stderr) == (0, "")
    assert "standby      no" in status.stdout


def test_backups_are_listed_verified_and_share_what_did_not_change(seen: Seen) -> None:
    listed = json.loads(seen.server.command("backup", "ls", "-o", "json").stdout)
    assert [one["path"] for one in listed] == [str(seen.path), seen.backups]
    assert seen.server.command("backup", "verify", str(seen.path)).returncode == 0
    files = [path for path in (seen.path / "artifacts").rglob("*") if path.is_file()]
    assert files
    assert all(path.stat().st_nlink > 1 for path in files)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "tracking.sqlite").write_bytes(b"x"), "tracking.sqlite is not what it was"),
        (lambda folder: (folder / "jobs.sqlite").unlink(), "jobs.sqlite is missing"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"{"), "manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no backup"),
    ],
)
def test_a_damaged_backup_is_found_and_not_served(
    seen: Seen, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    copy = tmp_path / "copy"
    backup.restore(seen.path, copy)
    (copy / "manifest.json").write_bytes((seen.path / "manifest.json").read_bytes())
    assert backup.verify(copy).files == backup.verify(seen.path).files
    damage(copy)
    with pytest.raises(MlboxError, match=told):
        backup.verify(copy)
    with pytest.raises(MlboxError, match=told):
        backup.restore(copy, tmp_path / "new")
    assert not (tmp_path / "new" / "MLBOX_VERSION").exists()


def test_nothing_is_restored_over_something_else_or_outside_of_the_folder(seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(MlboxError, match="is not empty"):
        backup.restore(seen.path, tmp_path)
    forged = tmp_path / "forged"
    forged.mkdir()
    manifest = json.loads((seen.path / "manifest.json").read_text())
    manifest["files"] = {"../outside": {"size": 0, "sha256": "0" * 64}}
    (forged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Conflict, match="outside of the backup"):
        backup.restore(forged, tmp_path / "new")
