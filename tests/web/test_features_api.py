"""The feature store over HTTP and the command line, on a real server."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pytest
from pyarrow import ipc

from mlbox.records import FeatureView

SALES = {
    "name": "sales",
    "event_time": "bought",
    "columns": [
        {"name": "who", "dtype": "STRING"},
        {"name": "bought", "dtype": "TIMESTAMP"},
        {"name": "amount", "dtype": "FP64", "unit": "EUR"},
    ],
}
SPEND = {
    "name": "spend",
    "join_keys": [{"name": "who", "dtype": "STRING"}],
    "features": [{"name": "total", "dtype": "FP64"}, {"name": "sales", "dtype": "INT64"}],
    "sources": ["sales"],
    "sql": "SELECT who, bought AS event_time, sum(amount) OVER week AS total, count(*) OVER week AS sales FROM sales"
    " WINDOW week AS (PARTITION BY who ORDER BY bought RANGE BETWEEN INTERVAL 7 DAYS PRECEDING AND CURRENT ROW)",
    "ttl_seconds": 7 * 86_400,
}
ROWS = b"who,bought,amount\nann,2026-01-01T00:00Z,10\nann,2026-01-03T00:00Z,5\nbea,2026-01-02T00:00Z,1\n"


def define(http: httpx.Client) -> None:
    for path, body in (("sources", SALES), ("features/views", SPEND)):
        answer = http.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text


def online(http: httpx.Client, *entities: dict[str, Any]) -> list[dict[str, Any]]:
    answer = http.post("/api/v1/features/online", json={"features": ["spend:total"], "entities": list(entities)})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows


def test_rows_go_in_and_features_come_out_as_of_domain_time(make_server: Callable[..., Any]) -> None:
    http = make_server("--replay-clock", "2026-01-02T12:00Z").http
    define(http)
    added = http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS)
    assert (added.status_code, added.json()) == (201, {"rows": 3})
    assert http.get("/api/v1/sources/sales").json()["rows"] == 3
    assert http.post("/api/v1/features/materialize", json={}).json() == {"rows": 2}
    ann, bea, carl = online(http, {"who": "ann"}, {"who": "bea"}, {"who": "carl"})
    ref = "spend@v1:total"
    assert (ann["values"][ref], bea["values"][ref], carl["values"][ref]) == (10, 1, None)
    assert carl["statuses"][ref] == "NOT_FOUND"
    http.post("/api/v1/clock", json={"to": "2026-01-04T00:00:00Z"})
    assert http.post("/api/v1/features/materialize", json={"view": "spend"}).json() == {"rows": 1}
    assert online(http, {"who": "ann"})[0]["values"][ref] == 15
    http.post("/api/v1/clock", json={"to": "2026-01-11T00:00:00Z"})
    assert online(http, {"who": "ann"})[0]["statuses"][ref] == "OUTSIDE_MAX_AGE"


def test_definitions_have_versions_and_pages(server: Any) -> None:
    http = server.http
    define(http)
    assert http.post("/api/v1/features/views", json=SPEND).json()["version"] == 1
    assert http.post("/api/v1/features/views", json={**SPEND, "ttl_seconds": None}).json()["version"] == 2
    service = http.post("/api/v1/features/services", json={"name": "checkout", "features": ["spend:total"]}).json()
    assert service["features"] == ["spend@v2:total"]
    assert http.get("/api/v1/features/services/checkout@v1").json() == service
    page = http.get("/api/v1/features/views?limit=1").json()
    (rest,) = http.get("/api/v1/features/views?after=spend@v1").json()
    assert [view["version"] for view in (*page, rest)] == [1, 2]
    assert http.get("/api/v1/features/views/spend").json() == rest
    assert http.get("/api/v1/sources?after=sales").json() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "sources", {**SALES, "event_time": "when"}, 400, "event_time"),
        ("POST", "sources", {**SALES, "columns": [{"name": "a", "dtype": "FLOAT"}]}, 400, None),
        ("POST", "sources", {**SALES, "columns": SALES["columns"][:2]}, 409, "name"),
        ("POST", "features/views", {**SPEND, "sql": "DROP TABLE sales"}, 400, "sql"),
        ("POST", "features/views", {**SPEND, "sources": ["sale"]}, 404, "source"),
        ("POST", "features/views", {**SPEND, "ttl_seconds": -1}, 400, "ttl_seconds"),
        ("POST", "features/services", {"name": "s", "features": ["spend:totl"]}, 400, "features"),
        ("POST", "features/materialize", {"view": "spent"}, 404, "view"),
        ("POST", "features/online", {"features": ["spend:total"], "entities": [{"whom": "a"}]}, 400, "entities.0.who"),
        ("POST", "features/online", {"features": ["spend:total"], "entities": [{"who": 1}]}, 400, "entities.0.who"),
        ("POST", "features/online", {"features": [], "entities": []}, 400, "features"),
        ("GET", "features/views/spend@vx", None, 400, "ref"),
        ("GET", "features/views/nothing", None, 404, "view"),
        ("GET", "sources/nothing", None, 404, "source"),
        ("POST", "sources/sales/rows?format=xml", None, 400, "format"),
        ("POST", "sources/sales/rows?format=csv", None, 400, "body"),
        ("POST", "sources/sales/rows", None, 400, "format"),
        ("POST", "sources/nothing/rows?format=csv", None, 404, "source"),
    ],
)
def test_bad_input_is_named(shared: Any, method: str, path: str, body: Any, status: int, field: str | None) -> None:
    answer = shared.http.request(method, f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert error["hint"]
    assert field is None or error["field"] == field


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.conftest import Server

    server = Server(tmp_path_factory.mktemp("shared") / "data")
    define(server.http)
    yield server
    server.stop()


def test_an_upload_larger_than_a_body_is_streamed_and_one_too_large_is_refused(make_server: Callable[..., Any]) -> None:
    server = make_server("--max-body", "4096", "--max-upload", "1048576")
    define(server.http)
    for rows, status in ((10_000, 201), (100_000, 413)):
        table = pa.table(
            {"who": ["a"] * rows, "bought": pa.array(range(rows), pa.timestamp("us")), "amount": [1.0] * rows}
        )
        sink = io.BytesIO()
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        assert len(sink.getvalue()) > 4096
        assert (
            server.http.post("/api/v1/sources/sales/rows?format=arrow", content=sink.getvalue()).status_code == status
        )
    assert server.http.get("/api/v1/sources/sales").json()["rows"] == 10_000


def test_a_viewer_reads_and_does_not_write(server: Any) -> None:
    define(server.http)
    server.http.post("/api/v1/users", json={"name": "vic", "role": "viewer"})
    secret = server.http.post("/api/v1/tokens", json={"user": "vic", "name": "t"}).json()["secret"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}) as vic:
        assert online(vic, {"who": "ann"})[0]["statuses"] == {"spend@v1:total": "NOT_FOUND"}
        for path in ("sources", "features/views", "features/services", "sources/sales/rows?format=csv"):
            body = {"name": "x", "features": []} if "services" in path else SPEND if "views" in path else SALES
            assert vic.post(f"/api/v1/{path}", json=body).status_code == 403
        assert vic.post("/api/v1/features/materialize", json={}).status_code == 403


def test_the_command_line_goes_the_same_way(server: Any, tmp_path: Path) -> None:
    mlbox = server.command
    columns = ("-c", "who:STRING", "-c", "bought:TIMESTAMP", "-c", "amount:FP64:EUR")
    assert mlbox("source", "create", "sales", *columns, "--event-time", "bought", "-o", "id").stdout == "sales\n"
    (tmp_path / "rows.csv").write_bytes(ROWS)
    assert "3 rows added" in mlbox("source", "append", "sales", str(tmp_path / "rows.csv")).stderr
    definitions = tmp_path / "features.toml"
    definitions.write_text(
        f"""
        [[views]]
        name = "spend"
        join_keys = [{{name = "who", dtype = "STRING"}}]
        features = [{{name = "total", dtype = "FP64"}}]
        sources = ["sales"]
        sql = '''{SPEND["sql"]}'''

        [[services]]
        name = "checkout"
        features = ["spend:total"]
        """
    )
    for _ in range(2):
        assert mlbox("feature", "apply", str(definitions), "-o", "id").stdout.split() == ["spend@v1", "checkout@v1"]
    assert "2 online rows" in mlbox("feature", "materialize").stderr
    shown = mlbox("feature", "get", "checkout", "--key", "who=ann", "-o", "csv").stdout
    assert "spend@v1:total,15.0,PRESENT" in shown
    assert mlbox("feature", "ls", "-o", "id").stdout == "spend@v1\n"
    assert mlbox("feature", "ls", "--services", "-o", "id").stdout == "checkout@v1\n"
    assert "sum(amount)" in mlbox("feature", "show", "spend").stdout
    assert "EUR" in mlbox("source", "show", "sales").stdout
    assert "sales" in mlbox("source", "ls").stdout
    failed = mlbox("feature", "get", "spend:totl", "--key", "who=ann")
    assert (failed.returncode, "total" in failed.stderr, failed.stdout) == (2, True, "")
    view = server.http.get("/api/v1/features/views/spend").content
    assert msgspec.json.decode(view, type=FeatureView).created_by == "admin"
