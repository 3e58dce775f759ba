"""What jobs left goes when its time is over, and nothing else: real jobs, and a clock that is driven by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from mlbox.clock import ManualClock, parse_time
from mlbox.records import Job
from mlbox.scheduler.sweeper import Sweeper
from mlbox.store.jobs.remains import Cleaning
from tests.conftest import wait_for
from tests.scheduler.test_scheduler import House

SAVES = 'echo saved > "$MLBOX_CHECKPOINT_DIR/a"; echo x > x; echo said; exit '
TELLING = {"claim", "log", "log.times", "status.json"}


class Swept(House):
    """With a sweeper."""

    logs: timedelta | None = timedelta(days=365)

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        super().__init__(folder, clock=clock)
        self.now = clock
        cleaning = Cleaning(
            self.dbs["jobs"], folders=timedelta(hours=24), checkpoints=timedelta(days=30), logs=self.logs
        )
        self.sweeper = Sweeper(self.scheduler._executor, cleaning, self.jobs.get, clock)

    def after(self, **time: float) -> None:
        self.now.advance(self.now.now() + timedelta(**time))
        self.sweeper.sweep()

    def left(self, job: Job, attempt: int = 1) -> list[str]:
        return sorted(path.name for path in (self.folder / "jobs" / job.id / str(attempt)).iterdir())

    def keeps_checkpoint(self, job: Job) -> bool:
        return (self.folder / "jobs" / job.id / "checkpoints" / "a").exists()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Swept]:
    built = Swept(tmp_path, ManualClock(parse_time("2026-01-01T00:00Z")))
    built.scheduler.start()
    yield built
    built.close()


def test_folders_go_after_a_day_and_logs_stay(house: Swept) -> None:
    good, bad = house.ended(house.shell(SAVES + "0")), house.ended(house.shell(SAVES + "3", retries=0))
    runs = house.until(house.shell("echo saved > $MLBOX_CHECKPOINT_DIR/a; sleep 600"), "running")
    wait_for(lambda: house.keeps_checkpoint(runs), what="its checkpoint")
    house.after(hours=23)
    assert "work" in house.left(good)
    house.after(hours=2)
    assert all(set(house.left(job)) <= TELLING for job in (good, bad))
    assert "work" in house.left(runs)
    assert [house.keeps_checkpoint(job) for job in (good, bad, runs)] == [False, True, True]
    assert [house.log(job) for job in (good, bad)] == ["said\n"] * 2
    house.after(days=30)
    assert [house.keeps_checkpoint(job) for job in (bad, runs)] == [False, True]
    assert house.log(bad) == "said\n"
    assert house.jobs.without_logs() == []
    house.after(days=335)
    assert all(house.log(job).startswith("mlbox: this log was removed") for job in (good, bad))
    assert house.jobs.get(bad.id).exit_code == 3, "its record stays"
    assert {job.id for job in house.jobs.without_logs()} == {good.id, bad.id}
    assert (house.folder / "jobs" / runs.id / "1" / "work").exists()
    house.scheduler.stop(runs.id, actor="ann")
    house.ended(runs)


def test_logs_stay_for_ever_where_no_time_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swept, "logs", None)
    house = Swept(tmp_path, ManualClock(parse_time("2026-01-01T00:00Z")))
    house.scheduler.start()
    job = house.ended(house.shell("echo said"))
    house.after(days=20_000)
    assert (house.log(job), "work" in house.left(job)) == ("said\n", False)
    house.close()


def test_a_job_that_is_retried_goes_on_from_its_checkpoint_and_is_cleaned_up_again(house: Swept) -> None:
    script = 'test -e "$MLBOX_CHECKPOINT_DIR/a" && exit 0; ' + SAVES + "3"
    job = house.ended(house.shell(script, retries=0))
    house.after(days=2)
    house.scheduler.retry(job.id, actor="ann")
    job = house.until(job, "succeeded")
    assert "work" in house.left(job, 2)
    house.after(hours=25)
    assert [house.left(job, number)[-1] for number in (1, 2)] == ["status.json"] * 2
    assert not house.keeps_checkpoint(job)


def test_a_folder_that_cannot_be_removed_keeps_none_of_the_others(house: Swept) -> None:
    first, second = (house.ended(house.shell("true")) for _ in range(2))
    blocked = house.folder / "jobs" / first.id / "1"
    elsewhere = blocked.with_name("elsewhere")
    blocked.rename(elsewhere)
    blocked.touch()  # no folder: it cannot be listed
    house.after(hours=25)
    assert house.left(second)[-1] == "status.json"
    blocked.unlink()
    elsewhere.rename(blocked)
    house.after(hours=1)
    assert "work" not in house.left(first)
