"""Models in processes of their own: the same answers, and a death costs no request but the one that brought it about."""

from __future__ import annotations

import itertools
import math
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock, parse_time
from mlbox.errors import InvalidInput, NotFound, TimedOut, Unavailable
from mlbox.events import EventBus
from mlbox.records import ModelVersion, ServingConfig
from mlbox.serve.inference import workers as running
from mlbox.serve.inference.lanes import Lane
from mlbox.serve.inference.quarantine import CRASHES, WINDOW, Death, Quarantine, is_too_much
from mlbox.serve.inference.remote import Died, RemoteSession
from mlbox.serve.inference.runtime import CPU, Session
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.watch import Watch
from mlbox.serve.inference.work import Left, Work
from mlbox.serve.inference.workers import Workers
from mlbox.store.asking import waiting
from mlbox.store.registry.quarantines import QUARANTINED, RELEASED, Quarantines
from mlbox.store.registry.registry import NewVersion
from tests.conftest import wait_for
from tests.models import blocking, dividing, linear, mixed, save
from tests.serve.house import House
from tests.serve.test_lanes import counting

LONG, ENDLESS = 30_000, 1 << 18
"""What `blocking` takes a moment for, and a minute."""
FATAL = np.iinfo(np.int64).min
x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere that division is no trap")
versions = itertools.count(1)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    made = Workers(2)
    yield made
    made.close()


def opened(workers: Workers, model: onnx.ModelProto | bytes, folder: Path, name: str = "m") -> RemoteSession:
    version = next(versions)
    path = folder / f"{version}.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return workers.open(name, version, path, {"threads": 1})


class Way:
    """A lane to a session, and what it counted."""

    def __init__(self, workers: Workers, session: Session, **config: Any) -> None:
        self.statistics, self.watch = Statistics(), Watch()
        settings = ServingConfig(**config)
        self.lane = Lane("m/1", session, settings, self.statistics, self.watch, width=workers.count)

    def submit(self, *values: int, **more: Any) -> Any:
        data = np.array(values, np.int64)
        return self.lane.submit(Work([Tensor("input", "INT64", data)], ["score"], rows=len(values), **more))

    def reasons(self) -> dict[str, int]:
        return self.statistics.of("m", 1).reasons

    def close(self) -> None:
        self.lane.close()
        self.watch.close()


@pytest.mark.parametrize(
    ("model", "feeds"),
    [
        (linear([1.0, -2.0]), {"input": np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)}),
        (linear([1.0] * 40_000), {"input": np.random.default_rng(0).normal(size=(3, 40_000)).astype(np.float32)}),
        (mixed(), {"word": np.array(["a", "", "ü\0" * 9], object), "number": np.arange(6).reshape(3, 2)}),
        (mixed(), {"word": np.empty(0, object), "number": np.empty((0, 2), np.int64)}),
    ],
)
def test_a_worker_answers_as_the_process_itself_does(
    workers: Workers, tmp_path: Path, model: onnx.ModelProto, feeds: dict[str, np.ndarray]
) -> None:
    there, here = opened(workers, model, tmp_path), Session(model.SerializeToString(), providers=CPU)
    assert (there.inputs, there.outputs, there.tabular) == (here.inputs, here.outputs, here.tabular)
    assert (there.batched, there.output_types) == (here.batched, here.output_types)
    for one, other in zip(there.run(feeds), here.run(feeds), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_what_cannot_be_loaded_or_run_says_why_and_takes_no_worker(workers: Workers, tmp_path: Path) -> None:
    before = workers.state()
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        opened(workers, b"no model", tmp_path)
    session = opened(workers, linear([1.0, 1.0]), tmp_path)
    with pytest.raises(RuntimeError, match="input"):
        session.run({"input": np.zeros((1, 3), np.float32)})
    assert session.run({"input": np.zeros((1, 2), np.float32)})[0].tolist() == [[0.5]]
    assert workers.state().restarts == before.restarts


def held_by_all(workers: Workers, session: RemoteSession) -> None:
    key = session._held.key
    wait_for(
        lambda: all(slot.alive and not slot.busy and key in slot.holds for slot in workers._slots),
        what="all to hold it",
    )


def busy_pid(workers: Workers, session: RemoteSession, pool: ThreadPoolExecutor) -> tuple[Any, int]:
    """A run that goes on until it is killed, and the worker that has it: the one that takes time on a processor."""
    future = pool.submit(session.run, {"input": np.array([1 << 60])})
    began = {pid: _ticks(pid) for pid in workers.state().pids}
    return future, wait_for(
        lambda: next((pid for pid, was in began.items() if _ticks(pid) > was + 5), None), what="a busy worker"
    )


def _ticks(pid: int) -> float:
    """Hundredths of a second that a process computed; no end of them once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except FileNotFoundError:
        return math.inf


def test_a_worker_that_is_killed_is_back_and_holds_what_it_held(workers: Workers, tmp_path: Path) -> None:
    session = opened(workers, counting(), tmp_path)
    held_by_all(workers, session)
    before = workers.state()
    with ThreadPoolExecutor(1) as pool:
        future, pid = busy_pid(workers, session, pool)
        assert session.run({"input": np.array([3])})[0].tolist() == [3], "the other one answers meanwhile"
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Died, match="SIGKILL"):
            future.result(60)
    wait_for(lambda: (s := workers.state()).running == 2 and pid not in s.pids, what="it to be back")
    assert workers.state().restarts == before.restarts + 1
    for pid in workers.state().pids[:1]:  # so that the new one is asked as well
        os.kill(pid, signal.SIGKILL)
        assert session.run({"input": np.array([4])})[0].tolist() == [4]
    wait_for(lambda: workers.state().running == 2, what="both again")


@x86
def test_an_input_that_ends_its_process_is_tried_twice_and_takes_no_other_with_it(
    workers: Workers, tmp_path: Path
) -> None:
    way = Way(workers, opened(workers, dividing(), tmp_path, "poison"), max_delay_us=200_000)
    futures = [way.submit(value) for value in (1, FATAL, 3)]
    with pytest.raises(Unavailable, match="ended the process that ran it, twice"):
        futures[1].result(60)
    assert [futures[n].result(60).outputs[0].tolist() for n in (0, 2)] == [[-1], [-3]]
    assert way.reasons() == {"crash": 1}
    assert sum(count for name, count in workers.state().crashes.items() if name[0] == "poison") == 2
    way.close()


def test_a_run_that_nobody_waits_for_ends_and_its_worker_stays(workers: Workers, tmp_path: Path) -> None:
    way = Way(workers, opened(workers, counting(), tmp_path))
    wait_for(lambda: workers.state().running == 2, what="both")
    before = workers.state()
    with pytest.raises(TimedOut):
        way.submit(1 << 60, timeout_ms=300).result(60)
    wait_for(lambda: workers.state().busy == 0, what="the run to end")
    assert (workers.state().restarts, workers.state().pids) == (before.restarts, before.pids)
    way.close()


def test_a_run_whose_time_is_over_is_told_so_and_not_that_it_failed(workers: Workers, tmp_path: Path) -> None:
    way = Way(workers, opened(workers, counting(), tmp_path), timeout_ms=300)
    for _ in range(3):
        with pytest.raises(TimedOut):
            way.submit(1 << 60).result(60)
    assert way.reasons() == {"timeout": 3}
    way.close()


def give_up(workers: Workers, way: Way, how: str, value: int) -> None:
    """Have a run begin, of which its client does not await the end."""
    work = Work([Tensor("input", "INT64", np.array([value]))], ["score"], rows=None)
    began = {pid: _ticks(pid) for pid in workers.state().pids}
    with waiting():
        future = way.lane.submit(work)
        wait_for(lambda: any(_ticks(pid) > was + 5 for pid, was in began.items()), what="it to be in its operator")
        if how == "deadline":
            work.deadline = time.perf_counter()
            with pytest.raises(TimedOut):
                future.result(60)
    with pytest.raises((TimedOut, Left)):
        future.result(60)


@pytest.mark.parametrize("how", ["deadline", "hang-up"])
def test_no_client_has_a_version_killed_that_keeps_to_its_own_time(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It does not listen either, so that all that a client can do is not to wait."""
    monkeypatch.setattr(running, "HANG_SECONDS", 0.0)
    way = Way(workers, opened(workers, blocking(), tmp_path, "slow"))
    wait_for(lambda: workers.state().running == 2, what="both")
    before = workers.state()
    for _ in range(workers.count):
        give_up(workers, way, how, LONG)
    wait_for(lambda: workers.state().busy == 0, what="the runs to end")
    assert workers.state()._replace(busy=before.busy) == before
    assert way.submit(3).result(60).outputs[0].tolist() == [3]
    way.close()


@pytest.mark.parametrize("how", ["deadline", "hang-up"])
def test_a_version_that_hangs_for_longer_than_its_own_time_is_in_quarantine_after_three_runs(
    serving: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """However long its clients wait."""
    monkeypatch.setattr(running, "HANG_SECONDS", 0.0)
    workers = Workers(1)
    _, kept = kept_in(serving, workers)
    serving.register()
    session = workers.open("score", 1, save(blocking(), tmp_path), {"threads": 1})
    way = Way(workers, session, timeout_ms=400)
    for number in range(1, CRASHES + 1):
        assert kept.of("score", 1) is None
        held_by_all(workers, session)
        give_up(workers, way, how, ENDLESS)
        wait_for(lambda n=number: workers.state().crashes.get(("score", 1)) == n, what="the run to be ended")  # type: ignore[misc]
    found = wait_for(lambda: kept.of("score", 1), what="it to be in quarantine")
    assert "SIGKILL, as its run took more than 0.4 s" in found.reason
    with pytest.raises(Unavailable, match="score/1 is in quarantine"):
        way.submit(3).result(60)
    way.close()
    workers.close()


def test_a_run_may_take_as_long_as_its_configuration_allowed_when_it_was_asked(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HANG_SECONDS", 0.0)
    session = opened(workers, blocking(), tmp_path, "shortened")
    way = Way(workers, session, max_delay_us=0)
    before = workers.state()
    asked = [way.submit(LONG) for _ in range(workers.count + 1)]
    way.lane.configure(ServingConfig(timeout_ms=1))
    assert [future.result(60).outputs[0].tolist() for future in asked] == [[LONG]] * len(asked)
    assert workers.state().crashes == before.crashes
    way.close()


def test_what_nobody_uses_any_more_is_let_go(workers: Workers, tmp_path: Path) -> None:
    session = opened(workers, linear([1.0]), tmp_path)
    key = session._held.key
    held_by_all(workers, session)
    del session
    wait_for(lambda: not any(key in slot.holds for slot in workers._slots), what="both to let it go")


def test_many_threads_are_each_answered_with_their_own(workers: Workers, tmp_path: Path) -> None:
    sessions = [opened(workers, linear([float(weight)]), tmp_path) for weight in (1, 2, 3)]

    def ask(number: int) -> bool:
        rows = np.full((1, 1), number / 100, np.float32)
        found = sessions[number % 3].run({"input": rows})[0]
        return bool(np.allclose(found, 1 / (1 + np.exp(-rows * (number % 3 + 1)))))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(600)))


# -- quarantine ---------------------------------------------------------------------------------------------------------------

NOW = parse_time("2026-01-01T00:00Z")


@given(st.lists(st.floats(0, 1000), max_size=8))
def test_a_version_is_kept_from_running_by_deaths_within_the_window_alone(ages: Sequence[float]) -> None:
    deaths = [Death(NOW - timedelta(seconds=age)) for age in sorted([*ages, 0], reverse=True)]
    assert is_too_much(deaths) == (sum(age < WINDOW.total_seconds() for age in [*ages, 0]) >= CRASHES)


@pytest.mark.parametrize(("took", "too_much"), [(0, False), (10, False), (30, True)])
def test_the_time_that_runs_took_until_they_died_keeps_no_version_out_of_quarantine(took: int, too_much: bool) -> None:
    """Of a model that may take half an hour, one worker dies three times in an hour at most."""
    deaths = [Death(NOW + timedelta(minutes=32 * number), timedelta(minutes=took)) for number in range(CRASHES)]
    assert is_too_much(deaths) == too_much


def kept_in(serving: House, workers: Workers) -> tuple[Quarantine, Quarantines]:
    kept = Quarantines(serving.dbs["registry"], serving.registry)
    return Quarantine(kept, workers, serving.clock), kept


def test_three_deaths_in_five_minutes_keep_a_version_from_running_until_it_is_released(
    serving: House, bus: EventBus, clock: ManualClock
) -> None:
    workers = Workers(1)
    quarantine, kept = kept_in(serving, workers)
    serving.register()
    seen: list[Any] = []
    unsubscribe = bus.subscribe(lambda event: seen.append(event))
    for _ in range(4):  # never three in time
        quarantine.crashed(("score", 1), "SIGSEGV", 0.0)
        clock.advance(clock.now() + WINDOW / 2)
    assert kept.of("score", 1) is None
    for _ in range(2):
        quarantine.crashed(("score", 1), "SIGSEGV", 0.0)
    found = kept.of("score", 1)
    assert found is not None
    assert "3 processes ended" in found.reason
    assert "SIGSEGV" in found.reason
    with pytest.raises(Unavailable, match="in quarantine") as caught:
        quarantine.check("score", 1)
    assert "mlbox model release score@1" in (caught.value.hint or "")
    kept.release("score", 1, actor="ada")
    quarantine.check("score", 1)
    with pytest.raises(NotFound, match="not in quarantine"):
        kept.release("score", 1, actor="ada")
    assert [(e.type, e.actor) for e in seen if e.type in (QUARANTINED, RELEASED)] == [
        (QUARANTINED, "mlbox"),
        (RELEASED, "ada"),
    ]
    unsubscribe()
    workers.close()


class Yard:
    """A server with one worker, of a model of whole numbers."""

    def __init__(self, serving: House) -> None:
        self.serving = serving
        self.workers = Workers(1)
        quarantine, _ = kept_in(serving, self.workers)
        stores = (serving.registry, serving.artifacts, serving.features, serving.rollouts, serving.log, serving.clock)
        self.server = ModelServer(*stores, workers=self.workers, quarantine=quarantine)
        self.server.configure("whole", ServingConfig(timeout_ms=300))

    def register(self, model: onnx.ModelProto) -> ModelVersion:
        digest, size = self.serving.artifacts.put([model.SerializeToString()])
        new = NewVersion(model="whole", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
        return self.serving.registry.register(new)

    def serve(self, model: onnx.ModelProto) -> ModelVersion:
        version = self.register(model)
        self.serving.approve(self.serving.promote(version))
        return version

    def ask(self, value: int) -> list[int]:
        found = self.server.infer("whole", [Tensor("input", "INT64", np.array([value]))], caller="carl")
        answer: list[int] = found.outputs[0].data.tolist()
        return answer

    def close(self) -> None:
        self.server.close()
        self.workers.close()


@pytest.fixture
def yard(serving: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    monkeypatch.setattr(running, "HANG_SECONDS", 0.0)
    made = Yard(serving)
    yield made
    made.close()


def test_a_version_is_not_warmed_up_with_what_it_hung_on(yard: Yard) -> None:
    version = yard.serve(blocking())
    with pytest.raises(TimedOut):
        yard.ask(ENDLESS)
    wait_for(lambda: yard.workers.state().crashes == {("whole", 1): 1}, what="the run to be ended")
    yard.server.unload("whole", 1)
    yard.server.load(version)
    assert yard.workers.state().crashes == {("whole", 1): 1}
    assert yard.server.recorded("whole") == []
    assert yard.ask(3) == [3]
    assert [feeds["input"].tolist() for feeds in yard.server.recorded("whole")] == [[3]]


@x86
def test_a_version_that_hangs_on_what_the_one_before_answered_holds_up_no_load(yard: Yard) -> None:
    yard.serve(dividing())
    assert yard.ask(ENDLESS) == [-ENDLESS]
    yard.server.load(yard.register(blocking()))
    assert yard.workers.state().crashes == {("whole", 2): 1}
    assert yard.ask(3) == [-3]


@x86
def test_whoever_waits_for_a_version_in_quarantine_is_told_so(serving: House, tmp_path: Path) -> None:
    workers = Workers(1)
    kept_in(serving, workers)
    serving.register()
    session = workers.open("score", 1, save(dividing(), tmp_path), {"threads": 1})
    for _ in range(CRASHES):
        with pytest.raises(Died):
            session.run({"input": np.array([FATAL])})
    with pytest.raises(Unavailable, match="score/1 is in quarantine: 3 processes ended"):
        session.run({"input": np.array([1])})
    workers.unbar(("score", 1))
    assert session.run({"input": np.array([1])})[0].tolist() == [-1]
    workers.close()
    with pytest.raises(Unavailable, match="stops"):
        session.run({"input": np.array([1])})


def test_closing_answers_what_runs_and_leaves_no_process(tmp_path: Path) -> None:
    workers = Workers(2)
    session = opened(workers, counting(), tmp_path)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(session.run, {"input": np.array([20_000])}) for _ in range(8)]
        wait_for(lambda: workers.state().busy or all(f.done() for f in futures), what="runs")
        pids = workers.state().pids
        workers.close()
        answered = [future for future in futures if future.exception(60) is None]
    assert all(future.result()[0].tolist() == [20_000] for future in answered)
    for pid in pids:
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), what="its end")  # type: ignore[misc]
