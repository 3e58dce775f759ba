"""What holds for every route: no answer without a token, errors in one shape, never a 5xx for bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.web.auth import is_public
from tests.conftest import Server
from tests.web.served import Site, is_told, open_site

JSON = {"Content-Type": "application/json"}
FILL = {"model": "m", "version": "1", "ref": "r", "name": "n", "run_id": "x", "promotion_id": "p", "job_id": "j"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("walls") / "data")
    yield server
    server.stop()


def message_of(path: str, answer: httpx.Response) -> str:
    """What an error says, in the shape of its protocol."""
    body = answer.json()
    if "/mlflow" in path and path.startswith(("/api/2", "/api/3", "/ajax-api")) and "error_code" in body:
        return str(body["message"])
    return str(body["error"] if isinstance(body["error"], str) else body["error"]["message"])


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
        if path.startswith(("/api/", "/ajax-api/", "/v2"))
    ]
    assert len(found) > 50
    return found


def test_nothing_but_the_public_list_answers_without_a_token(box: Server, routes: list[tuple[str, str]]) -> None:
    with httpx.Client(base_url=box.url) as nobody:
        for method, path in [*routes, ("GET", "/metrics"), ("GET", "/nowhere"), ("GET", "/api/v1/schema")]:
            answer = nobody.request(method, path)
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
        body = {"content": b"{", "headers": JSON} if method != "GET" else {}
        answer = box.http.request(method, path, **body)
        assert answer.status_code < 500 or is_told(answer), (method, path, answer.text)
        if answer.status_code >= 400:
            assert message_of(path, answer), (method, path)


def test_an_unknown_path_and_a_wrong_method_are_said_plainly(box: Server) -> None:
    assert box.http.get("/api/v1/nowhere").json()["error"]["code"] == "not_found"
    answer = box.http.delete("/api/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_body_past_the_limit_is_refused(make_server: Callable[..., Server]) -> None:
    server = make_server("--max-body", "2048")
    answer = server.http.post("/api/v1/experiments", json={"name": "x" * 3000})
    assert answer.status_code == 413
    assert answer.json()["error"]["field"] == "max_body"


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/features/online", "/v2/models/m/infer"])
@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"entities":[' + b"[" * 5000 + b"]" * 5000 + b"]}"]
)
def test_json_nested_without_end_is_a_400(box: Server, path: str, body: bytes) -> None:
    assert box.http.post(path, content=body, headers=JSON).status_code == 400


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


# -- a box with something in it, and whatever a request can say -----------------------------------------------------------

HUGE = 10**25
HALF = "\\ud800"
"""Half a surrogate pair, as JSON escapes it."""
NASTY_TEXT = [
    "%00",
    "%ED%A0%80",
    "%FF",
    "a" * 3000,
    "%F0%9F%92%A9",
    "..",
    "..%2F..",
    "%252e",
    "'%22;--",
    "%0d%0aX:%20y",
    "%20",
    "~",
]
NASTY_JSON = [
    *(str(HUGE), str(-HUGE), "1e400", "-0", "true", "null", "[]", "{}", '""', '"\\u0000"', f'"{HALF}"', f'"a{HALF}b"'),
    *(
        '"' + "n" * 5000 + '"',
        '"\\u202e\\ufeff"',
        '"2013-01-01"',
        '"9999-12-31T23:59:59Z"',
        '"0001-01-01T00:00:00+14:00"',
    ),
]


class Operation(NamedTuple):
    """One method of one path of the OpenAPI schema."""

    method: str
    path: str
    spec: dict[str, Any]
    components: dict[str, Any]

    def where(self, name: str) -> list[dict[str, Any]]:
        """Its parameters in the path or the query."""
        return [p for p in self.spec.get("parameters", ()) if p["in"] == name]

    def url(self, filled: dict[str, str], **other: str) -> str:
        """The path with something in each place."""
        return re.sub(r"\{(\w+)\}", lambda m: other.get(m[1], filled.get(m[1], "x")), self.path)

    def body(self) -> Any:
        """A body that its schema allows; None where it takes no JSON."""
        media = self.spec.get("requestBody", {}).get("content", {}).get("application/json")
        return example(media["schema"], self.components) if media else None


def example(schema: dict[str, Any], components: dict[str, Any], depth: int = 0) -> Any:
    """Some value of a JSON schema, with every property that it names."""
    if "$ref" in schema:
        return example(components[schema["$ref"].rpartition("/")[2]], components, depth + 1)
    for choice in ("oneOf", "anyOf", "allOf"):
        if schema.get(choice):
            return example(schema[choice][0], components, depth)
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return (
            {} if depth > 4 else {k: example(v, components, depth + 1) for k, v in schema.get("properties", {}).items()}
        )
    if kind == "array":
        return [] if depth > 4 else [example(schema.get("items", {}), components, depth + 1)]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(str(kind), "x")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a JSON value, the inner ones too."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(inner, (*path, key))


def planted(value: Any, path: tuple[Any, ...]) -> str:
    """The value as JSON with a mark in one place."""
    if not path:
        return "@@"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [(k, planted(v, path[1:]) if k == path[0] else json.dumps(v)) for k, v in items]
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in inner) + "}"
    return "[" + ",".join(v for _, v in inner) + "]"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = open_site(tmp_path_factory.mktemp("full") / "data")
    yield site
    site.server.stop()


@pytest.fixture(scope="module")
def filled(full: Site) -> dict[str, str]:
    """Something that exists for every parameter."""
    run = full.http.get("/api/v1/runs").json()[0]["id"]
    promotion = full.http.get("/api/v1/promotions").json()[0]["id"]
    return {
        "model": "score",
        "name": "sales",
        "ref": "sales@v1",
        "version": "1",
        "run_id": run,
        "promotion_id": promotion,
        "user": "grace",
        "team": "everyone",
        "kind": "model",
        "path": "m.onnx",
        "file": "part-00000.parquet",
    }


@pytest.fixture(scope="module")
def operations(full: Site) -> list[Operation]:
    schema = full.http.get("/api/v1/schema/openapi.json").json()
    components = schema.get("components", {}).get("schemas", {})
    found = [
        Operation(method.upper(), path, spec, components)
        for path, methods in schema["paths"].items()
        for method, spec in methods.items()
        if path != "/api/v1/events"  # a stream without an end
    ]
    assert len(found) > 60
    return found


def never_5xx(site: Site, method: str, url: str, **more: Any) -> httpx.Response:
    answer = site.http.request(method, url, **more)
    assert answer.status_code < 500 or is_told(answer), (method, url[:300], str(more)[:300], answer.text)
    return answer


def is_int(parameter: dict[str, Any]) -> bool:
    schema = parameter.get("schema", {})
    return any(one.get("type") == "integer" for one in (schema, *schema.get("oneOf", ()), *schema.get("anyOf", ())))


@pytest.mark.slow
def test_a_number_past_64_bits_is_a_4xx_wherever_a_number_goes(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    checked = 0
    for operation in operations:
        for parameter in (p for p in operation.where("path") if is_int(p)):
            for value in (HUGE, -HUGE, 2**63, -(2**63) - 1, 2**31, "9" * 5000):
                url = operation.url(filled, **{parameter["name"]: str(value)})
                answer = never_5xx(full, operation.method, url)
                assert answer.status_code >= 400, (operation.method, url)
                checked += 1
        for parameter in (p for p in operation.where("query") if is_int(p)):
            for value in (HUGE, -HUGE, "9" * 5000, "1_0", "\u0661", "1e3", " "):
                query = {parameter["name"]: str(value)}
                answer = never_5xx(full, operation.method, operation.url(filled), params=query)
                if isinstance(value, int):
                    assert answer.status_code >= 400, (operation.method, operation.path, query)
                checked += 1
    assert checked > 100


@pytest.mark.slow
def test_no_text_in_an_address_is_a_fault_of_the_server(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    for operation in operations:
        for text in NASTY_TEXT:
            for parameter in operation.where("path"):
                never_5xx(full, operation.method, operation.url(filled, **{parameter["name"]: text}))
            if names := [p["name"] for p in operation.where("query")]:
                query = "&".join(f"{name}={text}" for name in names)
                never_5xx(full, operation.method, f"{operation.url(filled)}?{query}")


@pytest.mark.slow
def test_no_method_and_no_encoding_is_a_fault_of_the_server(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    for path in sorted({operation.url(filled) for operation in operations}):
        for method in ("TRACE", "PROPFIND", "PATCH", "LOCK", "SUBSCRIBE", "OPTIONS", "HEAD"):
            never_5xx(full, method, path)
    bodies = ['{"name":"é"}'.encode(code) for code in ("utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-7")] + [
        b"\x00",
        b"\xff\xfe",
        b"",
        b" ",
        b"{}{}",
        b"NaN",
        b'{"a":1,"a":2}',
        b"[" * 60,
        b"\x1f\x8b\x08",
    ]
    for operation in operations:
        if operation.method == "GET":
            continue
        for body in bodies:
            for kind in ("application/json", "application/json; charset=utf-16", b"application/json; charset=\xff"):
                never_5xx(full, operation.method, operation.url(filled), content=body, headers={"Content-Type": kind})


@pytest.mark.slow
def test_no_value_anywhere_in_a_body_is_a_fault_of_the_server(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    sent = 0
    for operation in operations:
        body = operation.body()
        if body is None or operation.method == "GET":
            continue
        for place in leaves(body):
            marked = planted(body, place)
            for nasty in NASTY_JSON:
                content = marked.replace("@@", nasty).encode()
                never_5xx(full, operation.method, operation.url(filled), content=content, headers=JSON)
                sent += 1
    assert sent > 1000


def test_whatever_was_sent_left_no_fault_in_the_log(full: Site) -> None:
    assert "Traceback" not in full.server.log
    assert "A request failed" not in full.server.log


def test_a_parameter_that_there_is_not_is_refused_on_each_native_route_and_no_other(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    native = [operation for operation in operations if operation.path.startswith("/api/v1/")]
    absent = []
    for operation in native:
        answer = full.http.request(operation.method, operation.url(filled), params={"frobnicate": "1"})
        if answer.status_code == 404:  # nothing of this name is in the box
            absent.append(operation.path)
            continue
        said = answer.json()["error"]
        assert (answer.status_code, said["field"]) == (400, "frobnicate"), (operation.method, operation.path, said)
        for name in [p["name"] for p in operation.where("query")]:
            misspelt = full.http.request(operation.method, operation.url(filled), params={f"{name}_": "1"})
            assert misspelt.status_code == 400, (operation.method, operation.path, name)
            assert name in misspelt.json()["error"]["hint"], (operation.method, operation.path, name)
    assert len(native) - len(absent) > 150, absent
    for path in ("/v2/models/score", "/metrics", "/livez", "/runs", "/api/v1/schema"):
        assert full.http.get(path, params={"frobnicate": "1"}).status_code == 200


def test_what_the_schema_offers_is_taken(full: Site, operations: list[Operation], filled: dict[str, str]) -> None:
    offered = [operation for operation in operations if operation.method == "GET" and operation.where("query")]
    for operation in offered:
        names = {parameter["name"]: "1" for parameter in operation.where("query")}
        answer = full.http.get(operation.url(filled), params=names)
        assert "There is no parameter" not in answer.text, (operation.path, answer.text)
    assert len(offered) > 50


# -- files of users on their way out --------------------------------------------------------------------------------------

PAGE = b"<script>fetch('/api/v1/tokens')</script>"


def test_every_file_goes_out_as_an_attachment_that_may_do_nothing(full: Site, operations: list[Operation]) -> None:
    run = full.post("/api/v1/runs", {"experiment": "pages"})["id"]
    for name in ("page.html", "picture.svg", 'a"b.html', "é.html", "no-suffix", "deep/in/a.xhtml"):
        full.put(f"/api/v1/runs/{run}/artifacts/{quote(name)}", PAGE)
        answer = full.http.get(f"/api/v1/runs/{run}/artifacts/{quote(name)}", headers={"Accept": "text/html"})
        assert answer.content == PAGE
        check_download(answer)
    dataset = full.http.get("/api/v1/datasets/sales@v1").json()
    check_download(full.http.get(f"/api/v1/datasets/sales@v1/files/{dataset['files'][0]['path']}"))


def check_download(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert not answer.headers["content-type"].startswith(("text/html", "image/", "text/xml", "application/xhtml"))


def test_no_answer_but_a_page_is_html_and_none_may_be_guessed_at(
    full: Site, operations: list[Operation], filled: dict[str, str]
) -> None:
    """Whatever else reads out what users sent, such as a job's log, is no page, whatever a browser asks for."""
    for operation in operations:
        if operation.method != "GET":
            continue
        answer = never_5xx(full, "GET", operation.url(filled), headers={"Accept": "text/html"})
        assert answer.headers["x-content-type-options"] == "nosniff", operation.path
        kind = answer.headers.get("content-type", "application/json")
        assert kind.startswith(("application/", "text/plain", "text/markdown", "text/event-stream")), (
            operation.path,
            kind,
        )


@pytest.mark.parametrize(
    "path", ["%2e%2e%2fx", "a%2f..%2fx", "a%5cb", "C%3a%2fx", "a%00b", "a%252fb", "%252e%252e", "a%0ab", "%ff" * 300]
)
def test_no_path_of_an_upload_leads_elsewhere(full: Site, filled: dict[str, str], path: str) -> None:
    url = f"/api/v1/runs/{filled['run_id']}/artifacts/{path}"
    put = full.http.put(url, content=b"x")
    assert put.status_code in (400, 404), put.text
    assert full.http.get(url).status_code in (400, 404)
