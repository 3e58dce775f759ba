"""Each rule of the policy in the situation that it is there for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlbox.scheduler.policy import (
    Box,
    Capacity,
    Decision,
    Device,
    Need,
    Preemption,
    Queue,
    Quota,
    Rules,
    Running,
    State,
    Usage,
    Waiting,
    charge,
    decay,
    decide,
)
from tests.scheduler.policy_world import BOX, NOW, ago, busy, job

ONE, TWO, FOUR = Need(gpus=1), Need(gpus=2), Need(gpus=4)


def decision(waiting: list[Waiting], running: list[Running] | None = None, **more: Any) -> Decision:
    """Those that say nothing else were submitted in this order, just now."""
    queue = [
        replace(one, submitted_at=ago(seconds=60 - at)) if one.submitted_at == NOW else one
        for at, one in enumerate(waiting)
    ]
    return decide(State(more.pop("box", BOX), tuple(queue), tuple(running or ()), **more), NOW)


def started(waiting: list[Waiting], running: list[Running] | None = None, **more: Any) -> list[str]:
    return [start.job_id for start in decision(waiting, running, **more).starts]


def stopped(waiting: list[Waiting], running: list[Running], **more: Any) -> list[tuple[str, str, str]]:
    found = decision(waiting, running, **more).preemptions
    return [(stop.job_id, stop.for_job, stop.cause) for stop in found]


# -- order ------------------------------------------------------------------------------------------------------------


def test_urgent_goes_first_and_equals_in_the_order_of_submission() -> None:
    queue = [job("a"), job("b", priority="low"), job("c", priority="urgent"), job("d", priority="high"), job("e")]
    assert started(queue) == ["c", "d", "a", "e", "b"]


def test_a_job_rises_by_one_priority_for_each_twelve_hours_of_waiting() -> None:
    old = job("old", ONE, priority="low", submitted_at=ago(hours=25))
    new = [job("high", ONE, priority="high"), job("normal", ONE, priority="normal")]
    order = started([*new, old])
    assert order == ["old", "high", "normal"], "as high as the high one, and before it"
    older = replace(old, submitted_at=ago(hours=47))
    assert started([job("urgent", ONE, priority="urgent"), older]) == ["urgent", "old"], "not as high as an urgent one"
    assert started([*new, replace(old, queued_at=ago(hours=1))]) == ["high", "normal", "old"]


def test_what_is_overdue_goes_before_the_urgent_in_the_order_it_came() -> None:
    late = [job("b", submitted_at=ago(days=3)), job("a", priority="low", submitted_at=ago(days=4))]
    assert started([job("urgent", priority="urgent"), *late]) == ["a", "b", "urgent"]


def test_the_team_that_used_less_of_late_goes_first_and_a_larger_share_is_used_up_later() -> None:
    queue = [job("red", ONE, team="red"), job("blue", ONE, team="blue")]
    used = Usage(NOW, {"red": 7200, "blue": 3600})
    assert started(queue, teams=used) == ["blue", "red"]
    assert started(queue, teams=used, shares={"red": 3}) == ["red", "blue"]


def test_what_gets_free_at_once_does_not_all_go_to_one_team() -> None:
    queue = [
        job(f"{team}{n}", ONE, team=team, submitted_at=ago(minutes=9 - n)) for team in ("red", "blue") for n in range(4)
    ]
    assert started(queue) == ["blue0", "red0", "blue1", "red1"]


def test_a_queue_gets_of_the_box_by_its_weight() -> None:
    queue = [job(f"{name}{n}", ONE, queue=name) for name in ("experiments", "production") for n in range(4)]
    queues = {"production": Queue("production", weight=3), "experiments": Queue("experiments")}
    order = started(queue, queues=queues)
    assert sorted(name[:-1] for name in order) == ["experiments", "production", "production", "production"]


def test_who_had_to_give_way_is_at_the_front_of_its_class() -> None:
    queue = [job("first", ONE), job("again", ONE, front=True), job("high", ONE, priority="high")]
    assert started(queue) == ["high", "again", "first"]


# -- placing ----------------------------------------------------------------------------------------------------------


def test_shares_are_packed_onto_the_fullest_gpu_and_leave_the_others_whole() -> None:
    half = Need(gpus=0.5)
    found = decision([job("a", half), job("b", half), job("c", Need(gpus=0.25)), job("d", ONE)])
    assert [start.devices for start in found.starts] == [("G0",), ("G0",), ("G1",), ("G2",)]
    assert decision([job("e", half)], [busy("r", Need(gpus=0.25), "G3")]).starts[0].devices == ("G3",)


def test_by_memory_a_job_takes_the_fullest_gpu_that_has_it_free() -> None:
    box = Box((Device("small", 0, 16), Device("large", 1, 80)), cpus=8, memory_gb=32)
    found = decision(
        [job("a", Need(gpu_memory_gb=12)), job("b", Need(gpu_memory_gb=12)), job("c", Need(gpu_memory_gb=70))], box=box
    )
    assert [start.devices for start in found.starts] == [("small",), ("large",)], "c has not 70 of the 68 GB"


def test_a_gpu_that_another_process_uses_is_left_alone_and_memory_of_served_models_is_not_given_twice() -> None:
    box = Box((Device("taken", 0, 80, taken=True), Device("serving", 1, 80, reserved_gb=50)), cpus=8, memory_gb=32)
    assert started([job("a", Need(gpus=0.5))], box=box) == []
    assert started([job("a", Need(gpu_memory_gb=30))], box=box) == ["a"]
    assert started([job("a", ONE), job("b", Need(gpu_memory_gb=1))], box=box) == ["a"]
    assert started([job("a", Need(gpus=1, gpu_memory_gb=40))], box=box) == []


def test_whole_gpus_without_served_models_are_taken_first() -> None:
    box = Box((Device("serving", 0, 80, reserved_gb=5), Device("free", 1, 80)), cpus=8, memory_gb=32)
    assert decision([job("a", ONE)], box=box).starts[0].devices == ("free",)


# -- backfill ---------------------------------------------------------------------------------------------------------


def test_a_small_job_does_not_push_a_large_one_back() -> None:
    assert started([job("large", FOUR), job("small", ONE)], [busy("r", ONE, "G0")]) == []


def test_a_job_passes_the_head_with_what_the_head_is_not_short_of() -> None:
    running = [busy("r", ONE, "G0")]
    assert started([job("head", Need(gpus=4, cpus=4)), job("report", Need(cpus=4))], running) == ["report"]
    assert started([job("head", Need(gpus=4, cpus=4)), job("report", Need(cpus=5))], running) == []


def test_with_time_limits_a_job_passes_if_it_ends_before_the_head_can_start_or_leaves_enough() -> None:
    running = [busy("r", TWO, "G0", "G1", expected_end=NOW + timedelta(hours=1))]
    head = job("head", Need(gpus=3))
    assert started([head, job("short", ONE, limit_seconds=3600)], running) == ["short"]
    assert started([head, job("long", ONE, limit_seconds=3601)], running) == ["long"], "of four, one is left over"
    assert started([head, job("long", TWO, limit_seconds=3601)], running) == []
    assert started([head, job("long", ONE), job("longer", ONE)], running) == ["long"]
    assert started([head, job("long", ONE)], [replace(running[0], expected_end=None)]) == []


def test_a_job_that_checkpoints_fills_a_gap_and_yields_once_the_head_can_start() -> None:
    head, filler = job("head", FOUR), job("filler", ONE, checkpoints=True)
    first = decision([head, filler], [busy("r", TWO, "G0", "G1")])
    assert [(start.job_id, start.yields_to) for start in first.starts] == [("filler", ("head",))]
    fills = busy("filler", ONE, "G2", checkpoints=True, yields_to=("head",))
    assert stopped([head], [busy("r", TWO, "G0", "G1"), fills]) == [], "in vain: two more are missing"
    assert stopped([head], [fills]) == [("filler", "head", "filling")]
    assert stopped([job("later", FOUR)], [fills]) == [], "it was not there when the gap was filled"
    assert started([head, filler], [busy("r", TWO, "G0", "G1")], rules=Rules(fill=False)) == []
    assert started([head, replace(filler, preemptible=False)], [busy("r", TWO, "G0", "G1")]) == []


def test_what_fills_a_gap_leaves_the_quota_and_the_queue_of_whoever_waits_alone() -> None:
    """The head would else wait for its own filler: by the limit that both count for, not for the GPUs."""
    head, filler = job("head", FOUR, team="red"), job("filler", ONE, team="red", checkpoints=True)
    running = [busy("r", TWO, "G0", "G1", team="blue")]
    for limit in (Quota("red", gpus=4), Quota("red", gpus=4, borrowable=True)):
        assert started([head, filler], running, quotas=(limit,)) == []
        assert started([head, replace(filler, team="green")], running, quotas=(limit,)) == ["filler"]
    of_one = {"default": Queue("default", max_running=2)}
    assert started([head, job("cpu", Need(cpus=1), team="blue")], running, queues=of_one) == []
    assert started([head, job("cpu", Need(cpus=1), team="blue", queue="other")], running, queues=of_one) == ["cpu"]


def test_what_fills_a_gap_does_not_change_who_is_at_the_head() -> None:
    """Its team has not had more of the box by it: it is on loan."""
    running = [busy("r", Need(gpus=0.5), "G0", team="blue")]
    head, next_up = job("head", FOUR, team="green"), job("next", TWO, team="red")
    fills = busy("filler", TWO, "G1", "G2", team="green", checkpoints=True, yields_to=("head", "next"))
    assert decision([head, next_up], [*running, fills]) == decision(
        [head, next_up], [*running, replace(fills, team="x")]
    )
    assert stopped([head, next_up], [*running, fills]) == []


# -- preemption -------------------------------------------------------------------------------------------------------


def test_an_urgent_job_stops_lower_ones_when_nothing_else_helps() -> None:
    running = [busy("a", TWO, "G0", "G1"), busy("b", ONE, "G2")]
    assert stopped([job("urgent", ONE, priority="urgent")], running) == []
    assert stopped([job("urgent", TWO, priority="urgent")], running) == [("b", "urgent", "priority")]
    assert stopped([job("high", TWO, priority="high")], running) == []


def test_the_victims_are_those_that_lose_least_then_of_low_priority_then_the_youngest() -> None:
    full = [busy(f"r{n}", ONE, f"G{n}", started_at=ago(hours=9)) for n in range(4)]
    urgent = [job("urgent", ONE, priority="urgent")]
    saved = [*full[:2], replace(full[2], checkpoint_at=ago(minutes=5)), full[3]]
    assert stopped(urgent, saved) == [("r2", "urgent", "priority")]
    assert stopped(urgent, [replace(full[0], priority="low"), *full[1:]]) == [("r0", "urgent", "priority")]
    younger = replace(full[3], started_at=ago(hours=9) + timedelta(seconds=20))
    assert stopped(urgent, [*full[:3], younger]) == [("r3", "urgent", "priority")]


def test_no_more_are_stopped_than_it_takes() -> None:
    running = [
        busy("half1", Need(gpus=0.5), "G0", started_at=ago(minutes=1)),
        busy("half2", Need(gpus=0.5), "G0", started_at=ago(hours=5)),
        *(busy(f"r{n}", ONE, f"G{n}", started_at=ago(hours=2)) for n in (1, 2, 3)),
    ]
    found = stopped([job("urgent", ONE, priority="urgent")], running)
    assert [name for name, _, _ in found] == ["r1"], "half of a GPU would not help"


@pytest.mark.parametrize("spared", [{"preemptible": False}, {"progressed": False}, {"priority": "urgent"}])
def test_whom_an_urgent_job_does_not_stop(spared: dict[str, Any]) -> None:
    running = [busy("r", FOUR, "G0", "G1", "G2", "G3", **spared)]
    assert stopped([job("urgent", ONE, priority="urgent")], running) == []


def test_nobody_is_stopped_for_what_gets_free_in_time_anyway() -> None:
    urgent = [job("urgent", ONE, priority="urgent")]
    running = [busy(f"r{n}", ONE, f"G{n}") for n in range(4)]
    ending = [replace(running[0], stopping=True, stop_by=NOW + timedelta(seconds=9)), *running[1:]]
    assert stopped(urgent, ending) == []
    limited = [replace(running[0], expected_end=NOW + timedelta(seconds=8)), *running[1:]]
    assert stopped(urgent, limited) == []


def test_what_went_before_an_urgent_job_as_overdue_is_not_stopped_for_it() -> None:
    urgent = job("urgent", ONE, priority="urgent", submitted_at=ago(minutes=5))
    late = busy("late", FOUR, "G0", "G1", "G2", "G3", started_at=ago(minutes=4))
    assert stopped([urgent], [late]) == []
    assert stopped([replace(urgent, submitted_at=ago(minutes=3))], [late]) == [("late", "urgent", "priority")]


def test_two_urgent_jobs_get_room_at_once_and_what_is_promised_is_not_given_away() -> None:
    running = [busy(f"r{n}", ONE, f"G{n}", started_at=ago(minutes=9 * n + 5)) for n in range(3)]
    queue = [job("u1", TWO, priority="urgent"), job("u2", ONE, priority="urgent"), job("other", ONE)]
    found = decision(queue, running)
    assert found.starts == ()
    assert found.preemptions == (Preemption("r0", "u1", "priority"), Preemption("r1", "u2", "priority"))


def test_an_urgent_job_behind_one_that_is_overdue_takes_its_place_from_others_alone() -> None:
    """It starts at once on what is kept for the other, which gets the victim's instead."""
    wide = job("wide", FOUR, priority="low", submitted_at=ago(days=3))
    running = [busy("r", ONE, "G0"), busy("kept", ONE, "G1", preemptible=False)]
    found = decision([wide, job("urgent", ONE, priority="urgent"), job("other", ONE)], running)
    assert found.preemptions == (Preemption("r", "urgent", "priority"),)
    assert [(start.job_id, start.devices) for start in found.starts] == [("urgent", ("G2",))]


# -- limits and quotas ------------------------------------------------------------------------------------------------


def test_a_queue_holds_no_more_than_its_limits() -> None:
    jobs = [job(f"j{n}", ONE, queue="q") for n in range(4)]
    assert len(started(jobs, queues={"q": Queue("q", max_gpus=2)})) == 2
    assert len(started(jobs, queues={"q": Queue("q", max_running=3)})) == 3
    others = [job("other", ONE, queue="else")]
    assert started([*jobs, *others], queues={"q": Queue("q", max_running=0)}) == ["other"], (
        "those that may not hold up nobody"
    )


def test_a_team_holds_no_more_than_its_quota_a_share_or_a_number() -> None:
    jobs = [job(f"j{n}", ONE, team="red") for n in range(4)]
    assert len(started(jobs, quotas=(Quota("red", gpus=3),))) == 3
    assert len(started(jobs, quotas=(Quota("red", share=0.5),))) == 2
    assert len(started(jobs, quotas=(Quota("red", gpus=3), Quota("red", gpus=1)))) == 1
    assert len(started([replace(one, need=Need(cpus=1)) for one in jobs], quotas=(Quota("red", gpus=0),))) == 4


def test_a_quota_may_be_borrowed_while_others_idle_and_is_given_back_first() -> None:
    quota = (Quota("red", gpus=1, borrowable=True),)
    jobs = [job(f"red{n}", ONE, team="red") for n in range(4)]
    assert len(started(jobs, quotas=quota)) == 4
    assert started([*jobs, job("blue", FOUR, team="blue")], quotas=quota) == ["red0"], "red keeps its own, not more"
    assert started([replace(one, preemptible=False) for one in jobs], quotas=quota) == ["red0"]
    held = [busy(f"red{n}", ONE, f"G{n}", team="red", started_at=ago(minutes=50 - n)) for n in range(4)]
    assert stopped([job("blue", TWO, team="blue", priority="low")], held, quotas=quota) == [
        ("red3", "blue", "quota"),
        ("red2", "blue", "quota"),
    ]
    assert stopped([job("blue", FOUR, team="blue")], held, quotas=quota) == [], "red0 is within the quota"
    urgent = [job("blue", ONE, team="blue", priority="urgent")]
    low = [busy("low", ONE, "G0", team="green", priority="low", started_at=ago(seconds=1)), *held[1:]]
    assert stopped(urgent, low, quotas=quota)[0][2] == "quota", "before one of lower priority"


def test_an_urgent_job_that_fills_a_gap_above_the_quota_does_not_put_an_older_one_above_it() -> None:
    own = busy("own", Need(gpus=0.5), "G0", team="red")
    fills = busy("fills", ONE, "G1", team="red", priority="urgent", checkpoints=True, yields_to=("blue",))
    quota = (Quota("red", gpus=1, borrowable=True),)
    assert stopped([job("blue", FOUR, team="blue")], [own, fills], quotas=quota) == []


# -- turns ------------------------------------------------------------------------------------------------------------

TURNS = {"turns": Queue("turns", quantum_seconds=600)}


def turns(name: str, need: Need = ONE, **more: Any) -> Waiting:
    return job(name, need, queue="turns", checkpoints=True, **more)


def test_where_jobs_take_turns_who_had_least_goes_first() -> None:
    queue = [turns("much", attained=5000.0), turns("none"), turns("some", attained=700.0)]
    assert started(queue, queues=TURNS) == ["none", "some", "much"]


def test_a_turn_ends_after_a_quantum_for_who_had_less() -> None:
    def run(minutes: float, **more: Any) -> Running:
        started_at = ago(minutes=minutes)
        return busy("r", FOUR, "G0", "G1", "G2", "G3", queue="turns", checkpoints=True, started_at=started_at, **more)

    assert stopped([turns("new")], [run(9)], queues=TURNS) == []
    assert stopped([turns("new")], [run(10)], queues=TURNS) == [("r", "new", "turn")]
    assert stopped([turns("new", attained=5000.0)], [run(10)], queues=TURNS) == [], "it had as much"
    assert stopped([job("new", ONE)], [run(10)], queues=TURNS) == [], "it is not of the queue"
    assert stopped([turns("new")], [replace(run(10), checkpoints=False)], queues=TURNS) == []


def test_the_end_of_a_turn_is_when_to_look_again() -> None:
    running = [busy("r", FOUR, "G0", "G1", "G2", "G3", queue="turns", checkpoints=True, started_at=ago(minutes=4))]
    assert decision([turns("new")], running, queues=TURNS).look_at == NOW + timedelta(minutes=6)
    assert decision([job("a", not_before=NOW + timedelta(seconds=3))]).look_at == NOW + timedelta(seconds=3)
    assert decision([]).look_at is None


# -- usage ------------------------------------------------------------------------------------------------------------


def test_usage_halves_with_every_half_life_and_charging_oftener_comes_to_the_same() -> None:
    week = 7 * 86400.0
    used = Usage(NOW, {"red": 1000.0})
    assert decay(used, NOW + timedelta(weeks=2), week).seconds["red"] == pytest.approx(250)
    once = charge(used, {"red": 2.0}, NOW + timedelta(days=10), week)
    often = used
    for day in range(10):
        often = charge(often, {"red": 2.0}, NOW + timedelta(days=day + 1), week)
    assert often.seconds["red"] == pytest.approx(once.seconds["red"])
    assert charge(used, {"blue": 1.0}, NOW + timedelta(seconds=10), week).seconds["blue"] == pytest.approx(10, abs=0.01)
    assert charge(used, {"red": 1.0}, ago(days=1), week) == used, "a clock that was set back"


def test_capacity_counts_a_device_that_has_left_the_box_for_nothing() -> None:
    assert Capacity(BOX, [busy("r", ONE, "gone")]).place(FOUR) is not None
