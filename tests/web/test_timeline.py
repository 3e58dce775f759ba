"""The timeline: which attempts it has, where it draws them, and what it says of other teams."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlbox.records import AttemptSpan, Gpu
from mlbox.web.pages.timeline import LEFT, MOST_LANES, NO_GPU, WIDTH, draw, lanes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SINCE, UNTIL = NOON, NOON + timedelta(hours=6)
minutes = st.integers(-120, 500)


def attempt(start: int, end: int | None, *devices: str, **more: object) -> AttemptSpan:
    """One that ran between these minutes after noon."""
    return AttemptSpan(
        **{"job": "a" * 32, "name": "train", "user": "ada", "team": "everyone", "number": 1, "outcome": "succeeded"}
        | more,  # type: ignore[arg-type]
        started_at=NOON + timedelta(minutes=start),
        ended_at=None if end is None else NOON + timedelta(minutes=end),
        devices=devices,
    )


@given(st.lists(st.tuples(minutes, st.integers(0, 90))))
def test_no_two_attempts_of_a_lane_overlap_and_no_more_lanes_are_used_than_run_at_once(
    spans: list[tuple[int, int]],
) -> None:
    spans.sort()
    times = [(NOON + timedelta(minutes=s), NOON + timedelta(minutes=s + length)) for s, length in spans]
    placed = lanes(times)
    for lane in set(placed):
        own = [time for time, at in zip(times, placed, strict=True) if at == lane]
        assert all(before[1] <= after[0] for before, after in pairwise(own))
    at_once = [sum(one[0] <= start < one[1] or one[0] == start for one in times) for start, _ in times]
    assert max(placed, default=-1) < max(at_once, default=0)


@given(st.lists(st.tuples(minutes, st.none() | st.integers(0, 90), st.sampled_from(["", "g0", "gone"]))))
def test_every_bar_lies_on_its_device_and_within_the_picture(spans: list[tuple[int, int | None, str]]) -> None:
    attempts = [attempt(s, None if n is None else s + n, *[d] * bool(d)) for s, n, d in spans]
    drawn = draw(attempts, [Gpu(uuid="g0", index=0)], SINCE, UNTIL)
    assert len(drawn.bars) + sum(device.hidden for device in drawn.devices) == len(attempts)
    for bar in drawn.bars:
        assert bar.x >= LEFT
        assert bar.x + bar.width <= WIDTH + 2
        assert any(device.y <= bar.y < device.y + device.height for device in drawn.devices)


def test_devices_are_those_there_are_those_that_are_gone_and_none() -> None:
    attempts = [attempt(10, 20), attempt(30, 40, "gone-device"), attempt(30, 40, "g1")]
    drawn = draw(attempts, [Gpu(uuid="g0", index=0), Gpu(uuid="g1", index=1)], SINCE, UNTIL)
    assert [device.name for device in drawn.devices] == ["GPU 0", "GPU 1", NO_GPU, "gone-devic (gone)"]


def test_a_bar_says_how_its_attempt_ended_and_leads_to_its_job() -> None:
    (bar,) = draw([attempt(0, 60, "g0", outcome="preempted", number=2)], [Gpu(uuid="g0", index=0)], SINCE, UNTIL).bars
    assert (bar.kind, bar.text, bar.href) == ("wait", "train", "/jobs/" + "a" * 32)
    assert "attempt 2: preempted" in bar.title
    assert "ada" in bar.title


def test_of_another_teams_job_nothing_is_said_but_that_it_was_there() -> None:
    (bar,) = draw([attempt(0, 60, "g0", job=None, name="", user="", team="")], [], SINCE, UNTIL).bars
    assert (bar.text, bar.href) == ("another team's", None)


def test_what_has_no_lane_is_counted() -> None:
    drawn = draw([attempt(0, 60) for _ in range(MOST_LANES + 3)], [], SINCE, UNTIL)
    assert (len(drawn.bars), drawn.devices[0].hidden) == (MOST_LANES, 3)


def test_the_axis_has_whole_hours() -> None:
    assert [tick.text for tick in draw([], [], SINCE, UNTIL).ticks] == [
        *("12:30", "13:00", "13:30", "14:00", "14:30", "15:00"),
        *("15:30", "16:00", "16:30", "17:00", "17:30"),
    ]
