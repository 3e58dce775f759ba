"""The client: what it asks, how it streams, and what it makes of answers that are not ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlbox.client import CHUNK, Client, error_of
from mlbox.errors import (
    InvalidInput,
    MlboxError,
    NotAuthenticated,
    NotFound,
    Refused,
    TimedOut,
    Unavailable,
)
from mlbox.records import Model, Principal, User
from tests.conftest import Server


class Strange(BaseHTTPRequestHandler):
    """A server that is no mlbox."""

    release: ClassVar[threading.Event] = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/slow":
            self.release.wait(60)
            return  # the client has hung up
        status, body = {"/html": (200, b"<html>"), "/down": (502, b"<html>proxy</html>")}.get(path, (302, b""))
        headers = {"Location": "/sso"} if status == 302 else {}
        if path == "/short":
            status, headers = 200, {}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + (10 if path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_PUT(self) -> None:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(len(self.rfile.read(size)))
            self.rfile.readline()
        self.rfile.readline()
        body = f'{{"chunks": {len(chunks)}, "size": {sum(chunks)}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def strange() -> Iterator[Client]:
    Strange.release.clear()
    with HTTPServer(("127.0.0.1", 0), Strange) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}", "t", timeout_seconds=5) as client:
            yield client
        Strange.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.token) as client:
        yield client


def test_it_reads_records_and_raises_the_servers_errors(client: Client) -> None:
    assert client.get("/api/v1/whoami", Principal).name == "admin"
    assert client.post("/api/v1/users", User, {"name": "ann", "role": "viewer"}).name == "ann"
    with pytest.raises(NotFound) as caught:
        client.get("/api/v1/models/none", dict)
    assert caught.value.hint
    with Client(client.url, "wrong") as stranger, pytest.raises(NotAuthenticated):
        stranger.get("/api/v1/whoami", Principal)


def test_pages_are_read_to_the_end(client: Client) -> None:
    for number in range(5):
        client.post("/api/v1/models", dict, {"name": f"model-{number}"})
    for limit in (1, 2, 5, 6):
        found = [model.name for model in client.pages("/api/v1/models", Model, key="name", limit=limit)]
        assert found == [f"model-{number}" for number in range(5)], limit


def test_a_file_goes_up_in_chunks_and_is_never_held_whole(strange: Client, tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(3 * CHUNK + 1)
    assert strange.upload("PUT", "/x", path, dict) == {"chunks": 4, "size": 3 * CHUNK + 1}
    with pytest.raises(InvalidInput, match="No such file"):
        strange.upload("PUT", "/x", tmp_path / "none", dict)


def test_a_file_goes_up_and_comes_down_whole(client: Client, tmp_path: Path) -> None:
    sent, received = tmp_path / "sent", tmp_path / "received"
    sent.write_bytes(bytes(range(256)) * 9000)
    run = client.post("/api/v1/runs", dict, {"experiment": "e"})["id"]
    client.upload("PUT", f"/api/v1/runs/{run}/artifacts/folder/a.bin", sent, dict)
    assert client.download(f"/api/v1/runs/{run}/artifacts/folder/a.bin", received) == sent.stat().st_size
    assert received.read_bytes() == sent.read_bytes()


def test_a_download_that_breaks_leaves_no_file(strange: Client, client: Client, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        strange.download("/short", tmp_path / "file")
    with pytest.raises(NotFound):
        client.download("/api/v1/runs/none/artifacts/a", tmp_path / "file")
    with pytest.raises(InvalidInput, match="cannot be written"):
        client.download("/version", tmp_path / "no" / "folder")
    assert list(tmp_path.glob("file*")) == []


def test_what_is_no_mlbox_is_told_in_words(strange: Client) -> None:
    with pytest.raises(NotAuthenticated, match="redirect to /sso"):
        strange.get("/anything", dict)
    with pytest.raises(MlboxError, match="does not understand"):
        strange.get("/html", dict)
    with pytest.raises(MlboxError, match="answered 502"):
        strange.get("/down", dict)


def test_a_slow_answer_is_a_timeout(strange: Client) -> None:
    with pytest.raises(TimedOut) as caught:
        strange.request("GET", "/slow", timeout_seconds=0.1)
    assert caught.value.exit_code == 124
    Strange.release.set()


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", "t") as client, pytest.raises(Unavailable, match="mlbox serve"):
        client.get("/version", dict)


@pytest.mark.parametrize("url", ["", "box", "box:8265", "ftp://box", "http://", "http://[::1", "http://box:port"])
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="address of a box") as caught:
        Client(url, "t")
    assert caught.value.field == "url"


def test_an_error_of_another_release_keeps_its_words_and_its_kind() -> None:
    told = error_of(403, b'{"error": {"code": "refused", "message": "No.", "hint": "Ask.", "field": "x"}}')
    assert (type(told), str(told), told.field) == (Refused, "No. Ask.", "x")
    new = error_of(404, b'{"error": {"code": "gone_fishing", "message": "Not here."}}')
    assert (type(new), str(new)) == (NotFound, "Not here.")
    assert type(error_of(418, b'{"error": {"code": "teapot", "message": "Short and stout."}}')) is MlboxError


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"\xff", b'{"error": "x"}', b'{"error": {"code": []}}', b'{"error": {"code": "refused"}}'],
)
def test_an_error_without_words_of_ours_is_told_by_its_status(body: bytes) -> None:
    assert isinstance(error_of(503, body), Unavailable)
    assert "answered 503" in str(error_of(503, body))
