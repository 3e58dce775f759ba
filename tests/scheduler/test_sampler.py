"""What running jobs use is kept with their runs, under MLflow's names; a GPU that is left idle is told of once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.gpus import inventory
from mlbox.scheduler.launcher import Launcher
from mlbox.scheduler.sampler import Sampler
from mlbox.scheduler.scheduler import Scheduler
from tests.conftest import wait_for
from tests.scheduler.driver import GIB, Chip, Driver, installed
from tests.scheduler.test_scheduler import House

BUSY = "while :; do :; done"


class Watched(House):
    """A house with one GPU, as the driver tells of it, and a sampler that looks when it is told to."""

    def make(self, **options: object) -> Scheduler:
        self.executor = Local(self.folder / "jobs", inventory("auto"), cpus=4, memory_gb=16)
        launcher = Launcher(self.access, self.artifacts, url="http://127.0.0.1:1", grace_seconds=0.3)
        stores = (self.jobs, self.tracker, self.access, self.artifacts, self.clock)
        return Scheduler(*stores, self.executor, launcher, self.sharing)

    def sampler(self) -> Sampler:
        return Sampler(
            *(self.executor, self.tracker, self.jobs, self.scheduler.active, self.clock),
            every=0,
            idle=timedelta(minutes=20),
        )


@pytest.fixture
def driver() -> Iterator[Driver]:
    with installed(Driver(Chip("GPU-a", use=80, used=10 * GIB, milliwatts=350_000, celsius=61))) as library:
        yield library


@pytest.fixture
def house(tmp_path: Path, driver: Driver) -> Iterator[Watched]:
    built = Watched(tmp_path, clock=ManualClock(parse_time("2026-01-01T00:00Z")))
    built.scheduler.start()
    yield built
    built.close()


def passes(house: House, **time: float) -> None:
    house.clock.advance(house.clock.now() + timedelta(**time))


def test_a_runs_system_metrics_are_those_of_its_job(house: Watched) -> None:
    job = house.until(house.shell(f"({BUSY}) & echo up; wait", gpus=1), "running")
    wait_for(lambda: "up" in house.log(job), what="the job's child")
    sampler = house.sampler()
    sampler.sample()
    wait_for(
        lambda: not passes(house, seconds=10) and sampler.sample() is None and _cpu(house, job.run_id), what="its use"
    )
    run_id = job.run_id or ""
    found = {name: metric.value or 0.0 for name, metric in house.tracker.run(run_id).metrics.items()}
    assert found["system/gpu_0_utilization_percentage"] == 80
    assert found["system/gpu_0_memory_usage_megabytes"] == pytest.approx(10 * 2**30 / 1e6)
    assert found["system/gpu_0_memory_usage_percentage"] == pytest.approx(100 * 10 / 139)
    assert found["system/gpu_0_power_usage_watts"] == 350
    assert found["system/gpu_0_power_usage_percentage"] == 50
    assert found["system/gpu_0_temperature_celsius"] == 61
    assert 0 < found["system/cpu_utilization_percentage"] <= 100
    assert found["system/system_memory_usage_megabytes"] > 0.1
    assert all(name.startswith("system/") for name in found)
    house.scheduler.stop(job.id, actor="ann")
    house.ended(job)


def _cpu(house: House, run_id: str | None) -> float | None:
    metric = house.tracker.run(run_id or "").metrics.get("system/cpu_utilization_percentage")
    return metric.value if metric else None


def test_a_gpu_that_is_left_idle_is_told_of_once_and_again_after_it_was_used(house: Watched, driver: Driver) -> None:
    job = house.until(house.shell("sleep 60", gpus=1, name="lazy"), "running")
    sampler = house.sampler()

    def told() -> list[object]:
        return [event.data["minutes"] for event in house.dbs["jobs"].events(type="job.gpu_idle")]

    def sees(use: int, **time: float) -> None:
        driver.chips[0].use = use
        house.executor._devices._read_at = -1e9  # as if a quarter of a second had gone by
        sampler.sample()
        passes(house, **time)

    sees(0, minutes=19)
    sees(0, minutes=1)
    assert told() == []
    sees(0, minutes=30)
    sees(0, minutes=1)
    assert told() == [20]
    sees(90, minutes=1)
    sees(1, minutes=20)
    sees(1, minutes=1)
    assert told() == [20, 20]
    house.scheduler.stop(job.id, actor="ann")
    house.ended(job)
