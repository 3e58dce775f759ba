"""What a waiting job is told, and who waits for a running one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from mlbox.scheduler.policy import Need, Queue, Quota, Running, State, Waiting, Window, explain, waiting_for
from tests.scheduler.policy_world import BOX, NOW, ago, busy, job

ONE, TWO, FOUR = Need(gpus=1), Need(gpus=2), Need(gpus=4)
UNTIL_SIX = Window(frozenset(range(5)))


def told(waiting: list[Waiting], running: list[Running], **more: object) -> str:
    """In words, to the last that waits."""
    state = State(BOX, tuple(waiting), tuple(running), **more)  # type: ignore[arg-type]
    return explain(state, waiting[-1].id, NOW).words


def test_the_free_ones_the_end_that_frees_more_and_the_quota_are_told_together() -> None:
    running = [busy("81", TWO, "G0", "G1", team="red", expected_end=NOW + timedelta(hours=2, minutes=20))]
    office = Window(frozenset(range(5)), zone="UTC")
    office = replace(office, start=NOW.time().replace(hour=9), end=NOW.time().replace(hour=18))
    quota = Quota("red", gpus=3, windows=(office,))
    running.append(busy("82", ONE, "G2", team="red", expected_end=NOW + timedelta(days=2)))
    assert told([job("83", Need(gpus=3), team="red")], running, quotas=(quota,)) == (
        "1 GPU free, you ask 3; frees about 14:20 when job 81 ends;"
        " your team holds 3 of the 3 GPUs it may have until 18:00"
    )


@pytest.mark.parametrize(
    ("waiting", "running", "words"),
    [
        ([job("a", ONE)], [], "starts now"),
        ([job("a", not_before=NOW + timedelta(minutes=1))], [], "tried again at 12:01"),
        (
            [job("a", FOUR)],
            [busy("r", ONE, "G0")],
            "3 GPUs free, you ask 4; held by job r, and nobody knows until when",
        ),
        (
            [job("a", Need(gpus=0.5))],
            [busy("r", FOUR, "G0", "G1", "G2", "G3", expected_end=NOW + timedelta(days=1))],
            "no GPU has 0.5 of it free, the most is 0; frees about Tue 12:00 when job r ends",
        ),
        (
            [job("a", Need(gpu_memory_gb=12))],
            [busy(f"r{n}", Need(gpu_memory_gb=6), f"G{n}") for n in range(4)],
            "no GPU has 12 GiB free, the most is 10; held by 4 jobs, and nobody knows until when",
        ),
        (
            [job("a", Need(cpus=6, memory_gb=8))],
            [busy("r", Need(cpus=4, memory_gb=30))],
            "4 CPUs free, you ask 6; 2 GiB of memory free, you ask 8; held by job r, and nobody knows until when",
        ),
        (
            [job("head", FOUR, submitted_at=ago(minutes=1)), job("a", ONE)],
            [busy("r", ONE, "G0")],
            "what is free is kept for job head",
        ),
        (
            [job("head", FOUR, submitted_at=ago(minutes=1)), job("a", FOUR)],
            [busy("r", ONE, "G0")],
            "3 GPUs free, you ask 4; held by job r, and nobody knows until when; job head goes first",
        ),
        (
            [job("a", FOUR, priority="urgent")],
            [busy("r", ONE, "G0", grace_seconds=120)],
            "room is being made: job r is stopped by 12:02",
        ),
    ],
)
def test_what_a_job_is_told(waiting: list[Waiting], running: list[Running], words: str) -> None:
    assert told(waiting, running) == words


def test_limits_of_queues_and_borrowed_quotas_are_told() -> None:
    running = [busy("r", TWO, "G0", "G1", queue="q", team="red")]
    mine = job("a", ONE, queue="q")
    assert (
        told([mine], running, queues={"q": Queue("q", max_gpus=2)}) == "the queue q holds 2 of the 2 GPUs it may have"
    )
    assert (
        told([mine], running, queues={"q": Queue("q", max_running=1)}) == "the queue q runs 1 of the 1 jobs it may run"
    )
    others = job("wide", FOUR, submitted_at=ago(minutes=1))
    quota = Quota("red", gpus=2, borrowable=True)
    words = told([replace(others, priority="low"), job("a", ONE, team="red")], running, quotas=(quota,))
    assert words.startswith("your team holds 2 of the 2 GPUs it may have, and others wait for more")


def test_a_job_is_told_the_time_in_the_zone_and_the_names_that_are_asked_for() -> None:
    state = State(BOX, (job("a", FOUR),), (busy("r", ONE, "G0", expected_end=NOW + timedelta(hours=1)),))
    found = explain(state, "a", NOW, zone=ZoneInfo("Europe/Berlin"), names={"r": "resnet"})
    assert found.words == "3 GPUs free, you ask 4; frees about 14:00 when job resnet ends"
    assert found.expected_at == NOW + timedelta(hours=1)
    assert [(reason.kind, reason.asked, reason.free, reason.jobs) for reason in found.reasons] == [
        ("gpus", 4, 3, ("r",))
    ]


def test_who_waits_for_a_running_job_in_the_order_of_the_line() -> None:
    queue = (
        job("b", FOUR),
        job("a", TWO, submitted_at=ago(minutes=1)),
        job("urgent", FOUR, priority="high"),
        job("report", Need(cpus=99)),
    )
    state = State(BOX, queue, (busy("r", Need(gpus=3), "G0", "G1", "G2"), busy("cpu", Need(cpus=1))))
    assert waiting_for(state, "r", NOW) == ("urgent", "a", "b")
    assert waiting_for(state, "cpu", NOW) == ("report",)
    with pytest.raises(KeyError):
        waiting_for(state, "a", NOW)
    with pytest.raises(KeyError):
        explain(state, "r", NOW)
