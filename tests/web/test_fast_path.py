"""The fast path against the app: two servers over the same state, one with it and one without, get the same bytes and answer the
same bytes, but for dates and ids."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import shutil
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mlbox.store.access.roles import ACTIONS
from mlbox.web.app import ADAPTERS
from mlbox.web.fast.routes import Table
from tests.conftest import Server, wait_for
from tests.web.served import open_site, tensor

INFER, PREDICT = "/v2/models/score/infer", "/api/v1/models/score/predict"
JOBS, JOB = "/api/v1/jobs", {"command": ["true"], "seed": 7, "gpus": 0, "cpus": 0.1, "memory_gb": 0.1}
FEAST, ONLINE = "/feast/get-online-features", "/api/v1/features/online"
TENSOR = {"inputs": [tensor(1.5)]}
BY_ID = {"inputs": [tensor("u3", shape=[1], datatype="BYTES", name="who")]}
ASKED = {"features": ["spend:amount"], "entities": {"who": ["u1", "u19", "nobody"]}}
KNOWN = {"features": ["spend:amount"], "entities": [{"who": "u1"}, {"who": "nobody"}]}
PLAIN: list[tuple[str, Any]] = [
    (INFER, TENSOR),
    (INFER, BY_ID),
    ("/v2/models/score/versions/1/infer", TENSOR),
    (FEAST, ASKED),
    (ONLINE, KNOWN),
    (PREDICT, {"entities": [{"who": "u1"}]}),
    (PREDICT, {"features": [{"amount": 2.0}]}),
]
_DATE = re.compile(rb"date: [^\r]*\r\n")
_REQUEST_ID = re.compile(rb"(x-request-id: |request id )[0-9a-f]+-[0-9a-f]+")
_CREATED = re.compile(rb'"created_at":"[^"]*"')
_ID = re.compile(rb"0[0-9a-f]{11}7[0-9a-f]{3}[89ab][0-9a-f]{15}")


class Wire:
    """One connection to one server."""

    def __init__(self, server: Server, who: str) -> None:
        url = httpx.URL(server.url)
        self.socket = socket.create_connection((url.host, url.port or 0), timeout=60)
        self.who = who
        self._rest = b""

    def request(
        self, path: str, body: Any = None, *lines: str, method: str = "POST", version: str = "1.1", bare: bool = False
    ) -> bytes:
        """A request's bytes; `bare` has only the lines that are given."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        own = ["Host: localhost", f"Authorization: Bearer {self.who}"]
        own += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        head = [f"{method} {path} HTTP/{version}", *([] if bare else own), *lines]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + content

    def answer(self) -> bytes:
        """The next answer, as it is, with its body."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                return self._all()
        head, _, rest = self._rest.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            self._rest = rest
            return head + b"\r\n\r\n" + self.answer()
        found = re.search(rb"content-length: (\d+)", head)
        size = int(found[1]) if found else 0
        while len(rest) < size and self._more():
            rest = self._rest.partition(b"\r\n\r\n")[2]
        self._rest = rest[size:]
        return head + b"\r\n\r\n" + rest[:size]

    def _more(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            if chunk := self.socket.recv(65536):
                self._rest += chunk
                return True
        return False

    def _all(self) -> bytes:
        found, self._rest = self._rest, b""
        return found + b"<closed>"


Talk = Callable[[Wire], Sequence[bytes]]


class Pair:
    """The same state behind two servers."""

    def __init__(self, folder: Path, *more: str) -> None:
        site = open_site(folder / "data")
        site.user("vera", "viewer")
        self.viewer = site.user("vic", "viewer")["Authorization"].removeprefix("Bearer ")
        site.server.stop()
        shutil.copytree(folder / "data", folder / "other")
        flags = ("--max-body", str(256 * 1024), "--allowed-host", "known.example", "--trusted-proxy", "127.0.0.1")
        self.fast = Server(folder / "data", *flags, "--fast-path", "on")
        self.slow = Server(folder / "other", *flags, *more, "--fast-path", "off")
        self.token = self.fast.token
        for path, body in PLAIN * 2:  # models loaded, features resolved, credentials known
            self.alike(ask((path, body)))

    def alike(self, talk: Talk, *, who: str | None = None) -> list[bytes]:
        """Have the same talk with both; what was answered, without dates and ids, which must be the same."""
        answers = []
        for server in (self.fast, self.slow):
            wire = Wire(server, who or self.token)
            with contextlib.closing(wire.socket):
                answers.append([normal(answer) for answer in talk(wire)])
        assert answers[0] == answers[1]
        return answers[0]

    def ways(self) -> dict[str, float]:
        """How many requests the fast path answered, and how many it handed over."""
        page = self.fast.http.get("/metrics").text
        samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
        return {s.labels["way"]: s.value for s in samples if s.name == "mlbox_fast_path_requests_total"}


def normal(answer: bytes) -> bytes:
    """An answer without what differs between two of the same, and unpacked."""
    head, end, body = answer.partition(b"\r\n\r\n")
    for encoding, unpack in ((b"gzip", gzip.decompress), (b"deflate", zlib.decompress)):
        if b"content-encoding: " + encoding in head:
            head, body = re.sub(rb"content-length: \d+", b"content-length: N", head), unpack(body)
    found = _REQUEST_ID.sub(rb"\1ID", _DATE.sub(b"", head + end + body))
    return _ID.sub(b"<id>", _CREATED.sub(b'"created_at":null', found))


def ask(*requests: tuple[str, Any], lines: Sequence[str] = (), **options: Any) -> Talk:
    """One request after the other, on one connection."""

    def talk(wire: Wire) -> list[bytes]:
        answers = []
        for path, body in requests:
            wire.socket.sendall(wire.request(path, body, *lines, **options))
            answers.append(wire.answer())
        return answers

    return talk


def raw(content: Callable[[Wire], bytes], answers: int = 1) -> Talk:
    """Bytes in one go, and so many answers."""

    def talk(wire: Wire) -> list[bytes]:
        wire.socket.sendall(content(wire))
        return [wire.answer() for _ in range(answers)]

    return talk


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


WORKERS = pytest.param(("--workers", "2"), id="workers", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param((), id="inside"), WORKERS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The second server runs models in itself, or in processes of their own."""
    made = Pair(tmp_path_factory.mktemp("fast"), *request.param)
    yield made
    made.fast.stop()
    made.slow.stop()


# -- what is fast ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), PLAIN)
def test_a_plain_request_is_answered_by_the_fast_path_alone(pair: Pair, path: str, body: Any) -> None:
    before = pair.ways()
    answers = pair.alike(ask(*[(path, body)] * 4))
    assert [status(answer) for answer in answers] == [200] * 4
    after = pair.ways()
    assert (after["fast"] - before["fast"], after["app"] - before["app"]) == (4, 0)


def test_a_job_is_submitted_by_the_fast_path_alone(pair: Pair) -> None:
    before = pair.ways()
    answers = pair.alike(ask(*[(JOBS, JOB)] * 3))
    assert [status(answer) for answer in answers] == [201] * 3
    after = pair.ways()
    assert (after["fast"] - before["fast"], after["app"] - before["app"]) == (3, 0)


def test_jobs_that_come_at_once_are_each_answered_as_if_alone(pair: Pair) -> None:
    bodies = [
        JOB | {"tags": {"number": str(number)}} if number % 3 else JOB | {"queue": "none"} for number in range(12)
    ]
    for server in (pair.fast, pair.slow):
        answers = at_once(server, pair.token, [(JOBS, body) for body in bodies])
        assert [status(answer) for answer in answers] == [201 if number % 3 else 404 for number in range(12)]
        specs = [json.loads(answer.partition(b"\r\n\r\n")[2]).get("spec", {}) for answer in answers]
        assert [spec.get("tags", {}).get("number") for spec in specs] == [
            str(number) if number % 3 else None for number in range(12)
        ]


def test_every_fast_path_is_a_handler_of_the_app() -> None:
    handlers = [id(handler) for adapter in ADAPTERS for handler in adapter.handlers]
    fast = [one for adapter in ADAPTERS for one in getattr(adapter, "fast", ())]
    assert len(fast) >= 4
    assert all(id(one.handler) in handlers for one in fast)
    table = Table(fast)
    found = table.find(b"POST", b"/v2/models/a.b-c@prod/versions/12/infer")
    assert found is not None
    assert found.parameters == {"model": "a.b-c@prod", "version": 12}
    for target in (b"/v2/models/a/infer?x=1", b"/v2/models/a%20b/infer", b"/v2/models//infer", b"/v2/models/a/infer/"):
        assert table.find(b"POST", target) is None
    assert table.find(b"GET", b"/v2/models/a/infer") is None


def test_a_handler_whose_role_depends_on_an_owner_cannot_be_fast() -> None:
    fast = next(one for adapter in ADAPTERS for one in getattr(adapter, "fast", ()))
    owned = next(
        handler
        for adapter in ADAPTERS
        for handler in adapter.handlers
        if ACTIONS.get(handler.opt.get("action"), ACTIONS["box.read"]).where == "owner"
    )
    with pytest.raises(LookupError, match="owner"):
        Table([fast._replace(handler=owned)])


# -- the wire -------------------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_and_its_requests_may_differ(pair: Pair) -> None:
    pair.alike(ask(*PLAIN, *PLAIN, ("/v2/models/score/infer", {"inputs": []}), *PLAIN))


def test_pipelined_requests_are_answered_in_their_order(pair: Pair) -> None:
    def many(wire: Wire) -> bytes:
        others = [wire.request("/livez", method="GET"), wire.request("/v2/models/score/ready", method="GET")]
        return b"".join([wire.request(path, body) for path, body in PLAIN] + others) * 3

    answers = pair.alike(raw(many, 3 * (len(PLAIN) + 2)))
    assert {status(answer) for answer in answers} == {200}


def test_pipelined_requests_wait_for_a_large_one_before_them(pair: Pair) -> None:
    """The large one is answered in a thread."""
    large = {"id": "large", "inputs": [tensor(*map(float, range(5000)))]}

    def many(wire: Wire) -> bytes:
        parts = [wire.request(INFER, large), wire.request(INFER, {**TENSOR, "id": "small"}), wire.request(FEAST, ASKED)]
        return b"".join(parts) * 2

    answers = pair.alike(raw(many, 6))
    assert [b'"id":"large"' in answer for answer in answers] == [True, False, False] * 2


def binary(number: float, *, said: int = 4, name: str = "input", **more: Any) -> tuple[bytes, str]:
    """A request in binary, and the header that says how long its JSON is."""
    given = {"name": name, "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": said}}
    head = json.dumps({"inputs": [given], **more}).encode()
    return head + struct.pack("<f", number), f"Inference-Header-Content-Length: {len(head)}"


CROWD: list[tuple[str, Any, int]] = [
    (INFER, TENSOR, 200),
    (INFER, {"inputs": [tensor(3.5)]}, 200),
    (INFER, {"inputs": [tensor(1e39)]}, 400),
    (INFER, {"inputs": [tensor(1.0)], "strange": 1}, 200),
    (INFER, {"inputs": [{**tensor(1.0), "data": [[2.0]]}]}, 200),
    (INFER, {"inputs": [{**tensor(1.0), "parameters": {"binary_data_size": 4}}]}, 400),
    (INFER, {"inputs": [tensor("u5", shape=[1], datatype="BYTES", name="who")]}, 200),
    (INFER, {"inputs": [tensor(5, shape=[1], datatype="INT64", name="who")]}, 400),
    (PREDICT, {"entities": [{"who": "u1"}]}, 200),
    (PREDICT, {"entities": [{"who": "u5"}]}, 200),
    (PREDICT, {"entities": [{"who": ["u5"]}]}, 400),
    (PREDICT, {"entities": [{"who": "u5"}], "keys": ["a"]}, 200),
    (PREDICT, {"entities": [{}]}, 400),
    (INFER, {"inputs": [tensor(2.5, -1.0)], "id": "two rows"}, 200),
    (INFER, {"inputs": [tensor("a", datatype="BYTES")]}, 400),
    (INFER, {"inputs": [tensor(1.0, name="nothing")]}, 400),
    (INFER, {"inputs": [tensor(1.0, 2.0, shape=[1, 2])]}, 400),
    (INFER, {"inputs": [tensor(0.5)], "outputs": [{"name": "score"}], "parameters": {"key": "a"}}, 200),
    (INFER, {"inputs": [tensor(0.5)], "outputs": [{"name": "nothing"}]}, 400),
    (INFER, {"inputs": [tensor(0.5)], "parameters": {"priority": "first"}}, 400),
    (INFER, BY_ID, 200),
    (INFER, {"inputs": [tensor("nobody", shape=[1], datatype="BYTES", name="who")]}, 404),
    (PREDICT, {"entities": [{"who": "u1"}, {"who": "u2"}]}, 200),
    (PREDICT, {"entities": [{"who": "u1"}, {"who": "nobody"}]}, 404),
    (PREDICT, {"entities": [{"whom": "u1"}]}, 400),
    (PREDICT, {"features": [{"amount": 2.0}]}, 200),
    (PREDICT, {"features": [{"weight": 2.0}]}, 400),
]


IN_BINARY: list[tuple[tuple[bytes, str], int]] = [
    (binary(1.0), 200),
    (binary(math.nan), 200),
    (binary(2.0, parameters={"binary_data_output": True}), 200),
    (binary(3.0, parameters={"binary_data_output": True}), 200),
    (binary(3.0, outputs=[{"name": "score", "parameters": {"binary_data": True}}]), 200),
    (binary(3.0, outputs=[{"name": "score", "parameters": {"classification": 1}}]), 200),
    (binary(3.0, id="own"), 200),
    (binary(3.0, said=8), 400),
    (binary(3.0, name="nothing"), 400),
    (binary(3.0, outputs=[{"name": "nothing"}]), 400),
]


def at_once(server: Server, who: str, requests: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """What is answered to requests on a connection each, that are all sent before anything is read."""
    with contextlib.ExitStack() as stack:
        wires = [Wire(server, who) for _ in requests]
        for wire in wires:
            stack.enter_context(contextlib.closing(wire.socket))
        for wire, (path, body, *lines) in zip(wires, requests, strict=True):
            wire.socket.sendall(wire.request(path, body, *lines))
        return [normal(wire.answer()) for wire in wires]


def test_requests_that_come_at_once_are_each_answered_as_if_alone(pair: Pair) -> None:
    """What is wrong with one is told to that one; those for which one run does are answered in one."""
    asked = [(path, body) for path, body, _ in CROWD] * 4
    found = [at_once(server, pair.token, asked) for server in (pair.fast, pair.slow)]
    assert found[0] == found[1]
    assert [status(answer) for answer in found[0]] == [wanted for _, _, wanted in CROWD] * 4


def test_binary_requests_that_come_at_once_are_each_answered_as_if_alone(pair: Pair) -> None:
    asked = [(INFER, body, line) for (body, line), _ in IN_BINARY] * 4
    found = [at_once(server, pair.token, asked) for server in (pair.fast, pair.slow)]
    assert found[0] == found[1]
    assert [status(answer) for answer in found[0]] == [wanted for _, wanted in IN_BINARY] * 4


def test_a_viewer_among_others_is_refused_alone(pair: Pair) -> None:
    for server in (pair.fast, pair.slow):
        wires = [Wire(server, who) for who in (pair.token, pair.viewer) * 8]
        for wire in wires:
            wire.socket.sendall(wire.request(INFER, TENSOR))
        assert [status(wire.answer()) for wire in wires] == [200, 403] * 8
        for wire in wires:
            wire.socket.close()


def test_requests_that_come_in_pieces(pair: Pair) -> None:
    def bytewise(wire: Wire) -> list[bytes]:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in wire.request(INFER, TENSOR):
            wire.socket.sendall(bytes([byte]))
        return [wire.answer()]

    def cut(at: int) -> Talk:
        def talk(wire: Wire) -> list[bytes]:
            wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            content = wire.request(INFER, TENSOR) * 2
            wire.socket.sendall(content[:at])
            wire.socket.sendall(content[at:])
            return [wire.answer(), wire.answer()]

        return talk

    pair.alike(bytewise)
    for at in range(1, 2 * 420, 37):
        pair.alike(cut(at))


def test_a_head_that_is_known_with_another_bodys_end(pair: Pair) -> None:
    """The second request has the first's head; what comes behind its body is the next request."""

    def talk(tail: bytes) -> Talk:
        def send(wire: Wire) -> list[bytes]:
            whole = wire.request(INFER, TENSOR)
            wire.socket.sendall(whole)
            found = [wire.answer()]
            wire.socket.sendall(whole)
            found.append(wire.answer())
            wire.socket.sendall(whole + tail)
            return [*found, wire.answer(), wire.answer() if tail.strip() else b""]

        return send

    for tail in (b"", b"\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        pair.alike(talk(tail))


def test_what_is_no_http_is_told_so_after_an_answer(pair: Pair) -> None:
    def talk(wire: Wire) -> list[bytes]:
        found = []
        for content in (wire.request(INFER, TENSOR), wire.request(INFER, TENSOR), b"what?\r\n\r\n"):
            wire.socket.sendall(content)
            found.append(wire.answer())
        return found

    assert [status(answer) for answer in pair.alike(talk)] == [200, 200, 400]


def test_line_ends_of_one_byte_are_not_remembered(pair: Pair) -> None:
    """A head that ends before the first CR LF CR LF must not be taken for one that ends there."""

    def talk(wire: Wire) -> list[bytes]:
        inner = b"x\r\n\r\n"
        head = wire.request(INFER, b"")[: -len(b"Content-Length: 0\r\n\r\n")].replace(b"\r\n", b"\n")
        whole = head + b"Content-Length: %d\n\n" % len(inner) + inner
        wire.socket.sendall(whole)
        first = wire.answer()
        with contextlib.suppress(OSError):
            wire.socket.sendall(whole + b"y" * len(inner))
        return [first, wire.answer()]

    pair.alike(talk)


def chunked(wire: Wire, body: bytes) -> bytes:
    head = wire.request(INFER, None, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"


ODD: dict[str, Talk] = {
    "chunked": raw(lambda wire: chunked(wire, json.dumps(TENSOR).encode()) * 2, 2),
    "100-continue": ask((INFER, TENSOR), (FEAST, ASKED), lines=["Expect: 100-continue"]),
    "HTTP/1.0": ask((INFER, TENSOR), version="1.0"),
    "HTTP/1.0, kept": ask((INFER, TENSOR), (INFER, TENSOR), version="1.0", lines=["Connection: keep-alive"]),
    "the last one": ask((INFER, TENSOR), (INFER, TENSOR), lines=["Connection: close"]),
    "gzip in": ask((INFER, gzip.compress(json.dumps(TENSOR).encode())), lines=["Content-Encoding: gzip"]),
    "gzip in, where none is taken": ask((FEAST, gzip.compress(b"{}")), lines=["Content-Encoding: gzip"]),
    "gzip out": ask((INFER, TENSOR), (INFER, TENSOR), lines=["Accept-Encoding: gzip"]),
    "deflate out": ask((INFER, TENSOR), lines=["Accept-Encoding: deflate"]),
    "any out": ask((INFER, TENSOR), lines=["Accept-Encoding: gzip, deflate, br"]),
    "too large": ask((INFER, b"[" + b" " * 300_000 + b"]")),
    "too large by its own word": raw(
        lambda wire: wire.request(FEAST, b"").replace(b"Content-Length: 0", b"Content-Length: 99999999")
    ),
    "nothing": ask((INFER, b""), (FEAST, b""), (ONLINE, b""), (PREDICT, b"")),
    "no length": raw(lambda wire: wire.request(INFER, b"").replace(b"Content-Length: 0\r\n", b"")),
    "no JSON": ask((INFER, b"{"), (FEAST, b"{"), (ONLINE, b"[1"), (PREDICT, b"nul"), (FEAST, b"\xff\xfe")),
    "deep": ask(*((path, b"[" * 100 + b"]" * 100) for path in (INFER, FEAST, ONLINE, PREDICT))),
    "endlessly deep": ask(*((path, b"[" * 9999) for path in (INFER, FEAST, ONLINE, PREDICT))),
    "another type": raw(lambda wire: wire.request(FEAST, ASKED).replace(b"application/json", b"text/csv")),
    "the type that curl names": raw(
        lambda wire: b"".join(
            wire.request(path, body).replace(b"application/json", b"application/x-www-form-urlencoded")
            for path, body in ((INFER, TENSOR), (INFER, b"[" * 9999), (FEAST, ASKED))
        ),
        3,
    ),
    "no type": raw(
        lambda wire: b"".join(
            wire.request(path, body).replace(b"Content-Type: application/json\r\n", b"")
            for path, body in ((INFER, TENSOR), (FEAST, ASKED))
        ),
        2,
    ),
    "a type with more": raw(
        lambda wire: wire.request(FEAST, ASKED).replace(b"application/json", b"application/json; charset=utf-8")
    ),
    "no token": raw(lambda wire: wire.request(INFER, TENSOR).replace(wire.who.encode(), b"mlb_nonsense")),
    "no credentials": raw(lambda wire: wire.request(INFER, TENSOR).replace(b"Authorization", b"X-Other")),
    "twice the credentials": ask((INFER, TENSOR), lines=["Authorization: Bearer other"]),
    "a cookie": ask((INFER, TENSOR), lines=["Cookie: mlbox_session=abc"]),
    "another site": ask((INFER, TENSOR), lines=["Origin: https://evil.example"]),
    "another site, says the browser": ask((INFER, TENSOR), lines=["Sec-Fetch-Site: cross-site"]),
    "another host": raw(lambda wire: wire.request(INFER, TENSOR).replace(b"localhost", b"evil.example")),
    "an allowed host": raw(lambda wire: wire.request(INFER, TENSOR).replace(b"localhost", b"known.example")),
    "two hosts": ask((INFER, TENSOR), lines=["Host: localhost"]),
    "no host": raw(lambda wire: wire.request(INFER, TENSOR).replace(b"Host: localhost\r\n", b"")),
    "a page": ask(*((path, {}) for path in (INFER, FEAST, ONLINE, PREDICT)), lines=["Accept: text/html"]),
    "an id": ask((INFER, TENSOR), (INFER, TENSOR), (FEAST, {}), lines=["X-Request-Id: mine-1"]),
    "an id that is none": ask((INFER, TENSOR), lines=["X-Request-Id: a b"]),
    "an upgrade": ask((INFER, TENSOR), lines=["Connection: upgrade", "Upgrade: websocket"]),
    "a proxy, and another host": ask((INFER, TENSOR), lines=["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: a"]),
    "a query": ask((f"{INFER}?a=b", TENSOR), (f"{PREDICT}?limit=99999999", TENSOR), (f"{INFER}?", TENSOR)),
    "other spellings": ask(
        *((path, TENSOR) for path in ("/v2/models/sc%6Fre/infer", "/v2/models/score/infer/", "//v2/models/score/infer"))
    ),
    "a whole address": ask(("http://localhost/v2/models/score/infer", TENSOR)),
    "other methods": raw(
        lambda wire: b"".join(
            wire.request(INFER, b"", method=method) for method in ("GET", "PUT", "DELETE", "OPTIONS")
        ),
        4,
    ),
    "a line too many": raw(
        lambda wire: b"\r\n" + wire.request(INFER, TENSOR) + b"\r\n" + wire.request(INFER, TENSOR), 2
    ),
    "a fold": ask((INFER, TENSOR), lines=["X-Long: a", " b"]),
    "other models": ask(
        *(
            (path, TENSOR)
            for path in (
                "/v2/models/nobody/infer",
                "/v2/models/score/versions/0/infer",
                "/v2/models/score/versions/2/infer",
                "/v2/models/score/versions/01/infer",
                "/v2/models/score/versions/999999999999999999999/infer",
                "/v2/models/score/versions/one/infer",
            )
        )
    ),
    "wrong tensors": ask(
        (INFER, {"inputs": [tensor(1.5, name="x")]}),
        (INFER, {"inputs": [tensor(1.5, shape=[1, 2])]}),
        (INFER, {"inputs": [tensor(1.5, datatype="INT32")]}),
        (INFER, {"inputs": [tensor("a")]}),
        (INFER, {**TENSOR, "outputs": [{"name": "nope"}]}),
        (INFER, {**TENSOR, "parameters": {"keys": 7}}),
        (INFER, {"inputs": [tensor(*range(3), shape=[3, 1])], "parameters": {"keys": ["a", "b"]}}),
    ),
    "what can be asked of an answer": ask(
        (INFER, {**TENSOR, "id": "é", "outputs": [{"name": "score", "parameters": {"classification": 1}}]}),
        (INFER, {**TENSOR, "parameters": {"binary_data_output": True, "key": "k"}}),
        (FEAST, {**ASKED, "full_feature_names": True, "include_feature_view_version_metadata": True}),
    ),
    "wrong features": ask(
        (FEAST, {**ASKED, "features": ["spend:amunt"]}),
        (FEAST, {**ASKED, "features": []}),
        (FEAST, {**ASKED, "entities": {"who": [1]}}),
        (FEAST, {**ASKED, "entities": {"who": ["a"], "b": []}}),
        (FEAST, {**ASKED, "entities": {}}),
        (FEAST, {**ASKED, "feature_service": "nope"}),
        (ONLINE, {**KNOWN, "features": ["nope:a"]}),
        (ONLINE, {**KNOWN, "entities": [{}]}),
        (PREDICT, {"entities": [{"who": "nobody"}]}),
        (PREDICT, {"features": [{"amount": 1.0}, {}]}),
        (PREDICT, {"features": [{"amount": 1e300}]}),
        (PREDICT, {}),
    ),
    "what is nearly of the type": ask(
        (FEAST, {**ASKED, "full_feature_names": "true"}),
        (FEAST, {**ASKED, "features": "spend:amount"}),
        (PREDICT, {"entities": [{"who": "u1"}], "version": "1"}),
        (PREDICT, {"entities": [{"who": "u1"}], "version": 1.0}),
        (PREDICT, {"entities": [{"who": "u1"}], "version": 2**70}),
        (ONLINE, {**KNOWN, "more": 1}),
        (ONLINE, {**KNOWN, "view": 1}),
    ),
    "jobs that are none": ask(
        (JOBS, {}),
        (JOBS, []),
        (JOBS, {**JOB, "command": []}),
        (JOBS, {**JOB, "comand": ["true"]}),
        (JOBS, {**JOB, "cpus": "1"}),
        (JOBS, {**JOB, "gpus": 64}),
        (JOBS, {**JOB, "queue": "none"}),
        (JOBS, {**JOB, "team": "none"}),
        (JOBS, {**JOB, "datasets": ["none@v1"]}),
        (JOBS, {**JOB, "secrets": {"KEY": "none"}}),
        (JOBS, {**JOB, "extra": None}),
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_out_of_the_ordinary(pair: Pair, what: str) -> None:
    pair.alike(ODD[what])


def test_a_table_of_features_is_the_same_table(pair: Pair) -> None:
    (answer,) = pair.alike(ask((ONLINE, KNOWN), lines=["Accept: application/vnd.apache.arrow.stream"]))
    assert b"content-type: application/vnd.apache.arrow.stream" in answer


def test_binary_tensors_in_and_out(pair: Pair) -> None:
    def binary(wire: Wire) -> bytes:
        given = {"name": "input", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": 4}}
        head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
        line = f"Inference-Header-Content-Length: {len(head)}"
        whole = wire.request(INFER, head + b"\x00\x00\xc0\x3f", line)
        return (whole + whole[:-1] + b"\x40" + wire.request(INFER, head + b"\x00", line)).replace(
            b"application/json", b"application/octet-stream"
        )

    answers = pair.alike(raw(binary, 3))
    assert [status(answer) for answer in answers] == [200, 200, 400]


def test_who_may_not_ask_is_told_so(pair: Pair) -> None:
    answers = pair.alike(ask((INFER, TENSOR), (PREDICT, {}), (FEAST, ASKED), (JOBS, JOB)), who=pair.viewer)
    assert [status(answer) for answer in answers] == [403, 403, 200, 403]


def test_who_goes_in_the_middle_leaves_the_same_line_in_the_log(pair: Pair) -> None:
    def talk(wire: Wire) -> list[bytes]:
        wire.socket.sendall(wire.request(INFER, TENSOR, "X-Request-Id: gone-away")[:-5])
        wire.socket.shutdown(socket.SHUT_WR)
        return []

    pair.alike(talk)
    lines = [logged(server, "gone-away", 1) for server in (pair.fast, pair.slow)]
    assert lines[0] == lines[1]


def test_a_client_that_does_not_read_gets_everything_in_the_end(pair: Pair) -> None:
    requests = 3000

    def talk(wire: Wire) -> list[bytes]:
        whole = wire.request(FEAST, ASKED)
        wire.socket.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < requests:
                wire.socket.sendall(whole)
                sent += 1
        wire.socket.settimeout(30)
        return [wire.answer() for _ in range(min(sent, 500))]

    found = set()
    for server in (pair.fast, pair.slow):
        wire = Wire(server, pair.token)
        with contextlib.closing(wire.socket):
            answers = talk(wire)
        assert len(answers) == 500
        found |= {normal(answer) for answer in answers}
    assert len(found) == 1


# -- around the answer --------------------------------------------------------------------------------------------------------


def logged(server: Server, request_id: str, count: int) -> list[dict[str, Any]]:
    """The lines of the access log about requests of one id, without times, once there are so many."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if request_id in line and line.startswith("{")]
        lines = [line for line in lines if line["logger"] == "mlbox.access"]
        return lines if len(lines) >= count else []

    lines = wait_for(found, what="the lines of the access log")
    return [{k: v for k, v in line.items() if k not in ("time", "duration_ms")} for line in lines]


def test_the_access_log_has_the_same_lines(pair: Pair) -> None:
    proxied = ["X-Request-Id: the-same", "X-Forwarded-For: 203.0.113.9"]
    talk = ask((INFER, TENSOR), (INFER, TENSOR), (FEAST, {}), (PREDICT, {}), lines=proxied)
    pair.alike(talk)
    lines = [logged(server, "the-same", 4) for server in (pair.fast, pair.slow)]
    assert lines[0] == lines[1]
    assert [line["status"] for line in lines[0]] == [200, 200, 400, 400]
    assert (lines[0][0]["principal"], lines[0][0]["peer"]) == ("admin", "203.0.113.9")


def test_metrics_and_the_prediction_log_have_the_same_rows(pair: Pair) -> None:
    before = [counts(server) for server in (pair.fast, pair.slow)]
    pair.alike(ask((INFER, TENSOR), (INFER, BY_ID), (PREDICT, {"entities": [{"who": "u7"}]}), (INFER, {"inputs": []})))
    after = [counts(server) for server in (pair.fast, pair.slow)]
    grown = [
        {key: value - old.get(key, 0) for key, value in new.items()} for old, new in zip(before, after, strict=True)
    ]
    assert grown[0] == grown[1]
    assert sum(grown[0].values()) > 0
    logs = [recent(server, 3) for server in (pair.fast, pair.slow)]
    assert logs[0] == logs[1]
    assert [row["entity"] for row in logs[0]] == [{"who": "u7"}, {"who": "u3"}, {}]


def counts(server: Server) -> dict[tuple[str, str], float]:
    page = server.http.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples]
    ours = [
        s
        for s in samples
        if s.name in ("ml_predictions_total", "ml_prediction_score_bucket", "ml_prediction_score_sum")
    ]
    return {(s.name, str(sorted(s.labels.items()))): s.value for s in ours}


def recent(server: Server, limit: int) -> list[dict[str, Any]]:
    rows = server.http.get("/api/v1/predictions", params={"model": "score", "limit": limit}).json()
    return [{k: v for k, v in row.items() if k not in ("id", "at", "domain_at", "latency_ms")} for row in rows]


def test_a_revoked_token_is_refused_by_the_very_next_request(pair: Pair) -> None:
    for server in (pair.fast, pair.slow):
        made = server.http.post("/api/v1/tokens", json={"user": "admin", "name": "short"}).json()
        wire = Wire(server, made["secret"])
        with contextlib.closing(wire.socket):
            answers = []
            for _ in range(3):
                wire.socket.sendall(wire.request(INFER, TENSOR))
                answers.append(status(wire.answer()))
            assert server.http.delete(f"/api/v1/tokens/{made['id']}").status_code < 300
            wire.socket.sendall(wire.request(INFER, TENSOR))
            assert [*answers, status(wire.answer())] == [200, 200, 200, 401]


def test_a_server_that_ends_answers_what_it_has_begun_to_read(tmp_path: Path) -> None:
    answers = [ended(Server(tmp_path / way, "--fast-path", way)) for way in ("on", "off")]
    assert answers[0] == answers[1]
    assert b"connection: close" in answers[0][1]


def ended(server: Server) -> list[bytes]:
    wire = Wire(server, server.token)
    with contextlib.closing(wire.socket):
        whole = wire.request(FEAST, ASKED)
        wire.socket.sendall(whole)
        first = wire.answer()
        wire.socket.sendall(whole[:-10])
        wait_for(lambda: server.http.get("/livez").status_code == 200, what="an answer to what came later")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(server), what="the server to take no more connections")
        wire.socket.sendall(whole[-10:])
        found = [normal(first), normal(wire.answer()), wire.answer()]
    assert server.stop() == 0
    return found


def refuses(server: Server) -> bool:
    url = httpx.URL(server.url)
    try:
        socket.create_connection((url.host, url.port or 0), timeout=60).close()
    except OSError:
        return True
    return False


# -- anything -------------------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
NEARLY = {
    INFER: st.fixed_dictionaries(
        {},
        optional={
            "id": SCALARS,
            "parameters": st.dictionaries(st.sampled_from(["key", "keys", "binary_data_output"]), ANY, max_size=2)
            | ANY,
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.sampled_from(["input", "who", "x"]),
                        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "FP16"]),
                        "shape": st.lists(st.integers(-1, 3), max_size=3),
                        "data": st.lists(SCALARS | st.floats(-9, 9), max_size=3),
                    }
                ),
                max_size=2,
            ),
            "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["score", "y"])}), max_size=2),
        },
    ),
    FEAST: st.fixed_dictionaries(
        {"entities": st.dictionaries(st.sampled_from(["who", "x"]), st.lists(SCALARS, max_size=2), max_size=2) | ANY},
        optional={
            "features": st.lists(st.sampled_from(["spend:amount", "spend@v1:amount", "spend:b", "x"]), max_size=2)
            | ANY,
            "feature_service": SCALARS,
            "full_feature_names": SCALARS,
        },
    ),
    ONLINE: st.fixed_dictionaries(
        {
            "features": st.lists(st.sampled_from(["spend:amount", "spend@v1:amount", "b:b"]), max_size=2) | ANY,
            "entities": st.lists(st.dictionaries(st.sampled_from(["who", "x"]), SCALARS, max_size=2), max_size=2) | ANY,
        }
    ),
    PREDICT: st.fixed_dictionaries(
        {},
        optional={
            "entities": st.lists(st.dictionaries(st.sampled_from(["who", "x"]), SCALARS, max_size=2), max_size=2) | ANY,
            "features": st.lists(st.dictionaries(st.sampled_from(["amount", "x"]), SCALARS, max_size=2), max_size=2),
            "keys": st.lists(SCALARS, max_size=2),
            "version": SCALARS,
        },
    ),
}
REQUESTS = st.sampled_from(sorted(NEARLY)).flatmap(lambda path: st.tuples(st.just(path), NEARLY[path] | ANY))
LINES = st.lists(
    st.sampled_from(
        ["Accept-Encoding: gzip", "Connection: keep-alive", "Inference-Header-Content-Length: 5", "Accept: */*"]
    ),
    max_size=2,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3), lines=LINES, pipelined=st.booleans())
def test_whatever_is_asked_is_answered_alike(
    pair: Pair, requests: list[tuple[str, Any]], lines: list[str], pipelined: bool
) -> None:
    if not pipelined:
        answers = pair.alike(ask(*requests, lines=lines))
    else:
        answers = pair.alike(
            raw(lambda wire: b"".join(wire.request(path, body, *lines) for path, body in requests), len(requests))
        )
    assert all(status(answer) < 500 for answer in answers)
