"""Crons: each time is asked for once, whatever is down in between, and what does not become a job says why."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import AlreadyExists, InvalidInput, NotAuthorised, NotFound, Unavailable
from mlbox.events import EventBus
from mlbox.records import CronSpec, CronTrigger, Job, JobSpec
from mlbox.scheduler.crons import CronRunner
from mlbox.scheduler.executors.local import Local
from mlbox.scheduler.gpus import Virtual
from mlbox.scheduler.launcher import Launcher
from mlbox.scheduler.scheduler import Scheduler
from mlbox.store import migrations
from mlbox.store.access.access import Access
from mlbox.store.artifacts import Artifacts
from mlbox.store.cron_times import in_words, next_after
from mlbox.store.db import Database
from mlbox.store.jobs.crons import Crons
from mlbox.store.jobs.jobs import Jobs
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.tracking.tracking import Tracker

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
JOB = JobSpec(command=("true",), name="nightly")
STORES = ("access", "tracking", "jobs", "datasets", "monitoring")


class House:
    """Crons over real stores and a scheduler that queues; nothing of it runs."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.bus = ManualClock(NOON), EventBus()
        self.dbs = {
            name: Database(folder / f"{name}.sqlite", getattr(migrations, name), self.clock, self.bus)
            for name in STORES
        }
        artifacts = Artifacts(folder / "artifacts")
        access = Access(self.dbs["access"], self.clock)
        tracker = Tracker(self.dbs["tracking"], artifacts, self.clock)
        executor = Local(folder / "jobs", Virtual([]))
        launcher = Launcher(access, artifacts, url="http://x", grace_seconds=1)
        jobs, sharing = Jobs(self.dbs["jobs"]), Sharing(self.dbs["jobs"])
        self.scheduler = Scheduler(jobs, tracker, access, artifacts, self.clock, executor, launcher, sharing)
        self.refused: Exception | None = None
        self.hidden: set[str] = set()
        self.runner = self.open()

    def open(self) -> CronRunner:
        """What a new server has."""
        return CronRunner(
            Crons(self.dbs["jobs"]), self.dbs, self.submit, self.scheduler, self.sees, self.clock, self.bus
        )

    def submit(self, user: str, spec: JobSpec, *, job_id: str) -> Job:
        if self.refused is not None:
            raise self.refused
        return self.scheduler.submit(spec, user=user, job_id=job_id)

    def sees(self, user: str, kind: str, name: str) -> bool:
        return name not in self.hidden

    def add(self, schedule: str = "0 3 * * *", **more: Any) -> None:
        spec = CronSpec(**{"name": "nightly", "job": JOB, "schedule": schedule, **more})
        self.runner.add(spec, owner="ann")
        self.runner.run()

    def wait(self, **span: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**span))
        self.runner.run()

    def set(self, moment: datetime) -> None:
        """Somebody sets the machine's clock."""
        self.clock._now = moment

    def emit(self, store: str, type: str, subject: str, **data: Any) -> None:
        self.dbs[store].write(lambda tx: tx.emit(type, subject, "ann", **data))
        self.runner.run()

    @property
    def jobs(self) -> list[Job]:
        return self.scheduler.jobs()

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.outcome, one.reason) for one in self.runner.crons.firings("nightly")][::-1]

    def end_all(self) -> None:
        for job in self.jobs:
            if job.ended_at is None:
                self.scheduler.stop(job.id, actor="ann")

    def close(self) -> None:
        self.runner.close()
        self.scheduler.close()
        for database in self.dbs.values():
            database.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.close()


def test_a_job_comes_each_night_and_says_what_it_comes_from(house: House) -> None:
    house.add()
    house.wait(hours=14)
    assert house.jobs == []
    house.wait(hours=1)
    (job,) = house.jobs
    assert (job.user, job.spec.name, job.spec.command) == ("ann", "nightly", ("true",))
    assert job.spec.tags == {"mlbox.cron": "nightly", "mlbox.cause": "schedule 2026-03-03T03:00:00+00:00"}
    house.end_all()
    house.wait(days=1)
    assert len(house.jobs) == 2
    cron = house.runner.crons.get("nightly")
    assert cron.next_at == datetime(2026, 3, 5, 3, tzinfo=UTC)
    assert (cron.last_job, cron.last_outcome) == (house.jobs[0].id, "submitted")


def test_what_nobody_was_there_for_comes_once_or_not_at_all(house: House) -> None:
    house.add(misfire_seconds=3600)
    house.add(name="late", misfire_seconds=86_400)
    house.add(name="picky", misfire="skip")
    house.wait(days=5)  # five nights, the last of them nine hours ago
    assert [job.spec.tags["mlbox.cron"] for job in house.jobs] == ["late"]
    assert house.outcomes == [("skipped", "it was due 378,000 s ago")]
    assert house.runner.crons.firings("picky")[0].outcome == "skipped"
    house.end_all()
    house.wait(hours=15)  # to the minute
    assert sorted(job.spec.tags["mlbox.cron"] for job in house.jobs) == ["late", "late", "nightly", "picky"]


@pytest.mark.parametrize(
    ("overlap", "states"),
    [("skip", ["queued"]), ("queue", ["queued", "queued"]), ("replace", ["queued", "stopped"])],
)
def test_while_the_last_one_has_not_ended(house: House, overlap: str, states: list[str]) -> None:
    house.add(overlap=overlap)
    house.wait(hours=15)
    house.wait(days=1)
    assert [job.state for job in house.jobs] == states
    if overlap == "skip":
        assert house.outcomes[-1] == ("skipped", f"the job {house.jobs[0].id} had not ended")


def test_a_dataset_or_an_alert_asks_for_a_job(house: House) -> None:
    house.emit("datasets", "dataset.created", "dataset:flights@v1")  # before anyone listened
    house.add("", on=CronTrigger(kind="dataset", name="flights"))
    house.emit("datasets", "dataset.created", "dataset:other@v1")
    house.emit("datasets", "dataset.tagged", "dataset:flights@v1")
    assert house.jobs == []
    house.emit("datasets", "dataset.created", "dataset:flights@v2")
    assert len(house.jobs) == 1
    house.add("", name="retrain", on=CronTrigger(kind="alert", name="delay"))
    house.emit("monitoring", "alert.fired", "alert:1", name="drift", labels={"model": "other"})
    assert len(house.jobs) == 1
    house.emit("monitoring", "alert.fired", "alert:2", name="drift", labels={"model": "delay", "feature": "x"})
    assert house.jobs[0].spec.tags["mlbox.cron"] == "retrain"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_was_a_year_ahead_and_is_set_back_leaves_each_night_its_job(house: House, restarted: bool) -> None:
    house.add(overlap="queue")
    house.wait(hours=15)
    assert len(house.jobs) == 1
    house.wait(days=365)
    assert len(house.jobs) == 2, "of a year that nobody lived through, the last night alone"
    house.set(NOON + timedelta(hours=14))  # an hour before what has come already
    if restarted:
        house.runner = house.open()
    house.runner.run()
    house.wait(hours=2)
    assert len(house.jobs) == 2, "it does not come twice"
    house.wait(days=1)
    assert len(house.jobs) == 3
    assert house.runner.crons.get("nightly").next_at == datetime(2026, 3, 5, 3, tzinfo=UTC)


def test_what_is_private_to_others_asks_for_nothing(house: House) -> None:
    house.add("", on=CronTrigger(kind="dataset", name="flights"))
    house.hidden.add("flights")
    house.emit("datasets", "dataset.created", "dataset:flights@v1")
    assert house.jobs == []
    assert house.outcomes == []


def test_what_happened_while_the_server_was_down_is_seen_by_the_next_one(house: House) -> None:
    house.add("", on=CronTrigger(kind="dataset", name="flights"))
    house.runner.close()
    house.dbs["datasets"].write(lambda tx: tx.emit("dataset.created", "dataset:flights@v2", "ann"))
    assert house.jobs == []
    house.runner = house.open()
    house.runner.run()
    house.runner.run()
    assert len(house.jobs) == 1


def test_a_server_that_is_killed_right_after_it_submitted_submits_no_second_one(house: House) -> None:
    house.add()

    def settle(*_: object) -> None:
        raise KeyboardInterrupt  # where the process died

    house.runner.crons.settle = settle  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        house.wait(hours=15)
    house.runner.close()
    house.runner = house.open()
    house.runner.run()
    assert len(house.jobs) == 1
    assert house.outcomes == [("submitted", "")]


def test_a_store_that_is_down_holds_a_job_up_and_loses_none(house: House) -> None:
    house.add()
    house.refused = Unavailable("The tracking store is down.")
    with pytest.raises(Unavailable):
        house.wait(hours=15)
    house.refused = None
    house.wait(minutes=5)
    assert house.outcomes == [("submitted", "")]
    assert len(house.jobs) == 1


def test_a_job_that_is_refused_says_why_and_the_cron_goes_on(house: House) -> None:
    house.add()
    house.refused = NotAuthorised("ann may not sign in any more.")
    house.wait(hours=15)
    assert house.outcomes == [("refused", "ann may not sign in any more.")]
    house.refused = None
    house.wait(days=1)
    assert house.outcomes[-1] == ("submitted", "")


def test_those_who_fire_a_cron_at_once_get_a_job_each(house: House) -> None:
    house.add(overlap="queue")
    with ThreadPoolExecutor(8) as people:
        fired = list(people.map(lambda _: house.runner.fire("nightly", actor="ann"), range(24)))
    assert {one.outcome for one in fired} == {"submitted"}
    assert {one.job_id for one in fired} == {job.id for job in house.jobs}
    assert len(house.jobs) == 24


def test_a_cron_rests_and_goes_on(house: House) -> None:
    house.add()
    house.runner.pause("nightly", True, actor="ann")
    house.wait(days=3)
    assert (house.jobs, house.outcomes) == ([], [])
    assert house.runner.pause("nightly", False, actor="ann").next_at == datetime(2026, 3, 6, 3, tzinfo=UTC)
    assert house.runner.fire("nightly", actor="ann").outcome == "submitted"
    house.runner.crons.remove("nightly", actor="ann")
    with pytest.raises(NotFound):
        house.runner.crons.get("nightly")
    assert len(house.jobs) == 1


def test_a_cron_is_changed_and_keeps_its_past(house: House) -> None:
    house.add()
    house.wait(hours=15)
    house.end_all()
    other = CronSpec(name="weekly", job=JobSpec(command=("date",)), schedule="0 4 * * *")
    changed = house.runner.change("nightly", other, actor="ann")
    assert changed.next_at == datetime(2026, 3, 3, 4, tzinfo=UTC)
    assert changed.last_job == house.jobs[0].id
    house.wait(hours=1)
    assert [job.spec.command for job in house.jobs] == [("date",), ("true",)]
    house.runner.pause("weekly", True, actor="ann")
    assert house.runner.change("weekly", other, actor="ann").next_at is None
    house.add()
    with pytest.raises(AlreadyExists) as refused:
        house.runner.change("weekly", msgspec.structs.replace(other, name="nightly"), actor="ann")
    assert refused.value.field == "name"
    with pytest.raises(InvalidInput):
        house.runner.change("weekly", msgspec.structs.replace(other, schedule="never"), actor="ann")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "no spaces"}, "name"),
        ({"schedule": ""}, "schedule"),
        ({"schedule": "0 3 * *"}, "schedule"),
        ({"schedule": "0 0 3 * * *"}, "schedule"),
        ({"schedule": "61 * * * *"}, "schedule"),
        ({"schedule": "0 0 30 2 *"}, "schedule"),
        ({"timezone": "Europe/Nowhere"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"misfire_seconds": 1}, "misfire_seconds"),
        ({"misfire_seconds": 9 * 10**18}, "misfire_seconds"),
        ({"on": CronTrigger(kind="dataset", name="")}, "on"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(house: House, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        house.add(**{"schedule": "0 3 * * *", **wrong})
    assert refused.value.field == field


def test_two_of_a_team_have_two_names(house: House) -> None:
    house.add()
    with pytest.raises(AlreadyExists):
        house.add()


def test_both_changes_of_summer_time_leave_one_job_a_night() -> None:
    def nights(schedule: str, first: datetime, count: int) -> list[str]:
        found, at = [], first
        for _ in range(count):
            at = next_after(schedule, at, timezone="Europe/Berlin")
            found.append(f"{at.astimezone(ZoneInfo('Europe/Berlin')):%d %H:%M}")
        return found

    spring, autumn = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert nights("30 2 * * *", spring, 3) == ["29 03:00", "30 02:30", "31 02:30"]
    assert nights("30 2 * * *", autumn, 3) == ["25 02:30", "26 02:30", "27 02:30"]
    assert nights("0 * * * *", spring + timedelta(hours=11), 4) == ["29 01:00", "29 03:00", "29 04:00", "29 05:00"]
    assert nights("0 * * * *", autumn + timedelta(hours=11), 4) == ["25 02:00", "25 02:00", "25 03:00", "25 04:00"]


def test_weekdays_are_crons() -> None:
    assert next_after("0 3 * * 1", NOON).strftime("%A") == next_after("0 3 * * MON", NOON).strftime("%A") == "Monday"
    assert in_words("0 3 * * 1-5") == "At 03:00 on Monday through Friday"


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    start=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),
)
def test_a_daily_job_comes_once_on_each_day(minute: int, hour: int, zone: str, start: datetime) -> None:
    at, days = start.replace(tzinfo=UTC), []
    for _ in range(5):
        after = next_after(f"{minute} {hour} * * *", at, timezone=zone)
        assert after > at
        at = after
        days.append(at.astimezone(ZoneInfo(zone)).date())
    assert [b - a for a, b in pairwise(days)] == [timedelta(days=1)] * 4
