"""What holds for every route: no answer without a token, errors in one shape, never a 5xx for bad input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.web.auth import is_public
from tests.conftest import Server

FILL = {"model": "m", "version": "1", "ref": "r", "name": "n", "run_id": "x", "promotion_id": "p", "job_id": "j"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("walls") / "data")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def routes(box: Server) -> list[tuple[str, str]]:
    """Every method and path of the API, with something in each place."""
    schema = box.http.get("/api/v1/schema/openapi.json")
    if schema.status_code == 404:
        schema = box.http.get("/api/v1/schema")
    found = [
        (method.upper(), re.sub(r"\{(\w+)\}", lambda m: FILL.get(m[1], "x"), path))
        for path, methods in schema.json()["paths"].items()
        for method in methods
        if path.startswith(("/api/", "/v2"))
    ]
    assert len(found) > 50
    return found


def test_nothing_but_the_public_list_answers_without_a_token(box: Server, routes: list[tuple[str, str]]) -> None:
    for method, path in [*routes, ("GET", "/metrics"), ("GET", "/nowhere"), ("GET", "/api/v1/schema")]:
        answer = httpx.request(method, box.url + path, timeout=30)
        if is_public(path):
            continue
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_token_is_told_so(box: Server) -> None:
    for header, words in (
        ("Bearer mlb_wrong", "damaged"),
        ("Bearer nothing", "not known"),
        ("Digest x", "scheme"),
        ("Basic !!!", "not valid Basic"),
    ):
        answer = httpx.get(f"{box.url}/api/v1/whoami", headers={"Authorization": header})
        assert answer.status_code == 401
        assert words in answer.json()["error"]["message"]


def test_every_error_has_the_one_shape(box: Server, routes: list[tuple[str, str]]) -> None:
    """Each route is called with nothing that exists and a body that is none."""
    for method, path in routes:
        if path == "/api/v1/events":  # a stream without an end
            continue
        answer = box.http.request(method, path, content=b"{" if method != "GET" else None)
        assert answer.status_code < 500, (method, path, answer.text)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            message = error if path.startswith("/v2") else error["message"]
            assert message, (method, path)


def test_an_unknown_path_and_a_wrong_method_are_said_plainly(box: Server) -> None:
    assert box.http.get("/api/v1/nowhere").json()["error"]["code"] == "not_found"
    answer = box.http.delete("/api/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_body_past_the_limit_is_refused(make_server: Callable[..., Server]) -> None:
    server = make_server("--max-body", "2048")
    answer = server.http.post("/api/v1/experiments", json={"name": "x" * 3000})
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/features/online", "/v2/models/m/infer"])
@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"entities":[' + b"[" * 5000 + b"]" * 5000 + b"]}"]
)
def test_json_nested_without_end_is_a_400(box: Server, path: str, body: bytes) -> None:
    assert box.http.post(path, content=body).status_code == 400


def test_a_foreign_host_name_is_refused(box: Server) -> None:
    answer = box.http.get("/livez", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "--allowed-host" in answer.json()["error"]["hint"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
POSTS = [
    "/api/v1/runs",
    "/api/v1/jobs",
    "/api/v1/features/views",
    "/api/v1/features/online",
    "/api/v1/datasets",
    "/api/v1/labels",
    "/api/v1/models/m/predict",
    "/api/v1/clock",
    "/v2/models/m/infer",
]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(POSTS), body=json_values)
def test_no_json_is_a_fault_of_the_server(box: Server, path: str, body: object) -> None:
    assert box.http.post(path, json=body).status_code < 500
