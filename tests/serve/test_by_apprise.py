"""Messages by apprise: a real receiver of its json:// service, and what an address may not make the server do."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlbox.errors import InvalidInput, Unavailable
from mlbox.serve.alerts import by_apprise
from mlbox.serve.alerts.apprise_worker import Told
from mlbox.store.monitoring.alert_rules import load
from tests.conftest import Server, wait_for

LOOPBACK = ("127.0.0.1",)


class Receiver:
    """Answers with a status, and keeps what it was sent."""

    def __init__(self, host: str = "127.0.0.1", status: int = 200, location: str = "") -> None:
        self.got: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.got.append(json.loads(body))
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST  # as http.server calls it

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.place = f"{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*arguments: Any, **more: Any) -> Receiver:
        made.append(Receiver(*arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def test_a_message_arrives_with_its_title_and_its_text(receiver: Callable[..., Receiver]) -> None:
    there = receiver()
    told = by_apprise.send(f"json://{there.place}/in", "1 firing: model delay\npage: temp drifts", LOOPBACK)
    assert told == Told(True, "sent")
    (got,) = there.got
    assert (got["title"], got["message"], got["type"]) == (
        "[mlbox] 1 firing: model delay",
        "page: temp drifts",
        "warning",
    )


def test_a_refusal_says_what_was_answered_and_is_tried_again(receiver: Callable[..., Receiver]) -> None:
    told = by_apprise.send(f"json://user:geheim@{receiver(status=500).place}", "text", LOOPBACK)
    assert (told.taken, told.final) == (False, False)
    assert "500" in told.words
    assert "geheim" not in told.words


def test_nothing_is_sent_inwards_not_by_a_redirect_either(receiver: Callable[..., Receiver]) -> None:
    inside = receiver("127.0.0.2")
    told = by_apprise.send(f"json://{inside.place}", "text", LOOPBACK)
    assert "127.0.0.2 is not on the public internet" in told.words
    outside = receiver(status=307, location=f"http://{inside.place}/")
    assert by_apprise.send(f"json://{outside.place}?redirect=yes", "text", LOOPBACK).taken is False
    assert len(outside.got) == 1
    assert inside.got == []


def test_an_address_reads_no_file_and_starts_no_program(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"text": "the secret"}')
    there = receiver()
    url = f"workflows://{there.place}/workflow/signature?template={tmp_path / 'secret.json'}"
    assert by_apprise.send(url, "text", LOOPBACK).taken is False
    assert there.got == []


@pytest.mark.parametrize("url", ["nonsense", "nosuch://here", "json://", ""])
def test_an_address_that_is_none_is_final(url: str) -> None:
    told = by_apprise.send(url, "text", LOOPBACK)
    assert (told.taken, told.final) == (False, True)


def test_a_service_that_hangs_is_given_up_for_now() -> None:
    with pytest.raises(Unavailable, match=r"not done after 0\.001 seconds"):
        by_apprise.send("json://127.0.0.1:9", "text", LOOPBACK, seconds=0.001)


def test_without_the_extra_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rules = tmp_path / "rules.toml"
    rules.write_text('[channel.ops]\ntype = "apprise"\nurl = "json://a"\n')
    with pytest.raises(InvalidInput, match="does not have") as refused:
        load(str(rules))
    assert "mlbox[apprise]" in refused.value.hint
    with pytest.raises(Unavailable) as late:
        by_apprise.send("json://a", "text", ())
    assert "mlbox[apprise]" in late.value.hint


def test_a_channel_of_it_is_tested_and_the_delivery_recorded(receiver: Callable[..., Receiver], tmp_path: Path) -> None:
    there = receiver()
    key = tmp_path / "url"
    key.write_text(f"json://{there.place}/geheim\n")
    key.chmod(0o600)
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[channel.ops]\ntype = "apprise"\nurl_file = "{key}"\n')
    server = Server(tmp_path / "data", "--alert-rules", str(rules), "--outgoing-allow", "127.0.0.1")
    try:
        assert server.http.post("/api/v1/alerts/channels/ops/test").status_code == 202
        path = "/api/v1/alerts/channels/ops/deliveries"
        (sent,) = wait_for(
            lambda: [one for one in server.http.get(path).json() if one["state"] == "delivered"], what="the message"
        )
        assert (sent["address"], sent["status"]) == ("channel:ops", "sent")
        assert there.got[0]["message"] == "A test by admin: this channel works."
        assert "geheim" not in server.http.get(path).text + server.http.get("/api/v1/alerts/rules").text
    finally:
        server.stop()
