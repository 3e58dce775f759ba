"""The edge: where a request comes from, what type its body has, and each limit, which names its setting when it is met."""

from __future__ import annotations

import ipaddress
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlbox.errors import InvalidInput
from mlbox.settings import Settings
from mlbox.web import forwarded
from mlbox.web.edge import Edge, check_origin
from mlbox.web.limits import is_flat
from tests.conftest import Server, wait_for

LAB = "https://lab.example"
FLAGS = {
    "--cors-origin": LAB,
    "--allowed-host": "box.example",
    "--max-body": "4096",
    "--max-depth": "8",
    "--max-name": "20",
    "--max-page": "50",
    "--max-url": "1000",
    "--max-header": "4000",
    "--max-sql": "300",
    "--max-artifact": "2048",
    "--max-upload": "2048",
    "--hsts-days": "7",
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [part for flag in FLAGS.items() for part in flag]
    server = Server(tmp_path_factory.mktemp("edge") / "data", *flags)
    yield server
    server.stop()


# -- where a request comes from -----------------------------------------------------------------------------------------


def write(box: Server, **headers: str) -> httpx.Response:
    """A write that changes nothing twice, with headers whose names have '-' for '_'."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return box.http.post("/api/v1/experiments", json={"name": "e"}, headers=named)


def test_a_program_a_page_of_ours_and_a_page_of_a_configured_origin_may_write(box: Server) -> None:
    own = box.url
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": LAB, "Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://box.example", "Host": "box.example"},
        {"Origin": "https://BOX.example", "Host": "box.example"},  # a proxy that is not trusted ends TLS
    ):
        assert write(box, **headers).status_code == 201, headers


def test_no_page_of_another_site_may_write_even_with_a_token(box: Server) -> None:
    port = httpx.URL(box.url).port
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://localhost:{port}"},  # another name of this very server
        {"Origin": f"http://127.0.0.1:{(port or 0) + 1}"},  # another user's program on the same box
        {"Origin": f"{box.url}.evil.example"},
        {"Origin": f"ftp://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "anything"},
        {"Origin": box.url, "Sec_Fetch_Site": "cross-site"},
    ):
        answer = write(box, **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_authorised"), headers
        assert "cors_origin" in answer.json()["error"]["hint"]


def test_every_route_and_unsafe_method_refuses_a_foreign_page(box: Server) -> None:
    paths = box.http.get("/api/v1/schema/openapi.json").json()["paths"]
    for path in [*paths, "/login", "/logout", "/nowhere", "/v2/models/m/infer"]:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = box.http.request(method, path, headers={"Origin": "https://evil.example"})
            assert answer.status_code == 403, (method, path)


def test_a_read_from_anywhere_is_answered_but_only_a_configured_origin_may_look(box: Server) -> None:
    foreign = box.http.get("/api/v1/whoami", headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 200
    assert not [name for name in foreign.headers if name.startswith("access-control")]
    ours = box.http.get("/api/v1/whoami", headers={"Origin": LAB})
    assert ours.headers["access-control-allow-origin"] == LAB
    assert "x-mlbox-next" in ours.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in ours.headers


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }


def test_a_preflight_is_answered_for_a_configured_origin_only(box: Server) -> None:
    ours = httpx.options(f"{box.url}/api/v1/runs", headers=preflight(LAB))
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (204, LAB)
    assert "POST" in ours.headers["access-control-allow-methods"]
    assert "authorization" in ours.headers["access-control-allow-headers"]
    assert ours.headers["vary"] == "origin"
    for origin in ("https://evil.example", "null", LAB + ":444", LAB.upper()):
        foreign = httpx.options(f"{box.url}/api/v1/runs", headers=preflight(origin))
        assert foreign.status_code == 401
        assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "", "box.example.evil", "127.0.0.1.evil", "box.example:80x", "[::1", "@127.0.0.1"]
)
def test_no_other_host_name_is_answered_to(box: Server, host: str) -> None:
    answer = httpx.get(f"{box.url}/livez", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == "host"


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1", "[::1]", "[::1]:8265", "box.example:443"])
def test_its_own_host_names_are_answered_to(box: Server, host: str) -> None:
    assert httpx.get(f"{box.url}/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("name", ["Origin", "Authorization", "Content-Type"])
def test_a_header_that_says_who_or_what_comes_once(box: Server, name: str) -> None:
    answer = httpx.get(f"{box.url}/livez", headers=[(name, "a"), (name, "b")])
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == name.lower()


@pytest.mark.parametrize(
    "text", ["*", "https://*.example", "lab.example", "https://lab.example/", "null", "ftp://x", "https://"]
)
def test_an_origin_that_no_browser_sends_does_not_start(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an origin"):
        check_origin(text)


def test_plain_http_is_never_told_of_hsts(box: Server) -> None:
    assert "strict-transport-security" not in box.http.get("/livez").headers


# -- the type of a body -------------------------------------------------------------------------------------------------

TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/json",
    "application/xml",
    "application/jsonp",
    "application/json-patch+json",
    "application/msgpack",
    "",
)


def writing(box: Server) -> list[tuple[str, str]]:
    paths = box.http.get("/api/v1/schema/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods if method != "get"]


UNTYPED = ("/v2/repository/", "/v2/systemsharedmemory/", "/v2/cudasharedmemory/")
CURLS = ("", "application/x-www-form-urlencoded")
STREAMED = ("/rows", "/snapshots", "/artifacts/{path}", "/features/historical", "/{tail}")


def test_every_route_that_takes_json_takes_nothing_else(box: Server) -> None:
    found = [(m, p) for m, p in writing(box) if not p.endswith((*STREAMED, "/infer"))]
    assert len(found) > 25
    for method, path in found:
        for kind in TYPES:
            headers = {"Content-Type": kind} if kind else {}
            answer = box.http.request(method, path, content=b"{}", headers=headers)
            if answer.status_code == 404 and method == "POST":  # whose it is comes before what it is
                continue
            if kind in CURLS and path.startswith(UNTYPED):  # Triton's client names no type there, `curl -d` a form's
                continue
            if kind in CURLS and answer.status_code == 501:  # nor where there is nothing to take it
                continue
            assert answer.status_code in (404, 415), (method, path, kind, answer.text)


def test_json_with_a_charset_and_no_body_at_all_are_taken(box: Server) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert box.http.post("/api/v1/experiments", content=b'{"name":"e"}', headers=headers).status_code == 201
    assert box.http.post("/api/v1/monitoring/none/check", headers={"Content-Type": "text/plain"}).status_code == 404
    empty = box.http.post("/api/v1/experiments")
    assert empty.status_code == 400


def test_a_streamed_upload_takes_any_type_but_a_form(box: Server) -> None:
    for kind, status in (("application/gzip", 201), ("", 201), ("text/csv", 201), (TYPES[1], 415), (TYPES[2], 415)):
        answer = box.http.post("/api/v1/snapshots", content=b"x", headers={"Content-Type": kind} if kind else {})
        assert answer.status_code == status, kind


def test_a_compressed_body_is_not_taken(box: Server) -> None:
    answer = box.http.post(
        "/api/v1/experiments",
        content=b"\x1f\x8b",
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (415, "content-encoding")


# -- limits -------------------------------------------------------------------------------------------------------------


def refused(answer: httpx.Response, status: int, setting: str) -> None:
    assert answer.status_code == status, answer.text
    assert setting in str(answer.json()["error"]), answer.text


def test_each_limit_names_its_setting(box: Server) -> None:
    ask, json_type = box.http, {"Content-Type": "application/json"}
    refused(ask.post("/api/v1/experiments", json={"name": "x" * 5000}), 413, "max_body")
    refused(ask.post("/api/v1/experiments", content=b"[" * 9 + b"]" * 9, headers=json_type), 400, "max_depth")
    refused(
        ask.post("/v2/models/m/infer", content=b'{"inputs":' + b"[" * 9 + b"]" * 9 + b"}", headers=json_type),
        400,
        "max_depth",
    )
    refused(ask.post("/api/v1/models", json={"name": "n" * 21}), 400, "max_name")
    refused(ask.get("/api/v1/runs", params={"limit": 51}), 400, "max_page")
    refused(ask.get("/api/v1/runs", params={"limit": 10**25}), 400, "max_page")
    refused(ask.get("/api/v1/runs", params={"experiment": "x" * 1000}), 414, "max_url")
    refused(ask.get("/" + "x" * 1001), 414, "max_url")
    refused(ask.get("/livez", headers={"X-Long": "x" * 4000}), 431, "max_header")
    refused(ask.get("/livez", headers={f"X-{n}": "x" * 10 for n in range(300)}), 431, "max_header")
    refused(ask.post("/api/v1/snapshots", content=b"x" * 2049), 413, "max_artifact")
    source = {
        "name": "s",
        "columns": [{"name": "k", "dtype": "STRING"}, {"name": "t", "dtype": "TIMESTAMP"}],
        "event_time": "t",
    }
    declared = ask.post("/api/v1/sources", json=source)
    assert declared.status_code == 201, declared.text
    refused(ask.post("/api/v1/sources/s/rows?format=csv", content=b"x" * 2049), 413, "max_upload")


def test_what_is_just_inside_a_limit_is_taken(box: Server) -> None:
    ask = box.http
    assert ask.get("/api/v1/runs", params={"limit": 50}).status_code == 200
    assert ask.post("/api/v1/models", json={"name": "n" * 20}).status_code == 201
    deep = b'{"name":"e","x":' + b"[" * 7 + b"]" * 7 + b"}"
    told = ask.post("/api/v1/experiments", content=deep, headers={"Content-Type": "application/json"}).json()["error"]
    assert told["field"] == "x"  # its name, and not its depth
    assert ask.get("/livez", headers={"X-Long": "x" * 3000}).status_code == 200
    assert ask.post("/api/v1/snapshots", content=b"x" * 2048).status_code == 201


def test_brackets_in_texts_are_no_nesting(box: Server) -> None:
    values = ['[{"\\' * 60]
    told = box.http.post("/api/v1/experiments", json={"name": "e", "more": values}).json()["error"]
    assert told["field"] == "more"  # its name, and not its depth


def depth_of(value: Any) -> int:
    """The textbook's answer, to hold the quick one against."""
    if isinstance(value, list | dict):
        return 1 + max((depth_of(v) for v in (value.values() if isinstance(value, dict) else value)), default=0)
    return 0


texts = st.text(st.sampled_from('[]{}"\\a,:\u2028é'), max_size=12)
nested = st.recursive(
    texts | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=40,
)


@given(value=nested, most=st.integers(1, 6))
@example(value=['"]"', [["]"], "["]], most=1)
@example(value=[["\\"], ["\\\\"], ['\\"[']], most=2)
def test_the_depth_is_the_depth(value: Any, most: int) -> None:
    body = json.dumps(value).encode()
    assert is_flat(body, most) == (depth_of(value) <= most or body.count(b"[") + body.count(b"{") <= most)


def test_requests_beyond_max_requests_are_told_to_come_again(make_server: Any) -> None:
    server: Server = make_server("--max-requests", "3")

    def stream(held: threading.Event, ready: threading.Semaphore) -> None:
        with httpx.stream("GET", f"{server.url}/api/v1/events", headers=server.http.headers) as answer:
            assert answer.status_code == 200
            ready.release()
            held.wait(60)

    held, ready = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(3) as pool:
        streams = [pool.submit(stream, held, ready) for _ in range(3)]
        try:
            for _ in range(3):
                assert ready.acquire(timeout=60)
            busy = server.http.get("/api/v1/whoami")
            refused(busy, 429, "max_requests")
            assert busy.headers["retry-after"] == "1"
            assert server.http.get("/livez").status_code == 200  # whoever watches over the server is still told
        finally:
            held.set()
        for one in streams:
            one.result(60)
    wait_for(lambda: server.http.get("/api/v1/whoami").status_code == 200, what="a place to come free")


# -- behind a proxy -----------------------------------------------------------------------------------------------------

PROXIES = forwarded.networks(("10.0.0.0/8", "::1"))


def scope_of(peer: str, *headers: tuple[str, str], host: str = "box.example") -> dict[str, Any]:
    raw = [(b"host", host.encode()), *((n.encode(), v.encode()) for n, v in headers)]
    return {"type": "http", "client": (peer, 1), "scheme": "http", "headers": raw}


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # the client wrote the first itself
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["1.2.3.4, rubbish, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["1.2.3.4:5555"], "1.2.3.4"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("::1", ["1.2.3.4"], "1.2.3.4"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),
        ("127.0.0.1", ["1.2.3.4"], "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_proxy_of_ours(peer: str, said: list[str], client: str) -> None:
    scope = scope_of(peer, *(("x-forwarded-for", one) for one in said))
    forwarded.rewrite(scope, PROXIES)
    assert scope["client"][0] == client
    assert not [name for name, _ in scope["headers"] if name.startswith(b"x-forwarded")]


def test_scheme_and_host_are_believed_from_a_proxy_only() -> None:
    said = (("x-forwarded-proto", "https"), ("x-forwarded-host", "public.example"))
    ours, other = scope_of("10.1.2.3", *said), scope_of("11.1.2.3", *said)
    forwarded.rewrite(ours, PROXIES)
    forwarded.rewrite(other, PROXIES)
    assert (ours["scheme"], dict(ours["headers"])[b"host"]) == ("https", b"public.example")
    assert (other["scheme"], other["headers"]) == ("http", [(b"host", b"box.example")])


@given(hops=st.lists(st.ip_addresses() | st.text(max_size=8), max_size=5), peer=st.ip_addresses())
def test_nobody_but_a_proxy_changes_who_asked(hops: list[Any], peer: Any) -> None:
    said = [str(hop) for hop in hops]
    found = forwarded.client_of(peer, said, PROXIES)
    if not forwarded.is_trusted(peer, PROXIES):
        assert found == peer
    assert found == peer or found in [forwarded.address(text) for text in said]


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.1/8", "300.1.1.1", ""])
def test_a_proxy_that_is_no_address_does_not_start(text: str) -> None:
    with pytest.raises(InvalidInput, match="neither an address nor a network"):
        Edge(None, Settings(trusted_proxy=(text,)))  # type: ignore[arg-type]


def test_a_real_server_believes_its_proxy_and_no_other(make_server: Any) -> None:
    server: Server = make_server("--trusted-proxy", "127.0.0.1", "--hsts-days", "2", "--allowed-host", "public.example")
    spoofed = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example", "X-Forwarded-For": "6.6.6.6"}
    answer = server.http.get("/livez", headers=spoofed)
    assert answer.headers["strict-transport-security"] == "max-age=172800"
    own = {**spoofed, "Origin": "https://public.example"}
    assert server.http.post("/api/v1/experiments", json={"name": "e"}, headers=own).status_code == 201
    plain = {**spoofed, "Origin": "http://public.example"}
    assert server.http.post("/api/v1/experiments", json={"name": "e"}, headers=plain).status_code == 403
    assert server.http.get("/livez", headers={"X-Forwarded-Host": "evil.example"}).status_code == 400


def test_without_a_trusted_proxy_the_headers_of_one_change_nothing(box: Server) -> None:
    spoofed = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "Forwarded": "proto=https;host=evil"}
    answer = box.http.get("/livez", headers=spoofed)
    assert answer.status_code == 200
    assert "strict-transport-security" not in answer.headers


def test_networks_are_as_written() -> None:
    assert forwarded.networks(("192.0.2.7",)) == (ipaddress.ip_network("192.0.2.7/32"),)


def test_a_team_keeps_no_more_than_its_quota(make_server: Any) -> None:
    server: Server = make_server("--upload-quota", "10000")
    ask = server.http
    ask.post("/api/v1/teams", json={"name": "vision"}).raise_for_status()

    def put(experiment: str, name: str, size: int) -> httpx.Response:
        run = ask.post("/api/v1/runs", json={"experiment": experiment}).json()["id"]
        return ask.put(f"/api/v1/runs/{run}/artifacts/{name}", content=b"x" * size)

    assert put("vision.a", "a", 6000).status_code == 200
    refused(put("vision.b", "b", 4001), 413, "upload_quota")
    assert put("vision.b", "b", 4000).status_code == 200
    refused(put("vision.b", "c", 1), 413, "upload_quota")
    spec = {"name": "vision.d", "spine": "SELECT 1", "features": ["v:f"]}
    refused(ask.post("/api/v1/datasets", json=spec), 413, "upload_quota")
    assert put("elsewhere", "a", 9000).status_code == 200  # everyone's, which is another team's
    server.stop()
    again: Server = make_server("--upload-quota", "10000", data_dir=server.data_dir)
    run = again.http.post("/api/v1/runs", json={"experiment": "vision.a"}).json()["id"]
    refused(again.http.put(f"/api/v1/runs/{run}/artifacts/z", content=b"x"), 413, "upload_quota")
    assert list((server.data_dir / "artifacts" / "tmp").iterdir()) == []


def test_each_test_that_the_threat_model_names_exists() -> None:
    root = Path(__file__).parents[2]
    named = set(re.findall(r"tests/[\w/]+\.py", (root / "docs/explanation/security.md").read_text()))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (root / name).exists()] == []
