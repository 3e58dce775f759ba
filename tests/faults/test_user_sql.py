"""A server outlives the SQL of its users: what loops, swells or crashes is an error of that request, and all else is answered."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.conftest import Server, wait_for

KEY, VALUE = {"name": "who", "dtype": "STRING"}, {"name": "x", "dtype": "FP64"}
MOMENT = {"name": "moment", "dtype": "TIMESTAMP"}
ROWS = "who,x,moment\nann,1.5,2026-01-01\n"
FOR_EVER = "(SELECT sum(a.range * b.range * c.range) FROM range(100000) a, range(100000) b, range(100000) c)"
TOO_MUCH = "(SELECT len(list(range)) FROM range(4000000000))"


def apply(server: Server, name: str, value: str) -> httpx.Response:
    sql = f"SELECT who, {value} AS x, moment AS event_time FROM sales"
    spec = {"name": name, "join_keys": [KEY], "features": [VALUE], "sql": sql, "sources": ["sales"]}
    return server.http.post("/api/v1/features/views", json=spec)


def materialize(server: Server, name: str) -> httpx.Response:
    return server.http.post("/api/v1/features/materialize", json={"view": name}, timeout=60)


def workers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [one for one in children if one.name() == "mlbox-sql"]


@pytest.fixture
def filled(make_server: Callable[..., Server]) -> Server:
    server = make_server("--query-seconds", "3", "--duckdb-memory", "300MB", "--duckdb-temp", "300MB")
    source = {"name": "sales", "columns": [KEY, VALUE, MOMENT], "event_time": "moment"}
    assert server.http.post("/api/v1/sources", json=source).status_code == 201
    assert server.http.post("/api/v1/sources/sales/rows?format=csv", content=ROWS).status_code == 201
    assert apply(server, "good", "x").status_code == 201
    return server


def test_sql_of_users_takes_no_server_with_it(filled: Server) -> None:
    server, pid = filled, filled.process.pid
    for name, value in (("loops", FOR_EVER), ("swells", TOO_MUCH)):
        assert apply(server, name, value).status_code == 201, "what it costs shows when it runs"
        answer = materialize(server, name)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["field"] == "sql"
        fresh = server.http.get(f"/api/v1/features/views/{name}/freshness").json()
        assert "took longer than 3 s" in fresh["error"] if name == "loops" else "memory" in fresh["error"]
    assert apply(server, "reads", "(SELECT count(*) FROM read_text('/etc/passwd'))").status_code == 400
    long = apply(server, "long", f"length('{'x' * 65_536}')")
    assert long.status_code == 400
    assert "65,536 bytes" in long.json()["error"]["message"]
    assert materialize(server, "good").json() == {"rows": 1}
    assert server.process.poll() is None
    assert server.process.pid == pid


def test_a_query_that_is_killed_in_the_middle_fails_alone(filled: Server) -> None:
    server = filled
    apply(server, "loops", FOR_EVER)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(materialize(server, "loops")))
    asking.start()
    busy = wait_for(
        lambda: next((one for one in workers(server) if one.cpu_times().user > 1), None), what="the query to run"
    )
    os.kill(busy.pid, signal.SIGSEGV)
    assert server.http.get("/livez").status_code == 200
    asking.join(60)
    assert [answer.status_code for answer in answers] == [400]
    assert "broke the process" in answers[0].json()["error"]["message"]
    assert materialize(server, "good").json() == {"rows": 1}
    with_children = workers(server)
    server.stop(signal.SIGKILL)
    wait_for(lambda: not any(one.is_running() for one in with_children), what="the workers to end with the server")
