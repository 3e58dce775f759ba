"""What is on the wire: slow clients, endless headers and odd requests, over raw sockets to a real server with small limits."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server, wait_for

READ, WRITE = 0.5, 3.0  # a machine that is loaded may hold a reader up for a second
FLAGS = ("--read-timeout", str(READ), "--write-timeout", str(WRITE), "--max-header", "4096", "--max-connections", "20")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("wire") / "data", *FLAGS)
    yield server
    server.stop()


@pytest.fixture
def dial(box: Server) -> Iterator[Callable[[], socket.socket]]:
    """New connections, closed at the end; each waits at most a minute."""
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            url = httpx.URL(box.url)
            return stack.enter_context(socket.create_connection((url.host, url.port or 0), timeout=60))

        yield connect


def request(box: Server, method: str, path: str, *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {box.token}", *lines]
    return ("\r\n".join(head) + "\r\n\r\n").encode()


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


def error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def drip(connection: socket.socket, chunk: bytes) -> bytes:
    """Send a little again and again, as long as the server takes it; what it said in the end."""
    connection.settimeout(READ / 10)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(chunk)
                if answer := connection.recv(65536):
                    return answer
            except (ConnectionResetError, BrokenPipeError):
                pass
            return b""
    raise AssertionError("The server let itself be held for a minute.")


# -- too slow -----------------------------------------------------------------------------------------------------------


def test_who_connects_and_says_nothing_is_closed(dial: Callable[[], socket.socket]) -> None:
    assert read_all(dial()) == b""


def test_headers_that_drip_are_a_408(dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    status, error = error_of(drip(connection, b"X-A: b\r\n"))
    assert (status, error["code"], error["field"]) == (408, "request_timeout", "read_timeout")


def test_a_body_that_stops_is_a_408(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(
        request(box, "POST", "/api/v1/experiments", "Content-Type: application/json", "Content-Length: 99")
    )
    connection.sendall(b'{"name":')
    assert error_of(read_all(connection))[0] == 408


def test_a_body_that_drips_is_a_408_though_each_byte_comes_in_time(
    box: Server, dial: Callable[[], socket.socket]
) -> None:
    connection = dial()
    connection.sendall(request(box, "POST", "/api/v1/snapshots", "Content-Length: 100000"))
    assert error_of(drip(connection, b"x"))[0] == 408
    begun = box.data_dir / "artifacts" / "tmp"
    wait_for(lambda: not list(begun.iterdir()), what="what had come of it to be gone")


def test_a_chunked_body_that_drips_is_a_408(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(request(box, "POST", "/api/v1/snapshots", "Transfer-Encoding: chunked"))
    assert error_of(drip(connection, b"1\r\nx\r\n"))[0] == 408


def test_the_second_request_of_a_connection_is_watched_too(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(request(box, "GET", "/livez"))
    assert b"200" in connection.recv(65536)
    connection.sendall(b"GET /livez HTTP/1.1\r\n")
    assert error_of(read_all(connection))[0] == 408


def test_a_large_body_at_a_fair_pace_may_take_longer_than_the_timeout(
    box: Server, dial: Callable[[], socket.socket]
) -> None:
    connection, pieces = dial(), 12
    connection.sendall(request(box, "POST", "/api/v1/snapshots", f"Content-Length: {pieces * 1000}"))
    begin = time.monotonic()
    for _ in range(pieces):
        connection.sendall(b"x" * 1000)
        with contextlib.suppress(TimeoutError):
            connection.settimeout(READ / 6)
            early = connection.recv(65536)
            assert b" 201 " in early, early
            break
    assert time.monotonic() - begin > READ


def test_a_stream_without_news_is_not_slow(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(request(box, "GET", "/api/v1/events"))
    assert b" 200 " in connection.recv(65536)
    connection.settimeout(3 * READ)
    with contextlib.suppress(TimeoutError):  # it is silent, and it is open
        assert connection.recv(65536) != b""


def test_who_does_not_read_an_answer_is_cut_off(box: Server, dial: Callable[[], socket.socket]) -> None:
    run = new_run(box)
    size = 64 << 20  # more than a connection's buffers hold
    box.http.put(f"/api/v1/runs/{run}/artifacts/large.bin", content=bytes(size))
    connection = dial()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(request(box, "GET", f"/api/v1/runs/{run}/artifacts/large.bin"))
    assert b" 200 " in connection.recv(64)
    begin = time.monotonic()
    assert connections_of(box) == 1
    wait_for(lambda: connections_of(box) == 0, what="the connection to be cut off")
    assert time.monotonic() - begin > WRITE / 2


def test_who_reads_an_answer_slowly_but_surely_gets_all_of_it(box: Server, dial: Callable[[], socket.socket]) -> None:
    run = new_run(box)
    size = 8 << 20
    box.http.put(f"/api/v1/runs/{run}/artifacts/large.bin", content=bytes(size))
    connection = dial()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.sendall(request(box, "GET", f"/api/v1/runs/{run}/artifacts/large.bin", "Connection: close"))
    begin, found, pace = time.monotonic(), 0, threading.Event()
    while chunk := connection.recv(1 << 15):
        found += len(chunk)
        pace.wait(0.015)  # never set: this is how slow the reader is
    assert found > size
    assert time.monotonic() - begin > WRITE


def new_run(box: Server) -> str:
    return str(box.http.post("/api/v1/runs", json={"experiment": "e"}).json()["id"])


def connections_of(box: Server) -> int:
    """How many connections the server holds, besides our own client's."""
    port = int(box.url.rpartition(":")[2])
    box.http.close()
    box.http = httpx.Client(base_url=box.url, headers=dict(box.http.headers), timeout=60)
    with open(f"/proc/{box.process.pid}/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    inodes = {row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == "01"}
    return len(inodes)


# -- too much -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"X-A: " + b"a" * 100, b"x" * 100 + b": b", b"X-A: b"])
def test_headers_without_end_are_a_431(dial: Callable[[], socket.socket], line: bytes) -> None:
    connection = dial()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(2000):
            connection.sendall(line + b"\r\n")
    status, error = error_of(read_all(connection))
    assert (status, error["field"]) == (431, "max_header")


def test_one_header_without_end_is_a_431(dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(b"GET /" + b"x" * 100)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(200):
            connection.sendall(b"x" * 1000)
    assert error_of(read_all(connection))[0] == 431


def test_large_headers_of_a_second_request_in_the_same_packet_are_a_431(
    box: Server, dial: Callable[[], socket.socket]
) -> None:
    connection = dial()
    second = request(box, "GET", "/livez", "X-A: " + "a" * 5000)
    connection.sendall(request(box, "GET", "/livez"))
    assert b" 200 " in connection.recv(65536)
    connection.sendall(second)
    assert error_of(read_all(connection))[0] == 431


def test_many_requests_on_one_connection_are_no_large_header(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    for _ in range(100):
        connection.sendall(request(box, "GET", "/livez", "X-A: " + "a" * 1000))
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        assert b" 200 " in answer


def test_a_connection_too_many_is_a_429(make_server: Callable[..., Server]) -> None:
    server = make_server("--max-connections", "5")
    server.http.close()
    url = httpx.URL(server.url)
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection((url.host, url.port or 0), timeout=60)) for _ in range(12)
        ]
        told: list[tuple[int, dict[str, Any]]] = []

        def seven_are_told() -> bool:
            for connection in select.select(opened, [], [], 0)[0]:
                opened.remove(connection)
                told.append(error_of(connection.recv(65536)))
            return len(told) >= 7

        wait_for(seven_are_told, what="an answer to each connection past the limit")
        assert all((status, error["field"]) == (429, "max_connections") for status, error in told)
    wait_for(lambda: httpx.get(f"{server.url}/livez").status_code == 200, what="room for another")


# -- odd ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\nX: \x00\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_400_and_the_server_goes_on(
    box: Server, dial: Callable[[], socket.socket], sent: bytes
) -> None:
    connection = dial()
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    answer = read_all(connection)
    assert answer.split()[1] in (b"400", b"401", b"404"), answer
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert box.http.get("/livez").status_code == 200


def test_a_wish_for_another_protocol_is_answered_in_this_one(box: Server, dial: Callable[[], socket.socket]) -> None:
    connection = dial()
    connection.sendall(request(box, "GET", "/livez", "Connection: Upgrade", "Upgrade: websocket"))
    assert b" 200 " in connection.recv(65536)


def test_nothing_of_all_this_is_a_fault_in_the_log(box: Server) -> None:
    assert "Traceback" not in box.log
