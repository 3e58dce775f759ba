"""Disposable workers: one for each request, forked from a process that saw none; none outlives whoever asked for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from mlbox.store.sandbox.parse_worker import ParseRequest
from mlbox.store.sandbox.workers import ForkServer, Worker
from tests.conftest import wait_for

NOTHING = ParseRequest(
    path="/nowhere", target="", format="csv", columns=(), memory_bytes=1 << 30, cpu_seconds=10, output_bytes=1
).to_json()


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.close()


def workers_of(forks: ForkServer) -> list[psutil.Process]:
    """What a fork server has forked, and what lives of it."""
    assert forks._process is not None
    return psutil.Process(forks._process.pid).children()


def waiting(forks: ForkServer, worker: Worker) -> psutil.Process:
    """The process of a worker that waits for its request."""
    return wait_for(
        lambda: next((one for one in workers_of(forks) if one.name() == "mlbox-parse"), None), what="a fork"
    )


def test_each_request_has_a_process_of_its_own_that_is_gone_with_it(forks: ForkServer) -> None:
    for _ in range(3):
        with forks.worker("parse") as worker:
            worker.send(NOTHING)
            assert b"can be read" in (worker.answer(60) or b"")
            assert worker.wait() == 0
    assert not workers_of(forks)


def test_a_worker_has_what_it_was_given_and_nothing_else_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLBOX_SECRET_OF_SERVER", "swordfish")
    forks = ForkServer()
    with forks.worker("parse") as worker, forks.worker("parse") as other:
        process = waiting(forks, worker)
        assert "swordfish" not in process.environ().values()
        assert psutil.Process(process.ppid()).num_threads() == 1, "what forks must have no threads"
        assert sorted(int(fd) for fd in os.listdir(f"/proc/{process.pid}/fd")) == [0, 1, 2]
        other.kill()
        assert other.wait() == -signal.SIGKILL
        assert other.answer() == b""
        worker.send(NOTHING)
        assert worker.answer(60), "the end of one is the end of another"
    forks.close()


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_workers_end_with_their_fork_server_and_the_next_one_takes_its_place(how: str) -> None:
    forks = ForkServer()
    with forks.worker("parse") as worker:
        process = waiting(forks, worker)
        assert forks._process is not None
        assert forks._socket is not None
        if how == "killed":
            forks._process.kill()
        else:
            forks._socket.shutdown(2)  # as the kernel does when a server is killed
        assert worker.wait() == -signal.SIGKILL
        wait_for(lambda: not process.is_running() or process.status() == "zombie", what="the worker to end")
        forks._process.wait(60)
    with forks.worker("parse") as worker:
        worker.send(NOTHING)
        assert worker.answer(60)
    forks.close()


def test_what_does_not_answer_in_time_is_ended_and_a_worker_that_is_left_too(forks: ForkServer) -> None:
    with forks.worker("parse") as worker:
        assert worker.answer(0.01) is None  # it waits for its request
        assert worker.wait() == -signal.SIGKILL
    with forks.worker("parse"):
        pass
    assert not workers_of(forks)


def test_a_fork_server_with_nothing_to_do_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlbox.store.sandbox.workers.IDLE_SECONDS", 0.05)
    forks = ForkServer()
    with forks.worker("parse") as worker:
        assert forks._process is not None
        process = psutil.Process(forks._process.pid)
        worker.send(NOTHING)
        assert worker.answer(60), "it is ended although it has a worker"
    wait_for(lambda: not process.is_running(), what="the fork server to end")
    with forks.worker("parse") as worker:
        worker.send(NOTHING)
        assert worker.answer(60)
    forks.close()
