"""Pushes, direct writes, materialization, history and large online reads, over HTTP, the SDK and the command line."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlbox
from mlbox.errors import InvalidInput
from tests.conftest import Server, wait_for
from tests.web.test_features_api import SALES

LAST = {
    "name": "last",
    "join_keys": [{"name": "who", "dtype": "STRING"}],
    "features": [{"name": "amount", "dtype": "FP64"}],
    "sources": ["sales"],
    "sql": "SELECT who, bought AS event_time, amount FROM sales",
    "ttl_seconds": 7 * 86_400,
}
ARROW = "application/vnd.apache.arrow.stream"
FIRST, SECOND = ({"who": "ann", "bought": f"2026-01-0{day}T00:00Z", "amount": float(day)} for day in (1, 2))


@pytest.fixture
def box(make_server: Callable[..., Server]) -> Server:
    return prepared(make_server)


@pytest.fixture(scope="module")
def shared(make_shared_server: Callable[..., Server]) -> Server:
    """Nothing is pushed to it that is taken."""
    return prepared(make_shared_server)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two rows were pushed to it, and none is after."""
    server = prepared(lambda *flags: Server(tmp_path_factory.mktemp("filled") / "data", *flags))
    push(server, FIRST, SECOND)
    yield server
    server.stop(signal.SIGKILL)


def prepared(start: Callable[..., Server]) -> Server:
    server = start("--replay-clock", "2026-01-04T00:00Z")
    for path, body in (("sources", SALES), ("features/views", LAST)):
        assert server.http.post(f"/api/v1/{path}", json=body).status_code == 201
    return server


def push(box: Server, *rows: dict[str, Any], **more: Any) -> Any:
    return box.http.post("/api/v1/sources/sales/push", json={"rows": rows, **more})


def test_a_push_is_online_at_once_and_known_from_now_on(box: Server) -> None:
    assert push(box, SECOND, FIRST).json() == {"rows": 2, "quarantined": 0, "online": 1}
    body = {"features": ["last:amount"], "entities": [{"who": "ann"}, {"who": "bob"}]}
    ann, bob = box.http.post("/api/v1/features/online", json=body).json()
    assert ann["values"] == {"last@v1:amount": 2.0}
    assert ann["event_times"] == {"last@v1:amount": "2026-01-02T00:00:00Z"}
    assert bob == {
        "values": {"last@v1:amount": None},
        "statuses": {"last@v1:amount": "NOT_FOUND"},
        "event_times": {"last@v1:amount": None},
    }


def test_many_entities_come_as_a_table(box: Server) -> None:
    push(box, SECOND)
    body = {"features": ["last:amount"], "entities": [{"who": "ann"}] + [{"who": f"u{n}"} for n in range(20_000)]}
    assert box.http.post("/api/v1/features/online", json=body).status_code == 400
    answer = box.http.post("/api/v1/features/online", json=body, headers={"Accept": ARROW})
    table = pa.ipc.open_stream(answer.content).read_all()
    assert (table.num_rows, table.column_names) == (20_001, ["last@v1:amount", "last@v1:amount.status"])
    assert table.slice(0, 2).to_pylist() == [
        {"last@v1:amount": 2.0, "last@v1:amount.status": "PRESENT"},
        {"last@v1:amount": None, "last@v1:amount.status": "NOT_FOUND"},
    ]


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"rows": []}, 400, "rows"),
        ({"rows": [{**FIRST, "price": 1}]}, 400, "rows.0.price"),
        ({"rows": [FIRST, {**FIRST, "amount": "much"}]}, 400, "rows.1.amount"),
        ({"rows": [{"who": "ann"}]}, 400, "bought"),
        ({"rows": [{**FIRST, "bought": "yesterday"}]}, 400, "rows.0.bought"),
        ({"rows": [FIRST] * 10_001}, 413, "rows"),
        ({"rows": [FIRST], "to": "nowhere"}, 400, "to"),
        ({"rows": [FIRST, {"bought": "2026-01-01T00:00Z", "amount": 1.0}]}, 400, "who"),
    ],
)
def test_a_push_that_does_not_fit_is_refused_as_a_whole(
    shared: Server, change: dict[str, Any], status: int, field: str
) -> None:
    answer = shared.http.post("/api/v1/sources/sales/push", json=change)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text
    assert shared.http.get("/api/v1/sources/sales").json()["rows"] == 0


def test_rows_are_written_online_and_nowhere_else(shared: Server) -> None:
    row = {"who": "ann", "amount": 7.0, "event_time": "2026-01-03T00:00Z"}
    answer = shared.http.post("/api/v1/features/views/last/online", json={"rows": [row]})
    assert (answer.status_code, answer.json()["rows"]) == (200, 1)
    older = {**row, "event_time": "2026-01-02T00:00Z"}
    assert shared.http.post("/api/v1/features/views/last@v1/online", json={"rows": [older]}).json()["rows"] == 0
    assert shared.http.get("/api/v1/sources/sales").json()["rows"] == 0


def test_a_span_is_materialized_and_everything_again(box: Server) -> None:
    push(box, FIRST, SECOND, to="offline")
    ask = {"view": "last", "start": "2025-12-31T00:00Z", "end": "2026-01-01T12:00Z"}
    assert box.http.post("/api/v1/features/materialize", json=ask).json()["rows"] == 1
    assert box.http.post("/api/v1/features/materialize", json={"full": True}).json()["rows"] == 1
    assert box.http.get("/api/v1/features/materialize").json() == []
    swapped = {**ask, "start": ask["end"], "end": ask["start"]}
    assert box.http.post("/api/v1/features/materialize", json=swapped).json()["error"]["field"] == "start"
    naive = {**ask, "start": "2026-01-01"}
    assert "no time zone" in box.http.post("/api/v1/features/materialize", json=naive).text


def test_how_fresh_a_view_is(box: Server) -> None:
    push(box, FIRST, SECOND)
    fresh = {**LAST, "schedule": "upstream", "stale_after_seconds": 3600}
    assert box.http.post("/api/v1/features/views", json=fresh).json()["version"] == 1
    wait_for(lambda: box.http.get("/api/v1/features/views/last/freshness").json()["entities"] == 1, what="the schedule")
    found = box.http.get("/api/v1/features/views/last/freshness").json()
    assert (found["view"], found["rows"], found["stale"], found["error"]) == ("last@v1", 2, False, "")
    assert found["latest_event"] == "2026-01-02T00:00:00Z"
    assert box.http.get("/api/v1/features/views/none/freshness").status_code == 404


# -- history -------------------------------------------------------------------------------------------------------------


ASKED = pa.table({"note": ["x", "y"], "who": ["ann", "ann"], "at": ["2026-01-01T00:00Z", "2026-01-04T00:00Z"]})


def spine() -> pa.Table:
    return ASKED.set_column(2, "at", ASKED["at"].cast(pa.timestamp("ns", "UTC")))


def test_history_comes_with_the_rows_in_their_order(box: Server) -> None:
    push(box, FIRST, SECOND)
    with mlbox.connect(box.url, box.token) as connected:
        found = connected.historical(["last:amount"], spine(), event_time="at")
        assert found.column_names == ["note", "who", "at", "last@v1:amount"]
        assert found["last@v1:amount"].to_pylist() == [None, 2.0]
        assert connected.historical(["last:amount"], spine().to_pylist(), event_time="at").equals(found)
        latest = connected.historical(["last:amount"], spine().to_pandas(), event_time="at", known="latest")
        assert latest["last@v1:amount"].to_pylist() == [1.0, 2.0]
        with pytest.raises(InvalidInput, match="who") as caught:
            connected.historical(["last:amount"], spine().drop_columns(["who"]), event_time="at")
        assert caught.value.field == "who"
        with pytest.raises(InvalidInput, match="feature"):
            connected.historical([], spine(), event_time="at")
        told = connected.push("sales", [{"who": "bob", "bought": "2026-01-03T00:00Z", "amount": 3}])
        assert (told.rows, told.online) == (1, 1)


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_rows_may_come_in_each_format(filled: Server, kind: str) -> None:
    body = io.BytesIO()
    if kind == "csv":
        body.write(b"note,who,at\nx,ann,2026-01-01T00:00Z\ny,ann,2026-01-04T00:00Z\n")
    elif kind == "parquet":
        pq.write_table(spine(), body)
    else:
        with pa.ipc.new_stream(body, spine().schema) as writer:
            writer.write_table(spine())
    query = {"feature": "last:amount", "event_time": "at", "format": kind}
    headers = {"Accept": "application/vnd.apache.parquet"}
    answer = filled.http.post("/api/v1/features/historical", content=body.getvalue(), params=query, headers=headers)
    found = pq.read_table(io.BytesIO(answer.content))
    assert found["last@v1:amount"].to_pylist() == [None, 2.0]
    assert found["note"].to_pylist() == ["x", "y"]


def test_the_command_line_pushes_and_looks_back(box: Server, tmp_path: Path) -> None:
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return box.command(*arguments, stdin=stdin, cwd=tmp_path)

    one = run("source", "push", "sales", "who=ann", "bought=2026-01-01T00:00Z", "amount=1")
    assert (one.returncode, "1 row taken by sales, 1 online at once." in one.stderr) == (0, True), one.stderr
    many = run("source", "push", "sales", "--file", "-", stdin=f"{json.dumps(FIRST)}\n{json.dumps(SECOND)}\n")
    assert "2 rows taken by sales, 1 online at once." in many.stderr
    bad = run("source", "push", "sales", "--file", "-", stdin="{}\n{no\n")
    assert (bad.returncode, "Line 2 is no row" in bad.stderr) == (2, True), bad.stderr
    assert "no FP64" in run("source", "push", "sales", "who=ann", "amount=much").stderr
    (tmp_path / "bad.csv").write_text("who,event_time\nann,2026-01-04T00:00Z\nbob,then\n")
    bad = run("feature", "history", "last:amount", "--rows", "bad.csv", "--to", "out.parquet")
    assert "bad.csv: 'event_time' is 'then' in row 2" in bad.stderr
    (tmp_path / "sales.csv").write_text("who,bought,amount\nann,2026-01-04T00:00Z,1\nbob,2026-01-04T00:00Z,much\n")
    assert "sales.csv: 'amount' is 'much' in row 2" in run("source", "append", "sales", "sales.csv").stderr
    unknown = run("feature", "get", "lost:amount", "--key", "who=ann").stderr
    assert "There is no view 'lost'. Did you mean last?" in unknown
    assert "There is last, and no version 9 of it." in run("feature", "get", "last@v9:amount", "-k", "who=ann").stderr
    (tmp_path / "rows.csv").write_text("who,event_time\nann,2026-01-04T00:00Z\n")
    made = run("feature", "history", "last:amount", "--rows", "rows.csv", "--to", "out.parquet")
    assert made.returncode == 0, made.stderr
    assert pq.read_table(tmp_path / "out.parquet")["last@v1:amount"].to_pylist() == [2.0]
    told = run("feature", "materialize", "last", "--start", "2026-01-01T00:00Z", "--full")
    assert told.stderr.strip().endswith("online rows changed.")
