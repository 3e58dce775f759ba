"""Queues, quotas and weights are kept as they were set, and what was used follows from the attempts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbox.clock import ManualClock
from mlbox.errors import Conflict, InvalidInput, NotFound
from mlbox.events import EventBus
from mlbox.records import Job, JobQueue, JobSpec, TeamQuota
from mlbox.store import migrations
from mlbox.store.db import Database
from mlbox.store.jobs.jobs import End, Grant, Jobs
from mlbox.store.jobs.sharing import Sharing
from mlbox.store.windows import DAYS, check_zone, parse_window

HOUR = timedelta(hours=1)


class House:
    """The jobs of one box, and how it is shared."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.db = Database(folder / "jobs.sqlite", migrations.jobs, clock, EventBus())
        self.jobs = Jobs(self.db)
        self.sharing = Sharing(self.db)

    def queued(self, name: str, team: str, user: str = "ann", **spec: object) -> None:
        made = JobSpec(command=("true",), name=name, team=team, **spec)  # type: ignore[arg-type]
        self.jobs.add(Job(id=name, user=user, spec=made, state="queued", created_at=self.clock.real()))

    def begun(self, name: str, team: str, gpus: float, **spec: object) -> None:
        self.queued(name, team, gpus=gpus, **spec)
        self.jobs.begin_attempts({name: Grant([0], gpu_count=gpus)})

    def wait(self, **time: float) -> None:
        self.clock.advance(self.clock.now() + timedelta(**time))

    def ends(self, name: str) -> None:
        self.jobs.end_attempts({name: End("succeeded", 0, "")})

    def events(self, type: str) -> list[dict[str, object]]:
        return [event.data for event in self.db.events(type=type)]


@pytest.fixture
def house(tmp_path: Path, clock: ManualClock) -> Iterator[House]:
    built = House(tmp_path, clock)
    yield built
    built.db.close()


# -- windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Mon-Fri 09:00-18:00", "mon-fri 09:00-18:00"),
        ("fri-mon 22:00-6:00", "mon,fri-sun 22:00-06:00"),
        ("sat,sun", "sat-sun"),
        ("mon", "mon"),
        ("daily  0:00-24:00", "daily"),
        ("mon-sun 08:30-24:00", "daily 08:30-24:00"),
    ],
)
def test_a_window_is_read_as_people_write_it(text: str, written: str) -> None:
    assert str(parse_window(text)) == written


@given(
    st.frozensets(st.sampled_from(DAYS), min_size=1),
    st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    st.times(),
)
def test_what_is_written_is_read_as_the_same(days: frozenset[str], start: object, end: object) -> None:
    window = parse_window(f"{','.join(days)} {start:%H:%M}-{end:%H:%M}")
    assert parse_window(str(window)) == window
    assert {DAYS[day] for day in window.days} == days


@pytest.mark.parametrize(
    "wrong", ["", "9-18", "monday", "mon 9-18", "mon 25:00-26:00", "mon 09:60-10:00", "mon 24:00-25:00", "mon,,tue"]
)
def test_what_is_no_window_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_window(wrong)
    assert (caught.value.field, bool(caught.value.hint)) == ("windows", True)


@given(st.text(max_size=30))
def test_any_text_is_a_window_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert parse_window(text).days


@pytest.mark.parametrize("wrong", ["", "Nowhere/Atlantis", "../etc/passwd", "Europe", "\0"])
def test_a_zone_that_there_is_not_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidInput, match="no time zone"):
        check_zone(wrong)


# -- queues -------------------------------------------------------------------------------------------------------------


def test_there_are_three_queues_to_begin_with(house: House) -> None:
    found = {queue.name: queue.weight for queue in house.sharing.queues()}
    assert found == {"default": 1, "experiments": 1, "production-retraining": 3}


def test_a_queue_is_made_changed_and_taken_away(house: House) -> None:
    made = house.sharing.set_queue(JobQueue(name="nightly", weight=2, max_gpus=4), actor="root")
    assert made == house.sharing.queue("nightly")
    house.sharing.set_queue(JobQueue(name="nightly", slice_minutes=5), actor="root")
    assert house.sharing.queue("nightly") == JobQueue(name="nightly", slice_minutes=5)
    house.sharing.remove_queue("nightly", actor="root")
    with pytest.raises(NotFound, match="no queue 'nightly'"):
        house.sharing.queue("nightly")
    assert [event["weight"] for event in house.events("queue.set")] == [1, 2]
    assert len(house.events("queue.removed")) == 1


def test_a_queue_counts_its_jobs_and_is_not_removed_under_them(house: House) -> None:
    house.queued("a", "everyone", queue="experiments")
    house.begun("b", "everyone", 1)
    counts = {queue.name: (queue.waiting, queue.running) for queue in house.sharing.queues()}
    assert counts == {"default": (0, 1), "experiments": (1, 0), "production-retraining": (0, 0)}
    with pytest.raises(Conflict, match="1 jobs wait or run"):
        house.sharing.remove_queue("experiments", actor="root")
    with pytest.raises(Conflict, match="default"):
        house.sharing.remove_queue("default", actor="root")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"weight": 0.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"max_gpus": -1.0}, "max_gpus"),
        ({"max_running": -1}, "max_running"),
        ({"slice_minutes": 0.0}, "slice_minutes"),
        ({"slice_minutes": 1e300}, "slice_minutes"),
        ({"weight": 1e-300}, "weight"),
        ({"name": "a b"}, "name"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(house: House, wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.sharing.set_queue(JobQueue(**{"name": "x", **wrong}), actor="root")  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_teams_own_queue_is_for_its_jobs_alone(house: House) -> None:
    check = house.sharing.check_queue
    for name in ("", "default", "experiments"):
        check(name, "vision", "everyone")
    check("vision", "vision", "vision")  # it need not be made
    with pytest.raises(NotFound, match="no queue 'speech'"):
        check("speech", "vision", "speech")
    house.sharing.set_queue(JobQueue(name="speech"), actor="root")
    with pytest.raises(InvalidInput, match="is the team speech's"):
        check("speech", "vision", "speech")
    check("speech", "speech", "speech")


# -- quotas -------------------------------------------------------------------------------------------------------------


def test_a_quota_is_set_replaced_shown_and_taken_away(house: House) -> None:
    sharing = house.sharing
    sharing.set_quota(TeamQuota(team="vision", gpus=4), actor="root")
    day = TeamQuota(team="vision", name="day", share=0.4, windows=("Mon-Fri 9:00-18:00",), zone="Europe/Berlin")
    assert sharing.set_quota(day, actor="root").windows == ("mon-fri 09:00-18:00",)
    sharing.set_quota(TeamQuota(team="speech", share=0.5, borrowable=True), actor="root")
    sharing.set_quota(TeamQuota(team="vision", gpus=3), actor="root")
    assert [(quota.team, quota.name, quota.gpus, quota.share) for quota in sharing.quotas()] == [
        ("speech", "default", None, 0.5),
        ("vision", "day", None, 0.4),
        ("vision", "default", 3, None),
    ]
    sharing.remove_quota("vision", "day", actor="root")
    with pytest.raises(NotFound, match="no quota 'day'"):
        sharing.remove_quota("vision", "day", actor="root")
    assert [quota.name for quota in sharing.quotas("vision")] == ["default"]
    assert len(house.events("quota.set")) == 4


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({}, "gpus"),
        ({"gpus": 1.0, "share": 0.5}, "gpus"),
        ({"gpus": -1.0}, "gpus"),
        ({"gpus": float("inf")}, "gpus"),
        ({"share": 1.5}, "share"),
        ({"share": float("nan")}, "share"),
        ({"gpus": 1.0, "windows": ("never",)}, "windows"),
        ({"gpus": 1.0, "windows": ("mon",) * 51}, "windows"),
        ({"gpus": 1.0, "zone": "Mars"}, "zone"),
        ({"gpus": 1.0, "name": ""}, "name"),
    ],
)
def test_a_quota_that_cannot_be_is_refused(house: House, wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        house.sharing.set_quota(TeamQuota(team="vision", **wrong), actor="root")  # type: ignore[arg-type]
    assert caught.value.field == field
    assert house.sharing.quotas() == []


def test_a_weight_is_set_and_changed(house: House) -> None:
    house.sharing.set_weight("vision", 2, actor="root")
    house.sharing.set_weight("vision", 3, actor="root")
    assert [(each.team, each.weight) for each in house.sharing.weights()] == [("vision", 3)]
    with pytest.raises(InvalidInput, match="weight is 0"):
        house.sharing.set_weight("vision", 0, actor="root")


# -- use ----------------------------------------------------------------------------------------------------------------


def test_use_is_counted_within_the_period_by_team_and_person(house: House) -> None:
    start = house.clock.real()
    house.begun("a", "vision", 2, cpus=8)
    house.wait(hours=3)
    house.ends("a")
    house.begun("b", "vision", 0.5, user="bea", cpus=1)
    house.wait(hours=1)
    now = house.clock.real()
    whole = {(row.team, row.user): row for row in house.sharing.used(start, now)}
    assert {key: (row.gpu_hours, row.cpu_hours, row.jobs) for key, row in whole.items()} == {
        ("vision", "ann"): (6, 24, 1),
        ("vision", "bea"): (0.5, 1, 1),
    }
    last = {row.user: row.gpu_hours for row in house.sharing.used(now - 2 * HOUR, now)}
    assert last == {"ann": 2, "bea": 0.5}
    assert house.sharing.used(now, now) == []


def test_an_attempt_in_which_the_clock_was_set_back_counts_as_nothing(house: House) -> None:
    house.begun("a", "vision", 2)
    start = house.clock.real()
    house.clock._now = start - HOUR
    house.ends("a")
    house.wait(hours=3)
    assert [row.gpu_hours for row in house.sharing.used(start - 2 * HOUR, house.clock.real())] == [0]
    assert house.sharing.spent(house.clock.real(), timedelta(days=7))[("vision", "default")].gpu_seconds == 0


def test_what_was_used_long_ago_counts_less(house: House) -> None:
    house.begun("a", "vision", 2)
    house.wait(hours=1)
    house.ends("a")
    week = timedelta(days=7)
    key = ("vision", "default")
    assert house.sharing.spent(house.clock.real(), week)[key].gpu_seconds == pytest.approx(7200, rel=0.01)
    house.wait(days=7)
    assert house.sharing.spent(house.clock.real(), week)[key].gpu_seconds == pytest.approx(3600, rel=0.01)
    house.wait(days=7000)
    assert house.sharing.spent(house.clock.real(), week) == {}
