"""GPUs as the driver tells of them: bound by UUID, MIG devices counted, those of others left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pynvml
import pytest

from mlbox.errors import InvalidInput, StartupError
from mlbox.scheduler.devices import HOST, Devices
from mlbox.scheduler.gpus import Nvml, inventory
from mlbox.scheduler.policy import Box, Need, State, impossible
from tests.scheduler.driver import GIB, Chip, Driver, installed


@pytest.fixture
def driver() -> Iterator[Driver]:
    first, second = Chip("GPU-a", pids=[]), Chip("GPU-b", name="NVIDIA A100", memory=80 * GIB)
    with installed(Driver(first, second)) as library:
        yield library


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is neither ours nor below us: its parent has ended, so that the machine's first took it over."""
    shell = subprocess.run(
        ["setsid", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    pid = int(shell.stdout)
    yield pid
    os.kill(pid, 9)


def devices(**options: object) -> Devices:
    """As the box makes it, each look a new one."""
    ticks = iter(range(1000))
    return Devices(inventory("auto"), cpus=8, memory_gb=64, seconds=lambda: float(next(ticks)), **options)  # type: ignore[arg-type]


def box_of(found: Devices) -> Box:
    return found.box(found.look())


def test_devices_are_known_by_their_uuid(driver: Driver) -> None:
    found = Nvml().gpus()
    assert [(gpu.uuid, gpu.label, gpu.name, gpu.memory_gb) for gpu in found] == [
        ("GPU-a", "0", "NVIDIA H200", 139),
        ("GPU-b", "1", "NVIDIA A100", 80),
    ]
    assert [device.id for device in box_of(devices()).devices] == ["GPU-a", "GPU-b"]


def test_of_a_gpu_that_is_split_the_mig_devices_count(driver: Driver) -> None:
    parts = [Chip("MIG-1", memory=40 * GIB, use=None), None, Chip("MIG-2", memory=20 * GIB, use=None)]
    split = Driver(driver.chips[0], Chip("GPU-c", parts=parts))
    with installed(split):
        found = devices()
        assert [gpu.label for gpu in found.look()] == ["0", "1:0", "1:2"]
        assert [device.memory_gb for device in box_of(found).devices] == [139, 40, 20]
        reading = found.readings()["MIG-2"]
        assert (reading.utilization_percentage, reading.power_watts) == (None, 75)


def test_indices_choose_and_an_absent_one_is_refused(driver: Driver) -> None:
    assert [gpu.uuid for gpu in inventory("1").gpus()] == ["GPU-b"]
    with pytest.raises(StartupError, match="names GPU 2 and this box lacks it: it has 0, 1"):
        inventory("0,2")


def test_a_box_without_a_driver_has_no_gpus_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "CDLL", _no_library)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    found = Nvml()
    assert found.gpus() == []
    assert "not found" in found.missing.lower()
    assert found.readings() == {}
    with pytest.raises(StartupError, match="names GPU 0 and this box lacks it"):
        inventory("0,1")


def _no_library(name: str) -> None:
    raise OSError(name)


def test_virtual_devices_are_labelled_so() -> None:
    found = inventory("virtual:A100=80, L4=24")
    assert [(gpu.uuid, gpu.label, gpu.name, gpu.memory_gb, gpu.virtual) for gpu in found.gpus()] == [
        ("VIRTUAL-0", "0 (virtual)", "A100", 80, True),
        ("VIRTUAL-1", "1 (virtual)", "L4", 24, True),
    ]
    assert inventory("none").gpus() == []


@pytest.mark.parametrize("wrong", ["all", "virtual:", "virtual:A100", "virtual:A100=", "virtual:A100=-1", "1,", "-1"])
def test_a_setting_that_means_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        inventory(wrong)
    assert caught.value.field == "gpus"


def test_a_gpu_that_another_process_uses_is_taken_until_it_is_free(driver: Driver, stranger: int) -> None:
    found = devices()
    driver.chips[0].pids = [stranger]
    assert [gpu.taken_by for gpu in found.look()] == [f"process {stranger} (sleep)", ""]
    assert [device.taken for device in box_of(found).devices] == [True, False]
    driver.chips[0].pids = []
    assert [device.taken for device in box_of(found).devices] == [False, False]


def test_a_process_of_a_job_or_of_this_server_is_not_someone_elses(driver: Driver) -> None:
    job = ["setsid", "sh", "-c", "unset MLBOX_JOB_ID; sleep 60 >/dev/null 2>&1 & echo $!; wait"]
    with subprocess.Popen(job, stdout=subprocess.PIPE, text=True, env={**os.environ, "MLBOX_JOB_ID": "j"}) as shell:
        assert shell.stdout is not None
        below = int(shell.stdout.readline())
        driver.chips[0].pids, driver.chips[1].pids = [below], [os.getpid()]
        found = devices().look()
        os.kill(below, 9)
    assert [gpu.taken_by for gpu in found] == ["", ""]


def test_a_process_that_cannot_be_seen_is_the_jobs_that_holds_the_device(driver: Driver) -> None:
    """In a container the driver names processes by numbers of the host."""
    driver.chips[0].pids = driver.chips[1].pids = [4_000_000_000 % 2**22 + 2**22]
    found = devices().look(["GPU-a"])
    assert [bool(gpu.taken_by) for gpu in found] == [False, True]


def test_a_gpu_that_is_lost_is_left_alone(driver: Driver) -> None:
    found = devices()
    driver.chips[1].lost = True
    assert found.look()[1].taken_by == "the driver says: GPU is lost"
    assert box_of(found).devices[1].taken


def test_served_models_are_part_of_the_budget(driver: Driver) -> None:
    class Serving:
        def held_gb(self) -> dict[str, float]:
            return {"GPU-a": 10.0, HOST: 4.0}

    box = box_of(devices(ledger=Serving()))
    assert (box.memory_gb, [device.reserved_gb for device in box.devices]) == (60, [10, 0])
    driver.chips[1].pids = [os.getpid()]  # the driver says of this server what nobody else does
    assert [device.reserved_gb for device in box_of(devices()).devices] == [0, 1]
    assert impossible(Need(memory_gb=61), State(box)) is not None


def test_readings_are_what_the_driver_says(driver: Driver) -> None:
    chip = driver.chips[0]
    chip.use, chip.used, chip.milliwatts, chip.celsius = 73, 12 * GIB, 412_500, 61
    gpu = devices().look()[0]
    assert (gpu.utilization_percentage, gpu.memory_used_gb) == (73, 12)
    assert (gpu.power_watts, gpu.temperature_celsius) == (412.5, 61)
