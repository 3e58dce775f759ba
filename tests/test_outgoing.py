"""The server's own requests: where they may go, and what they take back. Real servers on loopback; only the DNS is a test's."""

from __future__ import annotations

import ast
import gzip
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlbox
from mlbox.errors import InvalidInput, Refused, StartupError, TimedOut, Unavailable
from mlbox.outgoing import Allowed, Outgoing, check_url, is_public
from tests.certificates import certificate
from tests.web.site import open_box


class Target:
    """A server on loopback that says what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.names: list[str | None] = []
        """What TLS clients called it."""
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"target": self}))
        self._server.daemon_threads = False
        if context is not None:
            context.sni_callback = lambda _socket, name, _context: self.names.append(name)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers each path in its own way."""

    target: Target

    def do_GET(self) -> None:
        self._take(b"")

    def do_POST(self) -> None:
        self._take(self.rfile.read(int(self.headers["content-length"])))

    def _take(self, body: bytes) -> None:
        self.target.asked.append((self.command, self.path, dict(self.headers), body))
        try:
            getattr(self, "say_" + self.path.strip("/").split("?")[0], self.say_ok)()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def say_ok(self) -> None:
        self._say(200, b"fine", content_type="text/plain")

    def say_missing(self) -> None:
        self._say(404, b"none")

    def say_redirect(self) -> None:
        self._say(302, b"", location=f"http://127.0.0.1:{self.target.port}/landed")

    def say_big(self) -> None:
        self._say(200, b"x" * 200_001)

    def say_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.target.release.is_set():
            self.wfile.write(b"y" * 10_000)

    def say_bomb(self) -> None:
        self._say(200, gzip.compress(b"0" * 1_000_000), content_encoding="gzip")

    def say_slow(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.target.release.wait(0.01):
            self.wfile.write(b"z")

    def say_silent(self) -> None:
        self.target.release.wait()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """What was asked is in `asked`."""


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Outgoing]]:
    made: list[Outgoing] = []

    def build(*args: Any, **more: Any) -> Outgoing:
        made.append(Outgoing(*args, **more))
        return made[-1]

    yield build
    for outgoing in made:
        outgoing.close()


class Dns:
    """Answers one list of addresses after the other, and the last for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


# -- nothing else asks ---------------------------------------------------------------------------------------------------

CLIENTS = {
    "httpx",
    "httpcore",
    "requests",
    "aiohttp",
    "urllib3",
    "urllib.request",
    "http.client",
    "ftplib",
    "smtplib",
    "telnetlib",
}
OUTSIDE_THE_SERVER = ("transfer/", "client.py", "context.py", "sdk/", "cli/")
WITH_LEAVE = {"outgoing.py", "web/oidc_provider.py", "serve/alerts/courier.py"}
"""This module, one that names httpx's types and asks through it, and one that hands mail to the server that the settings name."""


def test_nothing_else_in_the_server_can_open_a_url() -> None:
    root = Path(mlbox.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if name.startswith(OUTSIDE_THE_SERVER):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if isinstance(node, ast.Attribute) and node.attr in ("create_connection", "open_connection", "urlopen"):
                names = ["httpx"]
            if any(one in CLIENTS or one.partition(".")[0] in CLIENTS for one in names):
                found.add(name)
    assert found == WITH_LEAVE


# -- addresses ------------------------------------------------------------------------------------------------------------

INSIDE = [
    *(
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
    ),
    *(
        "100.64.0.1",
        "100.127.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
    ),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *(
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
    ),
    *(
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
    ),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.1.2.3", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "5f00::1", "2001:10::1"),
]
OUTSIDE = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "223.255.255.255"),
    *("2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_not_public(address: str, make: Callable[..., Outgoing]) -> None:
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(Refused, match="not a public address") as caught:
        make(resolve=Dns([address])).get("http://innocent.example/")
    assert "--outgoing-allow innocent.example" in caught.value.hint


def test_a_url_that_is_to_be_asked_later_is_checked_as_far_as_can_be(make: Callable[..., Outgoing]) -> None:
    with pytest.raises(Refused, match="not a public address"):
        make(resolve=Dns(["10.0.0.1"])).check("https://inner.example/hook")
    with pytest.raises(InvalidInput):
        make(resolve=Dns()).check("ftp://innocent.example/")
    make(resolve=Dns(["8.8.8.8"])).check("https://innocent.example/hook")

    def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    make(resolve=unknown).check("https://later.example/hook")


def test_an_address_that_is_asked_for_as_such_is_named_once(make: Callable[..., Outgoing]) -> None:
    for place in ("127.0.0.1", "[::1]"):
        address = place.strip("[]")
        with pytest.raises(Refused) as caught:
            make(resolve=Dns([address])).get(f"http://{place}/")
        assert caught.value.message == f"{address} is not a public address."


@pytest.mark.parametrize("address", OUTSIDE)
def test_what_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_counts_as_public_that_the_standard_library_calls_local(address: Any) -> None:
    if is_public(address) and getattr(address, "ipv4_mapped", None) is None:
        assert address.is_global
        assert not any((address.is_private, address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost", "localhost.", "[::1]",
             "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "①②⑦.⓪.⓪.①"],
)  # fmt: skip
def test_every_way_to_write_loopback_is_refused(target: Target, make: Callable[..., Outgoing], host: str) -> None:
    with pytest.raises((Refused, InvalidInput, Unavailable)):
        make().get(f"http://{host}:{target.port}/")
    assert target.asked == []


# -- rebinding ------------------------------------------------------------------------------------------------------------


def test_a_name_is_resolved_once_and_the_answer_is_what_is_connected_to(
    target: Target, make: Callable[..., Outgoing], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First a public address, then loopback: whoever looked twice would connect to the second."""
    connected: list[Any] = []

    def refuse(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("no network here")

    dns = Dns(["8.8.8.8"], ["127.0.0.1"])
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(Unavailable):
        make(resolve=dns).get(f"http://rebind.example:{target.port}/")
    assert connected == [("8.8.8.8", target.port)]
    assert dns.asked == ["rebind.example"]
    with pytest.raises(Refused):
        make(resolve=dns).get(f"http://rebind.example:{target.port}/")
    assert connected == [("8.8.8.8", target.port)]


def test_one_inner_address_among_public_ones_spoils_all(make: Callable[..., Outgoing]) -> None:
    for answer in (["8.8.8.8", "10.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1", "::1"]):
        with pytest.raises(Refused):
            make(resolve=Dns(answer)).get("http://mixed.example/")


def test_each_request_looks_again(target: Target, make: Callable[..., Outgoing]) -> None:
    """No connection is kept that would outlive the check of its address."""
    dns = Dns(["127.0.0.1"], ["127.0.0.1"], ["169.254.169.254"])
    outgoing = make(["127.0.0.0/8"], resolve=dns)
    url = f"http://moving.example:{target.port}/"
    assert outgoing.get(url).text == "fine"
    assert outgoing.get(url).text == "fine"
    with pytest.raises(Refused):
        outgoing.get(url)
    assert len(target.asked) == 2


def test_a_second_address_is_tried_when_the_first_is_dead(target: Target, make: Callable[..., Outgoing]) -> None:
    outgoing = make(["127.0.0.0/8"], resolve=Dns(["127.0.0.9", "127.0.0.1"]))
    assert outgoing.get(f"http://two.example:{target.port}/").status_code == 200


# -- what is allowed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "idp.lab", "IDP.lab", "::ffff:127.0.0.1"])
def test_the_setting_allows_hosts_addresses_and_networks(
    target: Target, make: Callable[..., Outgoing], entry: str
) -> None:
    answer = make([entry], resolve=Dns(["::ffff:127.0.0.1" if ":" in entry else "127.0.0.1"])).post(
        f"http://idp.lab:{target.port}/hook?a=1", b"{}", {"x-key": "k"}
    )
    assert (answer.status_code, answer.text) == (200, "fine")
    command, path, headers, body = target.asked[0]
    assert (command, path, body) == ("POST", "/hook?a=1", b"{}")
    assert headers["Host"] == f"idp.lab:{target.port}"
    assert (headers["x-key"], headers["accept-encoding"]) == ("k", "identity")


def test_what_is_allowed_allows_nothing_else(make: Callable[..., Outgoing]) -> None:
    outgoing = make(["10.0.0.0/8", "idp.lab"], resolve=Dns(["127.0.0.1"]))
    for host in ("other.lab", "x.idp.lab", "idp.lab.evil.example", "10.0.0.1.evil.example"):
        with pytest.raises(Refused):
            outgoing.get(f"http://{host}/")
    assert Allowed(["10.0.0.0/8"]).permits("x", ipaddress.ip_address("::ffff:10.9.9.9"))
    assert not Allowed(["10.0.0.0/8"]).permits("x", ipaddress.ip_address("192.168.0.1"))


@pytest.mark.parametrize("entry", ["", "http://idp.lab", "*.lab", "idp.lab:443", "10.0.0.0/33", "2130706433", "a b"])
def test_entries_of_the_setting_that_say_nothing(entry: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Allowed([entry])
    assert caught.value.field == "outgoing_allow"


def test_a_server_does_not_start_with_an_entry_that_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'127\.0\.0\.1:80' is no host name"):
        open_box(tmp_path / "data", outgoing_allow=("127.0.0.1:80",))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "javascript:alert(1)",
            "//example.org/",
            "x",
            "",
        ),
        *(
            "http://",
            "http:///path",
            "http://user:pass@example.org/",
            "http://user@example.org/",
            "http://[::1",
            "http://a:99999999/",
        ),
        *("http://example.org\n.evil/", "unix:///run/docker.sock"),
    ],
)
def test_urls_that_are_not_asked(url: str, make: Callable[..., Outgoing]) -> None:
    with pytest.raises(InvalidInput):
        check_url(url)
    dns = Dns(["8.8.8.8"])
    with pytest.raises(InvalidInput):
        make(resolve=dns).get(url)
    assert dns.asked == []


# -- what comes back ------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(make: Callable[..., Outgoing]) -> Outgoing:
    return make(["127.0.0.1"], seconds=20, most_bytes=100_000)


def test_a_redirect_is_not_followed(target: Target, local: Outgoing) -> None:
    with pytest.raises(Unavailable, match="redirect"):
        local.get(f"http://127.0.0.1:{target.port}/redirect")
    assert [path for _, path, _, _ in target.asked] == ["/redirect"]


def test_an_error_is_an_answer(target: Target, local: Outgoing) -> None:
    answer = local.get(f"http://127.0.0.1:{target.port}/missing")
    assert (answer.status_code, answer.text) == (404, "none")


@pytest.mark.parametrize("path", ["big", "endless"])
def test_a_body_that_is_too_large_is_cut_off(target: Target, local: Outgoing, path: str) -> None:
    with pytest.raises(Unavailable, match="more than 100,000 bytes"):
        local.get(f"http://127.0.0.1:{target.port}/{path}")


def test_a_compressed_body_is_not_unpacked(target: Target, local: Outgoing) -> None:
    with pytest.raises(Unavailable, match="compressed"):
        local.get(f"http://127.0.0.1:{target.port}/bomb")


@pytest.mark.parametrize("path", ["slow", "silent"])
def test_time_is_bounded_as_a_whole(target: Target, make: Callable[..., Outgoing], path: str) -> None:
    """A byte now and then would keep a limit per read from ever being reached."""
    outgoing = make(["127.0.0.1"], seconds=0.2)
    with pytest.raises(TimedOut, match="in time"):
        outgoing.get(f"http://127.0.0.1:{target.port}/{path}")


def test_a_host_that_is_not_there(make: Callable[..., Outgoing]) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("Name or service not known")

    with pytest.raises(Unavailable, match="not known"):
        make(resolve=unknown).get("http://nowhere.example/")
    with pytest.raises(Unavailable):
        make(resolve=Dns([])).get("http://nowhere.example/")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="could not be asked"):
            make(["127.0.0.1"]).get(f"http://127.0.0.1:{closed.getsockname()[1]}/")


def test_proxies_of_the_environment_are_not_used(
    target: Target, local: Outgoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert local.get(f"http://127.0.0.1:{target.port}/").text == "fine"


def test_many_threads_use_one_client(target: Target, local: Outgoing) -> None:
    found: list[int] = []

    def ask() -> None:
        found.append(local.get(f"http://127.0.0.1:{target.port}/").status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 20


# -- TLS ------------------------------------------------------------------------------------------------------------------


def test_tls_is_checked_against_the_name_and_not_the_address(tmp_path: Path, make: Callable[..., Outgoing]) -> None:
    path, context = certificate(tmp_path, "idp.lab")
    target = Target(context)
    dns = Dns(["127.0.0.1"])
    try:
        trusting = make(["127.0.0.1"], ca_file=str(path), resolve=dns)
        assert trusting.get(f"https://idp.lab:{target.port}/").text == "fine"
        assert target.names == ["idp.lab"]
        with pytest.raises(Unavailable, match="CERTIFICATE"):
            trusting.get(f"https://other.lab:{target.port}/")
        with pytest.raises(Unavailable, match="CERTIFICATE"):
            make(["127.0.0.1"], resolve=dns).get(f"https://idp.lab:{target.port}/")
        assert len(target.asked) == 1
    finally:
        target.close()


def test_a_file_of_authorities_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for path in (tmp_path / "x.pem", tmp_path / "missing.pem"):
        with pytest.raises(StartupError, match="cannot be used"):
            Outgoing(ca_file=str(path))


def test_the_resolver_of_this_machine_is_the_default(target: Target, make: Callable[..., Outgoing]) -> None:
    outgoing = make(["localhost"])
    assert outgoing.get(f"http://localhost:{target.port}/").status_code == http.client.OK
