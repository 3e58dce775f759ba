"""The thread behind everything that follows something."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mlbox.errors import Unavailable
from mlbox.events import EventBus
from mlbox.loop import Loop, attempt
from mlbox.records import Event
from tests.conftest import wait_for

LONG = 3600.0


class Counter:
    """Work that is counted, and fails as often as it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.calls = 0
        self._failures = list(failures)

    def __call__(self) -> float:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return LONG

    def until(self, calls: int) -> None:
        wait_for(lambda: self.calls >= calls, what=f"{calls} calls")


def event(kind: str) -> Event:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Event(id="1", type=kind, subject="x", actor="y", at=now, domain_at=now, data={})


def test_it_works_at_once_when_it_is_due_and_when_it_is_woken() -> None:
    work, bus = Counter(), EventBus()
    loop = Loop(work, name="t", failed="It failed")
    loop.wake_on(bus, ["mine"])
    loop.start()
    work.until(1)
    bus.publish(event("another's"))
    bus.publish(event("mine"))
    work.until(2)
    loop.wake()
    work.until(3)
    loop.close()
    bus.publish(event("mine"))
    assert work.calls == 3


def test_who_asked_for_some_types_is_told_of_these_as_long_as_it_wants_to_be() -> None:
    bus = EventBus()
    told: dict[str, list[str]] = {"all": [], "some": [], "late": []}

    def subscribe(who: str, *types: str) -> Callable[[], None]:
        return bus.subscribe(lambda one: told[who].append(one.type), *([types] if types else []))

    subscribe("all")
    some = subscribe("some", "job.", "clock.advanced")
    for kind in ("job.failed", "jobs", "clock.advanced", "clock"):
        bus.publish(event(kind))
    subscribe("late", "job.failed")
    some()
    bus.publish(event("job.failed"))
    assert told == {
        "all": ["job.failed", "jobs", "clock.advanced", "clock", "job.failed"],
        "some": ["job.failed", "clock.advanced"],
        "late": ["job.failed"],
    }


def test_what_fails_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    work = Counter(Unavailable("The store is down."), ValueError("a fault"))
    loop = Loop(work, name="t", failed="It failed", again=0.01)
    with caplog.at_level(logging.WARNING):
        loop.start()
        work.until(3)
        loop.close()
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == [
        ("WARNING", False),
        ("ERROR", True),
    ]
    assert "It failed" in caplog.text


def test_long_work_sees_that_it_is_to_stop_and_nobody_waits_longer_than_they_have_patience() -> None:
    begun, go = threading.Event(), threading.Event()

    def work() -> float:
        begun.set()
        go.wait(60)
        return 0.0 if loop.stopping else LONG

    loop = Loop(work, name="t", failed="It failed")
    loop.start()
    assert begun.wait(60)
    loop.close(0.01)
    assert loop.stopping
    go.set()
    loop.close()


def test_one_that_never_began_can_be_closed() -> None:
    Loop(Counter(), name="t", failed="It failed").close()


def test_a_rest_ends_for_who_is_in_a_hurry_and_with_the_loop() -> None:
    began, rested = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> float:
        began.release()
        loop.rest(LONG)
        rested.release()
        return 0

    loop = Loop(work, name="t", failed="It failed")
    loop.start()
    assert began.acquire(timeout=60)
    loop.wake()
    loop.wake(hurry=True)
    assert rested.acquire(timeout=60)
    assert began.acquire(timeout=60)
    loop.close()
    assert rested.acquire(timeout=60)


@pytest.mark.parametrize("fault", [Unavailable("The store is down."), ValueError("a fault")])
def test_an_attempt_that_fails_is_logged_and_gives_what_stands_for_it(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> int:
        raise fault

    assert attempt(work, "It failed", otherwise=7) == 7
    assert attempt(lambda: 3, "It failed", otherwise=7) == 3
    assert [record.message.startswith("It failed") for record in caplog.records] == [True]
