"""A job that fills the disk: it ends, what it wrote goes, and the box has room to go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.records import Job
from mlbox.scheduler.disk import HELPLESS_SECONDS, DiskGuard
from mlbox.scheduler.launcher import ref_of
from mlbox.store.jobs.remains import Cleaning
from tests.conftest import disk_of, wait_for
from tests.scheduler.test_scheduler import House

MIB = 1 << 20
DISK_MIB, RESERVE_MIB = 64, 6
ONCE_FULL = "(while :; do head -c 100k /dev/zero || break; done) >"
"""Writes in small pieces until there is no room, or it is ended."""


class Small(House):
    """On a small disk of its own, with a guard that is driven by hand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        cleaning = Cleaning(self.dbs["jobs"], folders=timedelta(days=1), checkpoints=timedelta(days=30), logs=None)
        self.executor._disk_bytes = RESERVE_MIB * MIB
        self.guard = DiskGuard(self.executor, cleaning, lambda: self.scheduler.active(), self.clock)

    def free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def guarded(self, job: Job) -> Job:
        """How a job ends, with a look at the disk now and then."""

        def ended() -> Job | None:
            self.guard.look()
            found = self.scheduler.job(job.id)
            return found if found.ended_at else None

        return wait_for(ended, what="the job to end")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Small]:
    with disk_of(tmp_path / "disk", DISK_MIB) as disk:
        built = Small(disk)
        built.scheduler.start()
        yield built
        built.close()


def test_a_job_that_fills_the_disk_is_ended_and_others_go_on(house: Small) -> None:
    other = house.until(house.shell("head -c 1M /dev/zero > mine; sleep 600"), "running")
    wait_for(lambda: house.executor.held(ref_of(other)) >= MIB, what="what the other one holds")
    filler = house.shell(f"trap '' TERM; {ONCE_FULL} big; sleep 600", gpus=2, grace_seconds=600)
    job = house.guarded(filler)
    assert (job.state, len(job.attempts)) == ("failed", 1), "and it is not tried again"
    assert job.reason.startswith("it filled the disk")
    wait_for(lambda: house.guard.look() is None and house.free() > RESERVE_MIB * MIB, what="room")
    house.guard.look()
    assert "the disk was full: what this job left here was removed" in house.log(job)
    assert house.ended(house.shell("true", gpus=2)).state == "succeeded", "its GPUs are free"
    assert house.scheduler.job(other.id).state == "running"
    assert (house.folder / "jobs" / other.id / "1" / "work" / "mine").stat().st_size == MIB
    house.scheduler.stop(other.id, actor="ann")


def test_one_that_ends_because_the_disk_is_full_has_its_end_written_down(house: Small) -> None:
    """No look came in between: there is no room to write down how it ended, until what it wrote is gone."""
    job = house.shell("head -c 70M /dev/zero > big; exit 4", retries=0)
    wait_for((house.folder / "jobs" / job.id / "1" / "status.json").exists, what="its own end")
    assert house.guard._step() != HELPLESS_SECONDS, "it looks again soon"
    job = house.guarded(job)
    assert (job.state, job.exit_code) == ("failed", 4)
    wait_for(lambda: house.guard.look() is None and house.free() > RESERVE_MIB * MIB, what="room")


def test_of_the_checkpoints_of_one_that_fills_the_disk_the_oldest_go(house: Small) -> None:
    save = 'for n in 1 2 3 4; do head -c 15M /dev/zero > "$MLBOX_CHECKPOINT_DIR/$n"; touch -d "2026-01-0$n" '
    job = house.guarded(house.shell(save + '"$MLBOX_CHECKPOINT_DIR/$n"; done; sleep 600'))
    assert job.reason.startswith("it filled the disk")
    wait_for(lambda: house.guard.look() is None and house.free() > RESERVE_MIB * MIB, what="room")
    left = sorted(path.name for path in (house.folder / "jobs" / job.id / "checkpoints").iterdir())
    assert left == ["2", "3", "4"]


def test_what_ended_jobs_left_goes_before_anybody_is_ended(house: Small) -> None:
    old = house.ended(house.shell("head -c 30M /dev/zero > old"))
    job = house.until(house.shell("head -c 27M /dev/zero > new; echo there; sleep 600"), "running")
    wait_for(lambda: "there" in house.log(job), what="what it writes")
    assert house.executor.missing() > 0
    house.guard.look()
    assert house.executor.missing() == 0
    assert not (house.folder / "jobs" / old.id / "1" / "work").exists()
    house.guard.look()
    assert house.scheduler.job(job.id).state == "running"
    house.scheduler.stop(job.id, actor="ann")


def test_nobody_is_ended_for_what_is_not_theirs(house: Small) -> None:
    job = house.until(house.shell("head -c 1M /dev/zero > mine; echo there; sleep 600"), "running")
    wait_for(lambda: "there" in house.log(job), what="what it writes")
    (house.folder / "elsewhere").write_bytes(bytes(int(house.free() - 2 * MIB)))
    for _ in range(3):
        house.guard.look()
    assert house.scheduler.job(job.id).state == "running"
    (house.folder / "elsewhere").unlink()
    house.scheduler.stop(job.id, actor="ann")
