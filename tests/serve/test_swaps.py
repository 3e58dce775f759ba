"""Versions and configurations change under requests: none fails, and no answer is of two versions. What has no room gives way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import numpy_helper

from mlbox.clock import ManualClock
from mlbox.errors import Unavailable
from mlbox.events import EventBus
from mlbox.records import PromotionPolicy, RampStep, ServingConfig
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.tensors import Tensor
from mlbox.serve.inference.workers import Workers
from mlbox.store.registry.registry import NewVersion
from tests.conftest import wait_for
from tests.models import linear
from tests.serve.house import House
from tests.web.site import open_box

AT_ONCE = PromotionPolicy(
    shadow_seconds=0,
    shadow_min_predictions=0,
    guards=(),
    steps=(RampStep(percent=5, hold_seconds=0), RampStep(percent=100, hold_seconds=0)),
)
HALVES = PromotionPolicy(
    shadow_seconds=0,
    shadow_min_predictions=0,
    guards=(),
    steps=(RampStep(percent=50, hold_seconds=0), RampStep(percent=100, hold_seconds=0)),
)


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock, bus: EventBus) -> Iterator[House]:
    built = House(tmp_path, clock, bus)
    yield built
    built.close()


def with_bus(house: House, bus: EventBus, **more: Any) -> ModelServer:
    return ModelServer(
        house.registry, house.artifacts, house.features, house.rollouts, house.log, house.clock, bus=bus, **more
    )


PAUSE, LONG = 0.05, 300.0
"""Seconds between two requests of a client, so that swaps get a turn in this one process; and how long those may take."""


class Clients:
    """Threads that ask all the time, and look at every answer: the weights of version N are N, so each tells who it is of."""

    def __init__(self, server: ModelServer, number: int) -> None:
        self._server = server
        self._stop = threading.Event()
        self.failed: list[str] = []
        self.versions: set[int] = set()
        self.count = 0
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(number)]

    def _ask(self, number: int) -> None:
        rng = np.random.default_rng(number)
        while not self._stop.wait(PAUSE):
            try:
                self._check(rng.normal(size=(rng.integers(1, 5), 2)).astype(np.float32) / 100, number)
            except Exception as err:
                self.failed.append(repr(err))

    def _check(self, rows: np.ndarray, number: int) -> None:
        found = self._server.infer(
            "score", [Tensor("input", "FP32", rows)], caller="carl", keys=[f"{number}-{self.count}"]
        )
        (version,) = set(found.versions)
        expected = 1 / (1 + np.exp(-(rows @ np.full(2, version, np.float32))))
        if not np.allclose(found.outputs[0].data[:, 0], expected, atol=1e-5):
            self.failed.append(f"not of version {version}: {found.outputs[0].data}")
        self.versions.add(version)
        self.count += 1

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def swap(house: House, clients: Clients, number: int) -> None:
    """Bring a version of the number's weights into Production, while it is asked."""
    version = house.register(float(number), float(number))
    assert version.version == number
    promotion = house.promote(version)
    wait_for(lambda: ticked(house, promotion) == "waiting_approval", what="the shadow's end", seconds=LONG)
    house.approve(promotion)
    wait_for(lambda: ticked(house, promotion) == "completed", what="the swap", seconds=LONG)
    wait_for(lambda: number in clients.versions or clients.failed, what="the new version to answer", seconds=LONG)


def ticked(house: House, promotion: str) -> str:
    house.later(seconds=1)
    house.rollouts.tick()
    return house.promotions.get(promotion).state


def swaps(
    house: House, bus: EventBus, policy: PromotionPolicy, *, number: int, clients: int, workers: Workers | None = None
) -> Clients:
    house.registry.policies.set("score", policy, actor="admin")
    server = with_bus(house, bus, workers=workers)
    house.serve_one(1.0, 1.0)
    with Clients(server, clients) as asking:
        for n in range(2, number + 2):
            server.configure("score", ServingConfig(max_batch=1 + n % 7, cache_bytes=(n % 2) << 16))
            swap(house, asking, n)
    server.close()
    return asking


@pytest.mark.parametrize("policy", [AT_ONCE, HALVES])
def test_versions_are_swapped_under_clients(house: House, bus: EventBus, policy: PromotionPolicy) -> None:
    asked = swaps(house, bus, policy, number=3, clients=4)
    assert asked.failed == []
    assert asked.versions == {1, 2, 3, 4}


def test_versions_are_swapped_under_clients_in_processes_of_their_own(house: House, bus: EventBus) -> None:
    workers = Workers(2)
    try:
        asked = swaps(house, bus, HALVES, number=3, clients=4, workers=workers)
    finally:
        workers.close()
    assert asked.failed == []
    assert asked.versions == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_swaps_under_64_clients(house: House, bus: EventBus) -> None:
    asked = swaps(house, bus, AT_ONCE, number=100, clients=64)
    assert asked.failed == []
    assert asked.versions == set(range(1, 102))


def test_what_has_no_room_makes_the_longest_unused_give_way(house: House) -> None:
    first, second = house.register(1.0, 1.0), house.register(2.0, 2.0)
    house.server.load(first)
    size = house.server.held_bytes()
    assert size > 0
    house.server.give_room(lambda held: 1.5 * size)
    house.server.load(second)
    assert [version.version for version in house.server.loaded()] == [2]
    house.server.give_room(lambda held: 0.5 * size)
    with pytest.raises(Unavailable, match=r"score/1 takes \d+ MiB, and jobs and others leave") as refused:
        house.server.load(first)
    assert refused.value.retry_seconds > 0
    assert house.server.loaded() == []
    house.server.give_room(lambda held: 4 * size)
    house.server.load(first)
    house.server.load(second)
    assert len(house.server.loaded()) == 2


def test_a_box_holds_its_models_to_the_memory_that_its_settings_give_them(tmp_path: Path) -> None:
    box = open_box(tmp_path / "data", models_memory_gb=0.0001)
    try:
        digest, size = box.artifacts.put([linear([1.0]).SerializeToString()])
        new = NewVersion(model="score", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
        with pytest.raises(Unavailable, match="jobs and others leave 0 MiB"):
            box.models.load(box.registry.register(new))
        assert box.models.held_gb() == {"": 0.0}
    finally:
        box.close()


def square(width: int) -> bytes:
    """A model with so many weights to the square."""
    model = linear([0.0] * width)
    weights = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = width
    found: bytes = model.SerializeToString()
    return found


def cycles(house: House, number: int, settle: int, width: int) -> float:
    """By what share memory grew over loads and unloads, after some that do not count."""
    digest, size = house.artifacts.put([square(width)])
    new = NewVersion(model="score", artifact=digest, size=size, trained_by="ann", submitted_by="ann")
    version = house.registry.register(new)
    resident = []
    for n in range(number):
        house.server.load(version)
        house.server.unload("score", version.version)
        if n >= settle:
            resident.append(psutil.Process().memory_info().rss)
    return resident[-1] / resident[0] - 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_hundred_loads_and_unloads_leave_memory_as_it_was(house: House) -> None:
    assert cycles(house, 500, 20, 3600) < 0.05  # 52 MB


def test_some_loads_and_unloads_leave_memory_as_it_was(house: House) -> None:
    assert cycles(house, 60, 30, 500) < 0.05
