"""What people asked to be told arrives by post and by mail, again until it is taken, and also by the next server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput
from mlbox.events import EventBus
from mlbox.outgoing import Outgoing
from mlbox.records import Job, JobSpec
from mlbox.serve.alerts.courier import Courier, Mail
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.jobs import End, Grant, Jobs
from mlbox.store.jobs.notices import check_notify
from mlbox.store.outbox import MOST_TRIES, Outbox
from tests.conftest import unclaimed_port


class Receiver:
    """A real server that keeps what it was told, and answers as it is set to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/services/T0/private"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Postbox:
    """What a mail server was handed."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], str]] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        await asyncio.sleep(0)
        if self.answer.startswith("250"):
            self.mails.append((envelope.rcpt_tos, envelope.content.decode()))
        return self.answer


class Office:
    """Jobs with an outbox, and a courier that is driven by hand."""

    def __init__(self, folder: Path, receiver: Receiver, smtp: str = "") -> None:
        self.clock, self.bus = ManualClock(parse_time("2026-01-01T00:00Z")), EventBus()
        self.db = Database(folder / "jobs.sqlite", migrations.jobs, self.clock, self.bus)
        self.jobs, self.outbox, self.receiver = Jobs(self.db), Outbox(self.db), receiver
        self.courier = self.open(smtp)

    def open(self, smtp: str = "") -> Courier:
        """What a new server has."""
        mail = Mail(smtp, "mlbox@lab.example")
        outgoing = lambda: Outgoing(["127.0.0.0/8"])  # noqa: E731
        return Courier([self.outbox], outgoing, mail, self.clock, self.bus, told_by=("job.",))

    def run(self, job_id: str, *notify: str) -> None:
        spec = JobSpec(command=("true",), name=f"mlp-{job_id}", notify=notify)
        job = Job(id=job_id, user="ann", spec=spec, state="queued", created_at=self.clock.real(), run_id="r")
        self.jobs.add(job)
        self.jobs.begin_attempts({job_id: Grant()})
        self.jobs.started({job_id: 1})

    def end(self, job_id: str, state: Any = "failed", reason: str = "exit status 3") -> None:
        self.jobs.end_attempts({job_id: End(state, exit_code=3, reason=reason)})
        self.courier.deliver()

    def states(self, job_id: str) -> list[str]:
        return [one.state for one in self.outbox.of(f"job:{job_id}")]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    built = Receiver()
    yield built
    built.close()


@pytest.fixture
def office(tmp_path: Path, receiver: Receiver) -> Iterator[Office]:
    built = Office(tmp_path, receiver)
    yield built
    built.courier.close()
    built.db.close()


def test_the_end_of_a_job_is_told_with_facts_and_a_text(office: Office, receiver: Receiver) -> None:
    office.run("j", receiver.url)
    office.end("j")
    (body,) = receiver.got
    assert body["text"] == "mlp-j of ann failed: exit status 3"
    assert (body["event"], body["job"]["id"], body["job"]["run"]) == ("job.failed", "j", "r")
    (delivery,) = office.outbox.of("job:j")
    assert (delivery.state, delivery.status, delivery.tries) == ("delivered", "200", 1)
    assert "private" not in delivery.address
    office.courier.deliver()
    assert len(receiver.got) == 1


def test_a_job_that_gives_way_and_one_that_diverges_are_told_once_each(office: Office, receiver: Receiver) -> None:
    office.run("j", receiver.url)
    for _ in range(2):
        office.jobs.diverged("j", 0, "loss is nan at step 7")
    office.jobs.ask_to_stop("j", actor="mlbox", cause="preempted", reason="gives way to k")
    office.end("j")
    office.courier.deliver()
    assert [body["text"] for body in receiver.got] == [
        "mlp-j of ann diverges: loss is nan at step 7",
        "mlp-j of ann gives way to another and will go on: gives way to k",
    ]


def test_what_is_not_taken_is_told_again_also_by_the_next_server(office: Office, receiver: Receiver) -> None:
    receiver.status = 503
    office.run("j", receiver.url)
    office.end("j")
    assert office.states("j") == ["due"]
    office.courier.deliver()
    assert len(receiver.got) == 1  # not before its time
    office.courier.close()
    office.courier = office.open()
    receiver.status = 200
    office.clock.advance(office.clock.now() + timedelta(seconds=6))
    office.courier.deliver()
    assert office.states("j") == ["delivered"]


def test_a_refusal_ends_it_and_an_outage_does_after_the_last_try(office: Office, receiver: Receiver) -> None:
    receiver.status = 404
    office.run("j", receiver.url)
    office.end("j")
    assert office.states("j") == ["gave_up"]
    receiver.status = 500
    office.run("k", receiver.url)
    office.end("k")
    for _ in range(MOST_TRIES):
        office.clock.advance(office.clock.now() + timedelta(hours=3))
        office.courier.deliver()
    assert office.states("k") == ["gave_up"]
    assert len(receiver.got) == 1 + MOST_TRIES


def test_one_that_is_down_holds_up_no_other(office: Office, receiver: Receiver) -> None:
    office.run("j", "http://127.0.0.1:9/nobody", receiver.url)
    office.end("j")
    assert sorted(office.states("j")) == ["delivered", "due"]


def test_an_address_of_the_inside_is_told_nothing(office: Office, receiver: Receiver) -> None:
    strict = Courier([office.outbox], Outgoing, Mail(""), office.clock, office.bus, told_by=())
    office.courier.close()
    office.courier = strict
    office.run("j", receiver.url)
    office.end("j")
    assert receiver.got == []
    assert "not a public address" in office.outbox.of("job:j")[0].status


def test_mail_arrives_and_a_box_without_a_mail_server_says_so(office: Office) -> None:
    office.run("j", "mailto:ann@lab.example")
    office.end("j", "succeeded", "exit status 0")
    assert office.outbox.of("job:j")[0].status == "This box sends no mail. Set smtp_url."
    postbox = Postbox()
    port = unclaimed_port()
    smtp = Controller(postbox, hostname="127.0.0.1", port=port)
    smtp.start()
    try:
        office.courier.close()
        office.courier = office.open(f"smtp://127.0.0.1:{port}")
        office.run("k", "mailto:ann@lab.example")
        postbox.answer = "451 try again"
        office.end("k", "succeeded", "exit status 0")
        assert office.states("k") == ["due"]
        postbox.answer = "250 OK"
        office.clock.advance(office.clock.now() + timedelta(minutes=1))
        office.courier.deliver()
    finally:
        smtp.stop()
    ((to, content),) = postbox.mails
    assert to == ["ann@lab.example"]
    assert "Subject: [mlbox] mlp-k of ann succeeded" in content
    assert office.states("k") == ["delivered"]


@pytest.mark.parametrize(
    "address",
    ["", "ann@example.org", "mailto:", "mailto:a@b,c@d", "mailto:a@b\nBcc: c@d", "ftp://x/y", "https://", "x" * 3000],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_notify([address])
    assert refused.value.field == "notify"


def test_ten_addresses_are_enough() -> None:
    with pytest.raises(InvalidInput):
        check_notify(["mailto:ann@example.org"] * 11)
