"""Quota windows by the clock on the wall, also on the days when it changes, and what a quota forbids for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbox.scheduler.policy import Need, Quota, State, Window, decide, impossible, span
from tests.scheduler.policy_world import BOX, job

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = Window(frozenset(range(5)), time(9), time(18), "Europe/Berlin")
ALL = frozenset(range(7))


def local(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


def hours(window: Window, text: str) -> float:
    """How long the window is open that is open then."""
    found = span(window, local(text))
    assert found is not None
    return (found[1] - found[0]) / timedelta(hours=1)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-01-05T08:59:59", False),
        ("2026-01-05T09:00:00", True),
        ("2026-01-05T17:59:59", True),
        ("2026-01-05T18:00:00", False),
        ("2026-01-10T12:00:00", False),
        ("2026-07-06T09:00:00", True),
    ],
)
def test_office_hours_are_those_of_the_zone_in_winter_and_summer(moment: str, is_open: bool) -> None:
    assert (span(OFFICE, local(moment)) is not None) == is_open


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = Window(frozenset({4}), time(22), time(6), "Europe/Berlin")
    assert span(night, local("2026-01-10T05:59:00")) is not None, "Saturday morning is Friday's night"
    assert span(night, local("2026-01-09T05:00:00")) is None
    assert hours(Window(zone="Europe/Berlin"), "2026-01-05T12:00") == 24


def test_both_changes_of_summer_time_are_right() -> None:
    """Clocks in Berlin go from 2 to 3 on 29 March 2026, and from 3 to 2 on 25 October 2026."""
    night = Window(ALL, time(0), time(6), "Europe/Berlin")
    assert [hours(night, f"{day}T01:00") for day in ("2026-03-28", "2026-03-29", "2026-10-25")] == [6, 5, 7]
    day = Window(zone="Europe/Berlin")
    assert [hours(day, f"{date}T12:00") for date in ("2026-03-29", "2026-10-25")] == [23, 25]


def test_a_time_that_the_clock_skips_is_the_moment_at_which_it_does() -> None:
    skipped = Window(ALL, time(2, 30), time(6), "Europe/Berlin")
    assert span(skipped, local("2026-03-29T03:00")) == (local("2026-03-29T03:00"), local("2026-03-29T06:00"))
    assert span(Window(ALL, time(2), time(2, 30), "Europe/Berlin"), local("2026-03-29T03:10")) is None


def test_a_time_that_the_clock_shows_twice_is_the_first() -> None:
    early = Window(ALL, time(0), time(2, 30), "Europe/Berlin")
    late = Window(ALL, time(2, 30), time(6), "Europe/Berlin")
    assert span(early, local("2026-10-25T02:20")) is not None
    assert span(early, local("2026-10-25T02:20", fold=1)) is None
    assert span(late, local("2026-10-25T02:20", fold=1)) is not None


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.integers(0, 366 * 24 * 4),
)
def test_a_window_and_its_complement_cover_every_moment_once(hour: int, minute: int, zone: str, quarter: int) -> None:
    cut = time(hour, minute)
    windows = (
        [Window(ALL, time(0), cut, zone), Window(ALL, cut, time(0), zone)] if cut != time(0) else [Window(zone=zone)]
    )
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarter)
    assert sum(span(window, moment) is not None for window in windows) == 1


def test_a_quota_holds_in_its_window_and_a_decision_says_when_it_changes() -> None:
    noon, evening = local("2026-01-05T12:00"), local("2026-01-05T18:00")
    jobs = tuple(job(f"j{n}", Need(gpus=1), submitted_at=noon) for n in range(4))
    state = State(BOX, jobs, quotas=(Quota("everyone", gpus=1, windows=(OFFICE,)),))
    first = decide(state, noon)
    assert len(first.starts) == 1
    assert first.look_at == evening
    assert len(decide(state, evening).starts) == 4


def test_what_a_quota_forbids_for_ever_is_told_beforehand_and_what_it_forbids_for_hours_is_not() -> None:
    always, office = Quota("red", gpus=1), Quota("red", gpus=1, windows=(OFFICE,))
    rest = Quota(
        "red",
        gpus=1,
        windows=(
            Window(frozenset({6, 0, 1, 2, 3, 4}), time(18), time(9), "Europe/Berlin"),
            Window(frozenset({5, 6}), zone="Europe/Berlin"),
        ),
    )
    state = State(BOX)

    def forbids(*quotas: Quota) -> bool:
        reason = impossible(Need(gpus=2), replace(state, quotas=quotas), team="red")
        assert reason is None or (reason.kind, reason.asked, reason.free) == ("team_quota", 2, 1)
        return reason is not None

    assert forbids(always)
    assert not forbids(office)
    assert forbids(office, rest), "the two leave no hour of the week"
    assert not forbids(replace(always, borrowable=True))
    assert not forbids(replace(always, team="blue"))


def test_what_the_box_can_never_give_is_told_with_what_it_has() -> None:
    def kind(need: Need) -> str | None:
        reason = impossible(need, State(BOX))
        return None if reason is None else reason.kind

    assert kind(Need(gpus=4, cpus=8, memory_gb=32)) is None
    assert kind(Need(gpus=5)) == "gpus"
    assert kind(Need(cpus=9)) == "cpus"
    assert kind(Need(memory_gb=33)) == "memory"
    assert kind(Need(gpu_memory_gb=17)) == "gpu_memory"
