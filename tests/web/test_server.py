"""The real server: what answers whom, and how it stops."""

import os
import socket
import stat
from pathlib import Path

import httpx

from tests import zygote
from tests.conftest import OVERDUE, Server


def test_health_and_version_answer_without_a_token_and_nothing_else(server: Server) -> None:
    for path in ("/livez", "/readyz", "/health", "/version"):
        assert httpx.get(server.url + path).status_code == 200, path
    for path in ("/", "/metrics", "/api/v1/schema/openapi.json", "/no-such-page", "/v2/models/x/infer"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 401, path
        if not path.startswith("/v2"):  # whose errors are a text
            assert answer.json()["error"]["code"] == "not_authenticated"


def test_a_browser_is_sent_to_the_sign_in_page(server: Server) -> None:
    answer = httpx.get(f"{server.url}/models", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/models")


def test_a_foreign_host_name_is_refused(server: Server) -> None:
    answer = httpx.get(f"{server.url}/livez", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "--allowed-host" in answer.json()["error"]["hint"]


def test_the_admin_token_is_for_the_owner_only(server: Server) -> None:
    mode = stat.S_IMODE((server.data_dir / "admin-token").stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    assert server.http.get("/api/v1/schema/openapi.json").status_code == 200


def test_bad_starts_end_in_one_line(tmp_path: Path, server: Server) -> None:
    taken = server.url.rsplit(":", 1)[1]
    (tmp_path / "file").touch()
    cases = {
        ("--port", taken, "--data-dir", str(tmp_path / "other")): ("cannot listen", 1),
        ("--data-dir", str(server.data_dir)): ("in use by another", 1),
        ("--data-dir", str(tmp_path / "file" / "sub")): ("cannot be used", 1),
        ("--port", "99999"): ("flag --port", 2),
        ("--replay-clock", "yesterday", "--data-dir", str(tmp_path / "new")): ("is not a time", 2),
    }
    for flags, (words, code) in cases.items():
        port = [] if "--port" in flags else ["--port", "0"]
        run = zygote.run(["serve", *flags, *port], env=os.environ, cwd=tmp_path)
        assert run.returncode == code, (flags, run.stderr)
        assert words in run.stderr
        assert run.stderr.count("\n") == 1, run.stderr


def test_sigterm_ends_the_server_at_once_and_cleanly(server: Server) -> None:
    assert server.stop() == 0
    assert OVERDUE not in server.log
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) != 0
