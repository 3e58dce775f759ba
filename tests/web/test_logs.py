"""The server's log: its lines, its ids, and what is never in it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mlbox.errors import StartupError
from mlbox.records import Principal
from mlbox.settings import Settings
from mlbox.store.asking import Presence
from mlbox.web import access_log
from mlbox.web.access_log import GIVEN_UP, AccessLog, given_id
from mlbox.web.logs import Handler, Sink, as_json, as_text, logging_to, request_id
from mlbox.web.redaction import redact, redact_path, redact_query

TOKEN = "mlb_" + "Ab9_-" * 8 + "x1f00aa"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


@pytest.fixture
def sink(log: Path) -> Iterator[Sink]:
    with logging_to(Settings(log_file=str(log), log_level="debug")) as opened:
        yield opened


async def _app(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["principal"] = Principal(name="ann", role="member", token_id="t1", job_id="j1")
    if scope["path"] == "/broken":
        raise ValueError("broken")
    if scope["path"] == "/silent":
        return
    logging.getLogger("mlbox.test").info("inside")
    status = 404 if scope["path"] == "/none" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": request_id.get().encode()})


class Asker:
    """An access log over a small app."""

    def __init__(self, sink: Sink, wanted: str = "on") -> None:
        self.logged = AccessLog(_app, sink, as_json, wanted)

    def __call__(self, path: str, **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.logged)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

        return asyncio.run(ask())


@pytest.fixture
def ask(sink: Sink) -> Iterator[Asker]:
    asker = Asker(sink)
    yield asker
    asker.logged.close()


def test_each_request_has_a_line_and_an_id_that_its_answer_and_its_records_carry(ask: Asker, log: Path) -> None:
    first, second = ask("/a?limit=5&token=hunter2"), ask("/none")
    ask.logged.close()
    own = first.headers["x-request-id"]
    assert (first.text, first.headers["x-own"]) == (own, "1")
    assert own != second.headers["x-request-id"]
    inside, *_ = [line for line in lines_of(log) if line["message"] == "inside"]
    assert (inside["logger"], inside["level"], inside["request_id"]) == ("mlbox.test", "info", own)
    lines = [line for line in lines_of(log) if line["logger"] == "mlbox.access"]
    assert [line["request_id"] for line in lines] == [own, second.headers["x-request-id"]]
    line = lines[0]
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "mlbox.access",
        "message": "GET /a 200",
        "request_id": own,
        "method": "GET",
        "path": "/a",
        "query": "limit=5&token=***",
        "status": 200,
        "peer": "127.0.0.1",
        "principal": "ann",
        "token_id": "t1",
        "job_id": "j1",
    }


def test_a_clients_own_id_is_kept_if_it_can_be_one(ask: Asker) -> None:
    assert ask("/a", x_request_id="trace-42.A_b").text == "trace-42.A_b"
    for bad in ("a b", "a" * 65, 'x"y', TOKEN, ""):
        assert ask("/a", x_request_id=bad).text not in (bad, "")
    assert given_id([(b"host", b"x"), (b"x-request-id", b"a\nb")]) is None


def test_what_broke_or_gave_no_answer_has_a_line_too(ask: Asker, log: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        ask("/broken")
    with pytest.raises(AssertionError):  # httpx misses the answer
        ask("/silent")
    ask.logged.close()
    lines = lines_of(log)
    assert [(line["message"], line["level"], line["status"]) for line in lines] == [
        ("GET /broken 500", "error", 500),
        ("GET /silent gone", "info", None),
    ]


@pytest.mark.parametrize(("status", "told"), [(201, "201"), (500, "500"), (GIVEN_UP, "gone")])
def test_what_came_to_its_end_though_its_client_was_gone_keeps_its_status(
    sink: Sink, log: Path, status: int, told: str
) -> None:
    there, counts = Presence(), Counter[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        there.gone = True
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def unused(*_: Any) -> Any:
        """What goes to whoever has gone."""

    logged = AccessLog(app, sink, as_json, "on", counts=counts)
    scope: Any = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b"", "headers": [], "client": None}
    asyncio.run(logged({**scope, "state": {"presence": there}}, unused, unused))
    logged.close()
    (line,) = lines_of(log)
    kept = told != "gone"
    assert (line["message"], line["status"]) == (f"POST /jobs {told}", status if kept else None)
    assert counts == {f"{status // 100}xx" if kept else "none": 1}


@pytest.mark.parametrize(("wanted", "paths"), [("off", []), ("errors", ["/none", "/broken"])])
def test_the_log_can_be_of_errors_only_or_of_nothing(sink: Sink, log: Path, wanted: str, paths: list[str]) -> None:
    asker = Asker(sink, wanted)
    assert asker("/a").headers["x-request-id"]
    asker("/none")
    with pytest.raises(ValueError, match="broken"):
        asker("/broken")
    asker.logged.close()
    assert [line["path"] for line in lines_of(log) if line["logger"] == "mlbox.access"] == paths


def test_a_log_that_is_too_slow_drops_lines_and_counts_them(
    sink: Sink, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MOST_WAITING", 3)
    monkeypatch.setattr(access_log, "BATCH_SECONDS", 60)
    asker = Asker(sink)
    for _ in range(5):
        asker("/a")
    asker.logged.close()
    lines = lines_of(log)
    assert sum(line["logger"] == "mlbox.access" for line in lines) == 3
    assert [line["message"] for line in lines if line["level"] == "warning"] == [
        "The access log was too slow: 2 requests are not in it."
    ]


def test_an_error_comes_with_its_traceback_and_without_secrets(sink: Sink, log: Path) -> None:
    logger = logging.getLogger("mlbox.test")
    try:
        raise RuntimeError(f"no use for {TOKEN} and password=hunter2")
    except RuntimeError:
        logger.exception("It failed with %s.", f"Authorization: Bearer {TOKEN}")
    (line,) = lines_of(log)
    assert line["level"] == "error"
    assert "RuntimeError: no use for mlb_*** and password=***" in line["traceback"]
    assert "test_logs.py" in line["traceback"]
    assert TOKEN not in log.read_text()
    assert "hunter2" not in log.read_text()


def test_a_record_that_cannot_be_formatted_is_named_by_its_place_alone(sink: Sink, log: Path) -> None:
    record = logging.LogRecord("mlbox.test", logging.WARNING, "place.py", 7, "%d things", ("hunter2",), None)
    Handler(sink, as_json).emit(record)
    (line,) = lines_of(log)
    assert line["message"] == "A record of place.py:7 cannot be written."
    assert "hunter2" not in log.read_text()


def test_what_ends_a_thread_is_a_record_too(sink: Sink, log: Path) -> None:
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
    (line,) = lines_of(log)
    assert line["message"] == "The thread worker ended."
    assert "ZeroDivisionError" in line["traceback"]


def test_other_packages_speak_only_of_what_went_wrong_and_ours_from_the_level_on(tmp_path: Path) -> None:
    path = tmp_path / "l.log"
    with logging_to(Settings(log_file=str(path), log_level="info")):
        for name in ("mlbox.a", "elsewhere"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "m")
    assert [(line["logger"], line["level"]) for line in lines_of(path)] == [
        ("mlbox.a", "info"),
        ("mlbox.a", "warning"),
        ("elsewhere", "warning"),
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_opened_anew(sink: Sink, log: Path) -> None:
    sink.write("one\n")
    log.rename(log.with_suffix(".1"))
    sink.write("two\n")
    assert (log.with_suffix(".1").read_text(), log.read_text()) == ("one\n", "two\n")


def test_a_file_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be written"), logging_to(Settings(log_file=str(tmp_path))):
        pass


def test_lines_for_people_are_one_line_each_whatever_was_sent() -> None:
    entry = {"time": "2026-01-01T12:34:56.789000Z", "level": "info", "logger": "mlbox.access", "status": 200}
    line = as_text({**entry, "message": "GET /a\n\x1b[2Jb 200", "method": "GET", "principal": "ann", "query": None})
    assert line == "12:34:56.789 INFO    GET /a\\n\\x1b[2Jb 200 principal=ann\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"x {TOKEN}, y", "x mlb_***, y"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'authorization': 'Basic YWJjOmRlZg=='}", "{'authorization': ***"),
        ("sent Basic YWJjOmRlZg== there", "sent Basic *** there"),
        ("password=hunter2&user=ann", "password=***&user=ann"),
        ('{"password": "hun ter2", "user": "ann"}', '{"password": ***, "user": "ann"}'),
        ("client_secret='s p'", "client_secret=***"),
        ("DB_PASSWORD: hunter2", "DB_PASSWORD: ***"),
        ("/login?once=abc&next=/", "/login?once=***&next=/"),
        ("postgres://ann:hunter2@db/x", "postgres://ann:***@db/x"),
        ("GET /login/abc/def", "GET /login/***"),
        ("The job 12 failed: exit status 3", "The job 12 failed: exit status 3"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "piece",
    ["0", "token", "token-", "token ", "token=", "token='", 'a="', "cookie ", "://a:", "bearer ", "&key", "mlb_"],
)
def test_the_longest_text_takes_no_longer_than_its_length(piece: str) -> None:
    """A million characters would take hours if any rule read them anew from each place: one request stopped the server."""
    long = piece * (1_000_000 // len(piece))
    assert redact(f"{long} password=hunter2").count("hunter2") == 0
    assert len(redact_query("/a", f"{long}=1&a={long}".encode())) > 0


def test_addresses_keep_what_is_harmless() -> None:
    assert redact_path(f"/api/v1/jobs/{TOKEN}") == "/api/v1/jobs/mlb_***"
    assert redact_path("/login/once/abc") == "/login/***"
    assert redact_path("/api/v1/jobs") == "/api/v1/jobs"
    assert redact_query("/x", b"limit=5&after=ab%20c&flag=") == "limit=5&after=ab c&flag="
    assert redact_query("/x", f"q={TOKEN}&{TOKEN}=1".encode()) == "q=mlb_***&mlb_***=1"
    assert redact_query("/x", b"api_key=a&PassWord=b&code=c&once=d&authToken=e") == (
        "api_key=***&PassWord=***&code=***&once=***&authToken=***"
    )
    assert redact_query("/login/oidc", b"state=a&anything=b") == "state=***&anything=***"


def test_the_settings_are_checked_and_the_log_is_json_off_a_terminal(
    make_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = make_server()
    answer = server.http.get("/api/v1/whoami", headers={"X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    refused = httpx.get(f"{server.url}/api/v1/whoami?password=hunter2", headers={"Host": "evil.example"})
    assert refused.headers["x-request-id"]
    assert server.stop() == 0
    lines = [msgspec.json.decode(line) for line in server.log.splitlines() if line.startswith("{")]
    mine = next(line for line in lines if line.get("request_id") == "mine-1")
    assert (mine["principal"], mine["status"], mine["path"]) == ("admin", 200, "/api/v1/whoami")
    assert next(line for line in lines if line.get("request_id") == refused.headers["x-request-id"])["status"] == 400
    assert "hunter2" not in server.log
