"""Live events: what a browser hears, what a slow one costs, and that streams never hold up the server's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from mlbox.clock import EPOCH
from mlbox.events import KEPT, EventBus
from mlbox.ids import new_id
from mlbox.records import Event
from mlbox.web.events_stream import QUEUE_LIMIT, RESYNC, Feed
from tests.conftest import OVERDUE, Server, wait_for


def an_event() -> Event:
    return Event(
        id=new_id(), type="run.started", subject="run:1", actor="ada", at=EPOCH, domain_at=EPOCH, data={"x": 1}
    )


@contextlib.contextmanager
def listening(server: Server, position: str | None = None, **headers: str) -> Iterator[Iterator[str]]:
    """The lines of a stream."""
    params = {"position": position} if position is not None else {}
    with server.http.stream("GET", "/api/v1/events", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield answer.iter_lines()


def next_event(lines: Iterator[str]) -> dict[str, str]:
    return next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {"))


def make_user(server: Server, name: str) -> None:
    assert server.http.post("/api/v1/users", json={"name": name, "role": "viewer"}).status_code == 201


def test_a_change_is_heard_with_its_subject_and_without_its_data(server: Server) -> None:
    with listening(server) as lines:
        assert next(lines) == "retry: 2000"
        make_user(server, "ada")
        heard = next_event(lines)
    assert (heard["type"], heard["subject"], heard["actor"]) == ("user.created", "user:ada", "admin")
    assert "data" not in heard


def test_who_comes_back_gets_what_it_missed(server: Server) -> None:
    with listening(server) as lines:
        make_user(server, "ada")
        last = next_event(lines)["id"]
    make_user(server, "grace")
    with listening(server, **{"Last-Event-ID": last}) as lines:
        assert next(event for event in iter(lambda: next_event(lines), {}) if event["subject"] == "user:grace")


def test_who_names_an_event_that_is_none_is_told_to_read_anew(server: Server) -> None:
    with listening(server, **{"Last-Event-ID": "no such"}) as lines:
        assert "event: resync" in (next(lines), next(lines), next(lines))


def position_of(page: str) -> str:
    found = re.search(r'<meta name="position" content="([^"]+)">', page)
    assert found
    return found[1]


def test_what_happened_while_a_page_was_on_its_way_is_heard(server: Server) -> None:
    page = server.http.get("/runs", headers={"accept": "text/html"}).text
    make_user(server, "ada")
    make_user(server, "grace")
    with listening(server, position_of(page)) as lines:
        assert [next_event(lines)["subject"] for _ in range(2)] == ["user:ada", "user:grace"]
    page = server.http.get("/runs", headers={"accept": "text/html"}).text
    with listening(server, position_of(page)) as lines:
        make_user(server, "edsger")
        assert next_event(lines)["subject"] == "user:edsger"


@pytest.mark.parametrize("position", ["", "nowhere", "a.b.c", "0" * 32 + ".1", "1." + "9" * 5000])
def test_a_page_of_another_process_is_told_to_read_anew(server: Server, position: str) -> None:
    with listening(server, position) as lines:
        assert "event: resync" in (next(lines), next(lines), next(lines))


def test_a_position_is_exact_until_more_happened_than_is_kept() -> None:
    bus = EventBus()
    events = [an_event() for _ in range(KEPT + 1)]
    start = bus.position
    for event in events[:KEPT]:
        bus.publish(event)
    assert bus.after(start) == events[:KEPT]
    here = bus.position
    bus.publish(events[KEPT])
    assert bus.after(start) is None
    assert bus.after(here) == events[KEPT:]
    assert bus.after(bus.position) == []


def test_twenty_open_streams_do_not_hold_up_the_end(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    request = f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(20)]
        for stream in streams:
            stream.sendall(request.encode())
        for stream in streams:
            read = b""
            while b"retry: 2000" not in read:
                read += stream.recv(4096)
        assert server.stop() == 0
        assert OVERDUE not in server.log
        assert all(_ends(stream) for stream in streams)


def _ends(stream: socket.socket) -> bool:
    return wait_for(lambda: stream.recv(4096) == b"", what="the stream to end")


def test_a_client_that_does_not_read_costs_a_bounded_queue_and_then_reads_anew() -> None:
    async def scenario() -> None:
        bus, stopping = EventBus(), asyncio.Event()
        feed = Feed(bus, stopping)
        stream = feed.stream()
        assert await anext(stream) == b"retry: 2000\n\n"
        for _ in range(QUEUE_LIMIT * 5 + 3):
            bus.publish(an_event())
        await asyncio.sleep(0)
        assert len(feed._waiting) <= QUEUE_LIMIT
        assert RESYNC in await anext(stream)
        stopping.set()
        assert [part async for part in stream] in ([], [b": still here\n\n"])
        assert not bus._subscribers

    asyncio.run(scenario())


def test_a_quiet_stream_beats() -> None:
    async def scenario() -> None:
        feed = Feed(EventBus(), asyncio.Event())
        stream = feed.stream(heartbeat=0.01)
        await anext(stream)
        assert await anext(stream) == b": still here\n\n"
        await stream.aclose()

    asyncio.run(scenario())


def test_events_take_a_token(server: Server) -> None:
    assert httpx.get(f"{server.url}/api/v1/events").status_code == 401
