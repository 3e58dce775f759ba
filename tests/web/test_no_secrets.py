"""A full run with every kind of secret, in right places and wrong ones; afterwards no log and no file holds any of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import msgspec
import pytest

from tests.conftest import Server, wait_for
from tests.web.served import ok

PASSWORD, WRONG = "correct horse battery staple 9", "wrong horse battery staple 7"
DATABASE, KEY = "p@ss/w0rd+of the database", "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END KEY-----\n"
PRINTS = """
import base64, json, os, sys, urllib.parse
value = os.environ["DATABASE"]
for text in (value, base64.b64encode(value.encode()).decode(), urllib.parse.quote(value, safe=""), json.dumps(dict(os.environ))):
    print(text)
    print(text, file=sys.stderr)
print(os.environ["KEY"])
open(sys.argv[1], "w").write(os.environ["MLBOX_TOKEN"])
"""


class Run:
    """A server that people and a job used, with all that they did wrong; `secrets` is what they used."""

    def __init__(self, server: Server, elsewhere: Path) -> None:
        self.server = server
        self.secrets: dict[str, str] = {"password": PASSWORD, "wrong password": WRONG, "database": DATABASE}
        self.secrets["password in an address"] = quote(PASSWORD)
        self.secrets |= {f"line {n} of the key": line for n, line in enumerate(KEY.split("\n")) if line}
        self.elsewhere = elsewhere
        self.ann = httpx.Client(base_url=server.url)
        self.nobody = httpx.Client(base_url=server.url)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.ann.close()
        self.nobody.close()

    def go(self) -> None:
        self._people()
        self._sessions()
        self._job()
        self._odd_places()
        self._fault()

    def _people(self) -> None:
        post = self.server.http.post
        ok(post("/api/v1/users", json={"name": "ann", "role": "member"}))
        made = ok(post("/api/v1/tokens", json={"user": "ann", "name": "laptop"}))
        self.token = self.secrets["token"] = made["secret"]
        self.ann.headers["Authorization"] = f"Bearer {self.token}"
        ok(self.ann.put("/api/v1/users/ann/password", json={"password": PASSWORD}))
        self._basic("ann", PASSWORD, 200)
        self._basic("ann", WRONG, 401)
        self._basic("ann", self.token, 200)
        revoked = ok(post("/api/v1/tokens", json={"user": "ann", "name": "gone"}))
        ok(self.server.http.delete(f"/api/v1/tokens/{revoked['id']}"))
        self.secrets["revoked token"] = revoked["secret"]
        answer = httpx.get(f"{self.server.url}/api/v1/runs", headers={"Authorization": f"Bearer {revoked['secret']}"})
        assert answer.status_code == 401

    def _basic(self, user: str, secret: str, status: int) -> None:
        pair = base64.b64encode(f"{user}:{secret}".encode()).decode()
        self.secrets[f"basic {status} {len(pair)}"] = pair
        answer = httpx.get(f"{self.server.url}/api/v1/whoami", headers={"Authorization": f"Basic {pair}"})
        assert answer.status_code == status, answer.text

    def _sessions(self) -> None:
        link = ok(self.server.http.post("/api/v1/users/ann/link"))["url"]
        self.secrets["login link"] = parse_qs(urlsplit(link).query)["once"][0]
        origin = {"Origin": self.server.url}
        with httpx.Client(base_url=self.server.url, headers=origin) as browser:
            assert browser.get(link).status_code == 200
            assert browser.post("/login", data={"once": self.secrets["login link"]}).status_code == 303
            self.secrets["session"] = next(iter(browser.cookies.jar)).value or ""
            assert browser.get("/jobs").status_code == 200
            assert browser.post("/login", data={"user": "ann", "token": WRONG}).status_code == 401
            assert browser.post("/login", data={"user": "ann", "token": PASSWORD}).status_code == 303
            self.secrets["second session"] = next(iter(browser.cookies.jar)).value or ""
        made = ok(httpx.post(f"{self.server.url}/api/v1/login", json={"user": "ann", "password": PASSWORD}))
        self.secrets["token for a password"] = made["secret"]

    def _job(self) -> None:
        for name, value in (("DATABASE", DATABASE), ("KEY", KEY)):
            ok(self.ann.post("/api/v1/secrets", json={"name": name, "value": value}))
        wanted = {"DATABASE": "DATABASE", "KEY": "KEY"}
        out = self.elsewhere / "token"
        command = ["python", "-c", PRINTS, str(out)]
        spec = {"command": command, "secrets": wanted, "memory_gb": 1}
        self.job = ok(self.ann.post("/api/v1/jobs", json=spec))["id"]
        path = f"/api/v1/jobs/{self.job}"
        job = wait_for(lambda: (j := self.ann.get(path).json())["ended_at"] and j, what="the job to end")
        assert job["state"] == "succeeded", self.ann.get(f"{path}/logs").text
        self.secrets["the job's token"] = out.read_text()
        self.secrets["database in base64"] = base64.b64encode(DATABASE.encode()).decode()
        self.secrets["database in an address"] = quote(DATABASE, safe="")
        assert self.ann.get(f"{path}/logs").text.count("***DATABASE***") >= 8
        ok(self.ann.post("/api/v1/secrets", json={"name": "DATABASE", "value": DATABASE + DATABASE}))
        ok(self.server.http.post("/api/v1/secrets/rotate-key"))

    def _odd_places(self) -> None:
        """Tokens and passwords where they do not belong: refused or not, they are in no log."""
        token = self.token
        for path in (
            f"/api/v1/whoami?token={token}",
            f"/api/v1/jobs?access_token={token}&password={quote(PASSWORD)}",
            f"/api/v1/jobs?user={token}",
            f"/api/v1/jobs/{token}",
            f"/api/v1/models/{token}/versions/1",
            f"/login?once={token}",
            f"/login/{PASSWORD}",
            f"/nowhere/{token}?api_key={quote(PASSWORD)}",
            f"/api/v1/runs?state={token}",
        ):
            for client in (self.ann, self.nobody):
                assert client.get(path).status_code < 500, path
        odd: list[tuple[str, dict[str, Any]]] = [
            ("/api/v1/jobs", {"json": {"command": token}}),
            ("/api/v1/jobs", {"json": {"command": ["true"], "memory_gb": 1e9, "name": "x"}}),
            ("/api/v1/users", {"json": {"name": f"{PASSWORD}!", "role": "member"}}),
            ("/api/v1/users", {"json": {"name": "x", "role": token}}),
            ("/api/v1/secrets", {"json": {"name": token + "!", "value": PASSWORD}}),
            ("/api/v1/secrets", {"content": f'{{"name": "A", "value": "{PASSWORD}"', "headers": {}}),
            ("/api/v1/login", {"json": {"once": token}}),
            ("/api/v1/login", {"json": {"user": "ann", "password": WRONG}}),
        ]
        for path, options in odd:
            headers = {"Content-Type": "application/json"}
            for client in (self.ann, self.nobody):
                assert client.post(path, **{**options, "headers": headers}).status_code < 500, path
        for headers in (
            {"X-Request-ID": token},
            {"Authorization": token},
            {"Authorization": f"Bearer {token} {PASSWORD}"},
            {"Authorization": f"Digest {token}"},
            {"Cookie": f"mlbox_session={token}"},
            {"X-Token": token, "Host": "evil.example"},
        ):
            assert httpx.get(f"{self.server.url}/api/v1/whoami", headers=headers).status_code < 500

    def _fault(self) -> None:
        """A fault of the server, asked for with a token in the address."""
        log = self.server.data_dir / "jobs" / self.job / "1" / "log"
        log.rename(log.with_name("log.kept"))
        log.mkdir()
        path = f"/api/v1/jobs/{self.job}/logs/search?text={self.token}"
        answer = self.ann.get(path)
        assert answer.status_code == 500
        self.fault = answer.headers["x-request-id"]
        assert f"under the request id {self.fault}" in answer.json()["error"]["hint"]


def _holders(secret: str, files: list[Path]) -> list[Path]:
    return [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_log_and_no_file_holds_a_secret(make_server: Callable[..., Server], tmp_path: Path, form: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log = tmp_path / "server.log"
    server = make_server("--log-level", "debug", "--log-format", form, "--log-file", str(log))
    with Run(server, elsewhere) as run:
        run.go()
    admin = server.token
    assert server.stop() == 0
    files = [path for path in (tmp_path).rglob("*") if path.is_file() and elsewhere not in path.parents]
    assert log in files
    assert server.log_path in files
    assert len(run.secrets) > 14
    assert all(len(secret) > 8 for secret in run.secrets.values())
    for name, secret in run.secrets.items():
        assert _holders(secret, files) == [], name
    assert _holders(admin, files) == [server.data_dir / "admin-token"]
    once = re.findall(r"/login\?once=(\S+)", server.log)[0]
    assert _holders(once, files) == [server.log_path], (
        "the first link is for whoever starts the server, on stderr alone"
    )
    content = log.read_text()
    assert "Traceback" in content
    assert "IsADirectoryError" in content
    if form == "json":
        lines = [msgspec.json.decode(line) for line in content.splitlines()]
        assert sum(line["logger"] == "mlbox.access" for line in lines) > 60
        of_fault = [line for line in lines if line.get("request_id") == run.fault]
        assert sorted(line["logger"] for line in of_fault) == ["mlbox.access", "mlbox.web.problems"]
        assert {line["principal"] for line in lines if "principal" in line} == {"admin", "ann"}
