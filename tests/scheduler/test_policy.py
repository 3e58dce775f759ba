"""The policy: pure, so every rule is checked over many boxes and queues."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlbox.records import Priority
from mlbox.scheduler.policy import RANKS, Box, Capacity, Decision, Device, Need, State, Waiting, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOX = Box((Device("a", 0), Device("b", 1)), cpus=8, memory_gb=32)


def job(name: str, priority: Priority = "normal", need: Need | None = None, **more: Any) -> Waiting:
    return Waiting(name, need or Need(cpus=1, memory_gb=1), NOW, priority, **more)


def decision(queue: list[Waiting], box: Box = BOX) -> Decision:
    return decide(State(box, tuple(queue)), NOW)


def started(queue: list[Waiting], box: Box = BOX) -> list[str]:
    return [start.job_id for start in decision(queue, box).starts]


needs = st.builds(
    Need,
    gpus=st.sampled_from([0, 0.25, 0.5, 1, 2]),
    cpus=st.integers(0, 8),
    memory_gb=st.integers(0, 32),
)
queues = st.lists(st.tuples(st.sampled_from(sorted(RANKS)), needs, st.sampled_from([None, -1, 1])), max_size=12).map(
    lambda rows: [
        job(f"j{n:02}", priority, need, not_before=None if wait is None else NOW + timedelta(seconds=wait))
        for n, (priority, need, wait) in enumerate(rows)
    ]
)


def in_line(queue: list[Waiting]) -> list[Waiting]:
    ready = [job for job in queue if job.not_before is None or job.not_before <= NOW]
    return sorted(ready, key=lambda job: -RANKS[job.priority])


@given(queues)
def test_nothing_is_ever_given_twice(queue: list[Waiting]) -> None:
    by_id = {job.id: job for job in queue}
    free = Capacity(BOX)
    for start in decision(queue).starts:
        need = by_id[start.job_id].need
        assert len(start.devices) == need.count
        free.take(need, start.devices)
    assert min(free.cpus, free.memory_gb, *free.share) >= -1e-9


@given(queues)
def test_the_first_in_line_starts_if_it_fits_at_all(queue: list[Waiting]) -> None:
    line = in_line(queue)
    if line and Capacity(BOX).place(line[0].need) is not None:
        assert line[0].id in started(queue)


@given(queues)
def test_what_starts_out_of_turn_takes_nothing_that_the_waiting_need(queue: list[Waiting]) -> None:
    """Without those that overtook it, a job that waits would still not fit."""
    chosen = {start.job_id: start for start in decision(queue).starts}
    line = in_line(queue)
    for place_in_line, waiting in enumerate(line):
        if waiting.id in chosen:
            continue
        free = Capacity(BOX)
        for ahead in line[:place_in_line]:
            if ahead.id in chosen:
                free.take(ahead.need, chosen[ahead.id].devices)
        overtook = [job for job in line[place_in_line + 1 :] if job.id in chosen]
        assert free.place(waiting.need) is None or not overtook


@given(queues)
def test_nothing_starts_before_its_time(queue: list[Waiting]) -> None:
    early = {job.id for job in queue if job.not_before is not None and job.not_before > NOW}
    assert not early & set(started(queue))


def test_urgent_goes_first_and_equals_in_the_order_of_submission() -> None:
    queue = [job("a"), job("b", "low"), job("c", "urgent"), job("d", "high"), job("e")]
    assert started(queue) == ["c", "d", "a", "e", "b"]


def test_a_small_job_does_not_push_a_large_one_back() -> None:
    assert started([job("large", need=Need(cpus=4)), job("small")], Box((), cpus=3, memory_gb=32)) == []


def test_a_job_without_gpus_passes_one_that_waits_for_a_gpu() -> None:
    taken = Box((Device("a", 0, taken=True),), cpus=8, memory_gb=32)
    queue = [job("training", need=Need(gpus=1)), job("report"), job("part", need=Need(gpus=0.5))]
    assert started(queue, taken) == ["report"]


def test_parts_share_a_gpu_and_leave_the_others_whole() -> None:
    queue = [job("a", need=Need(gpus=0.5)), job("b", need=Need(gpus=0.5)), job("c", need=Need(gpus=1))]
    assert [start.devices for start in decision(queue).starts] == [("a",), ("a",), ("b",)]
