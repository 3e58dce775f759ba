"""Clients that leave: the version is to blame where they waited for longer than its model usually takes, and else it is not."""

from __future__ import annotations

import contextvars
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlbox.serve.inference.server import PredictRow
from mlbox.serve.inference.warmup import Speed
from mlbox.serve.inference.work import Left
from mlbox.store.asking import presence, waiting
from mlbox.web.v2.queueing import queueing, wire_deadline
from tests.conftest import wait_for
from tests.serve.house import House
from tests.serve.test_lanes import MODEL, Held, Place

ROW = PredictRow(key="k", features={"amount": 1.0, "visits": 1.0})


@pytest.mark.parametrize(
    ("waited", "usual", "blamed"),
    [(10.0, 3.0, True), (8.0, 3.0, False), (10.0, 0.0, False), (0.09, 0.001, False), (0.11, 0.001, True)],
)
def test_whoever_waited_clearly_longer_than_usual_left_for_that(waited: float, usual: float, blamed: bool) -> None:
    err = Left("gone")
    err.waited = waited
    assert err.is_blamed(usual) == blamed


def test_what_is_usual_is_known_from_the_first_answer_on() -> None:
    place = Place(Held(MODEL))
    assert place.lane.usual_seconds(1) == 0
    first = place.hold()
    began = time.perf_counter()
    wait_for(lambda: time.perf_counter() - began > 0.2, what="the run to take its time")
    place.session.gate.set()  # type: ignore[attr-defined]
    first.result(60)
    assert 0.2 < place.lane.usual_seconds(1) < 60
    place.lane.speed = Speed(1.0, 100.0)
    assert place.lane.usual_seconds(3) == 201
    place.close()


@pytest.mark.parametrize(("usual", "errors"), [(0.01, 1), (1000.0, 0)])
def test_a_canary_that_takes_longer_than_the_champion_until_clients_leave_has_errors(
    serving: House, usual: float, errors: int
) -> None:
    """However long it takes by itself."""
    serving.serve_one(1.0, 1.0)
    serving.promote(serving.register(-1.0, 1.0))
    for version in (1, 2):
        serving.ask(ROW, version=version)
    champion, canary = (serving.server._loader.get("score", number) for number in (1, 2))
    champion.lane.speed, canary.lane.speed = Speed(usual, 0.0), Speed(1000.0, 0.0)
    canary.lane._session = session = Held(MODEL)
    with ThreadPoolExecutor(1) as pool:
        with waiting():
            own: Callable[..., Any] = contextvars.copy_context().run
            asked = pool.submit(own, serving.ask, ROW, version=2)
            assert session.busy.wait(60)
            began = time.perf_counter()
            wait_for(lambda: time.perf_counter() - began > 0.3, what="more than it takes the champion")
            presence().gone = True
            with pytest.raises(Left):
                asked.result(60)
        session.gate.set()
    traffic = serving.log.traffic("score", 2, "champion")
    assert (traffic.count, traffic.errors) == (1, errors)


def test_the_deadline_of_a_call_is_counted_from_when_it_began_however_late_its_work_is_made() -> None:
    def asked(until: float, **parameters: int) -> float:
        wire_deadline.set(until)
        return queueing(parameters)["timeout_ms"]

    run = contextvars.copy_context().run
    now = time.perf_counter()
    assert run(asked, math.inf) == math.inf
    assert run(asked, now - 1) == run(asked, now - 1, timeout=10**6) == 0
    assert 0 < run(asked, now + 100) < 100_000
    assert run(asked, now + 100, timeout=10**6) == 1000
